"""`ztcir eval fashioniq|cirr|circo|genecis`: a command for each public benchmark."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    Command,
    Engine,
    add_options,
    as_json,
    output_option,
    weight_option,
    with_engine,
)
from cli.output import (
    emit_json,
    measured_with,
    note,
    printable,
    progress_bars,
    table,
    write_file,
)
from ztcir_sdk.evaluation.benchmarks.registry import BENCHMARKS, load_benchmark
from ztcir_sdk.names import (
    COMPOSED_PROMPT,
    DEFAULT_METHOD,
    EVERY_METHOD,
    METHODS,
    PROMPT_PRESETS,
    PROMPTED_METHODS,
)

if TYPE_CHECKING:
    from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark
    from ztcir_sdk.evaluation.benchmarks.embedding_run import Method
    from ztcir_sdk.evaluation.benchmarks.report import BenchmarkReport, Scores
    from ztcir_sdk.retriever import Retriever


LISTED = 1000
"""Lines about missing or broken images, at most."""


@functools.cache
def benchmark_command(name: str) -> click.Command:
    """Return the command of one of `BENCHMARKS`."""
    benchmark = load_benchmark(name)

    def command(**options: Any) -> None:
        _evaluate(benchmark, **options)

    options = add_options(*_options(benchmark))
    return click.command(name, cls=Command, help=_help(benchmark))(options(command))


def _help(benchmark: Benchmark[Any]) -> str:
    call = f"  ztcir eval {benchmark.name} "
    examples = ["--download-help", f"--root {benchmark.title}"]
    if "test" in benchmark.splits:
        examples.append(f"--root {benchmark.title} --split test -o submissions/")
    examples.append(f"--root {benchmark.title} --method all --json")
    return "\n".join(
        [
            BENCHMARKS[benchmark.name],
            "",
            benchmark.help,
            "",
            "\b",
            "Examples:",
            *(call + example for example in examples),
        ]
    )


def _options(benchmark: Benchmark[Any]) -> list[Callable[..., Any]]:
    """Return the options of a benchmark's command, in the order of its help."""

    def print_download_help(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(benchmark.download_help, nl=False)
            ctx.exit()

    output = output_option(
        "--out",
        "out",
        type=click.Path(path_type=Path, file_okay=False),
        default=".",
        metavar="FOLDER",
        help="Folder for the files of --split test; default: the current folder.",
    )
    return [
        click.option(
            "--root",
            required=True,
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            help="Folder of the data set; see --download-help.",
        ),
        click.option(
            "--split",
            metavar=f"[{'|'.join(benchmark.splits)}]",  # another one is refused with the reason
            default="val",
            show_default=True,
            help=f"Queries to use; {benchmark.split_help}.",
        ),
        *([output] if "test" in benchmark.splits else []),
        click.option(
            "--method",
            type=click.Choice((*METHODS, EVERY_METHOD)),
            default=DEFAULT_METHOD,
            show_default=True,
            help="Search method; all measures every method of the bundle.",
        ),
        weight_option,
        click.option(
            "--prompt",
            metavar="TEMPLATE",
            help=f"Prompt of --method composed and stage1, or the method whose prompt to use "
            f'({", ".join(PROMPT_PRESETS)}); default: "{COMPOSED_PROMPT}".',
        ),
        click.option(
            "--targetpad",
            is_flag=True,
            help="Pad images of unequal edges first, as SEARLE's published numbers do.",
        ),
        click.option(
            "--cache",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            help="Folder of embeddings for later runs; default: the user's cache.",
        ),
        click.option(
            "--html",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="OUT.html",
            help="Also write a page of queries with their first 10 hits.",
        ),
        click.option(
            "--html-queries",
            type=click.IntRange(min=1),
            default=60,
            show_default=True,
            metavar="N",
            help="Number of queries on the page, spread evenly.",
        ),
        click.option(
            "--download-help",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=print_download_help,
            help="Show where to get the data set and how to arrange its folder, and exit.",
        ),
        with_engine,
        as_json,
    ]


def _evaluate(
    benchmark: Benchmark[Any],
    *,
    root: Path,
    split: str,
    method: str,
    weight: float | None,
    prompt: str | None,
    targetpad: bool,
    cache: Path | None,
    html: Path | None,
    html_queries: int,
    engine: Engine,
    as_json: bool,
    out: Path | None = None,
) -> None:
    """Measure a benchmark and print its report."""
    from ztcir_sdk.evaluation.benchmarks.embedding_cache import EmbeddingCache
    from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
    from ztcir_sdk.evaluation.benchmarks.images import UnusableImagesError
    from ztcir_sdk.preprocess import TARGET_RATIO

    if weight is not None and method not in ("sum", EVERY_METHOD):
        raise click.UsageError("--weight needs --method sum or all.")
    if prompt is not None and method not in (*PROMPTED_METHODS, EVERY_METHOD):
        raise click.UsageError("--prompt needs --method composed, stage1 or all.")
    _require_writable(html, out if split == "test" else None)
    prompt = PROMPT_PRESETS.get(prompt or "", prompt)
    retriever = engine.retriever()
    tower, pad_ratio = retriever.image_tower, TARGET_RATIO if targetpad else None
    if pad_ratio is not None:  # other vectors, which need another cache
        tower = hashlib.sha256(f"{tower} padded {pad_ratio}".encode()).hexdigest()[: len(tower)]
    methods = [
        Method(name, COMPOSED_PROMPT if prompt is None else prompt, weight)
        for name in (retriever.bundle.manifest.methods if method == EVERY_METHOD else (method,))
    ]
    with (
        EmbeddingCache(
            cache,
            image_tower=tower,
            precision=retriever.precision,
            dim=retriever.dim,
        ) as embeddings,
        progress_bars() as progress,
    ):
        run = EmbeddingRun(
            retriever.encoder, embeddings, benchmark.name, progress, pad_ratio=pad_ratio
        )
        try:
            report = benchmark.evaluate(
                run, root, methods, split=split, answers=html_queries if html else 0
            )
        except UnusableImagesError as error:
            _list_problems(error.problems)
            raise
    written = [] if out is None else _write_submissions(report, out)
    if html is not None:
        write_file(html, _page(report, methods[0], run.mapped_prompt, retriever).encode())
        note(f"wrote {html}")
    for sentence in report.notes:
        note(sentence)
    if as_json:
        weights = [one.sum_weight for one in methods if one.sum_weight is not None]
        emit_json(
            {
                **report.to_dict(),
                "method": method,
                "weight": weights[0] if weights else None,
                "submissions": written,
                **measured_with(retriever),
            }
        )
    else:
        _print(report, retriever, written)


def _list_problems(problems: Sequence[str]) -> None:
    """Print a line for each unusable image; the error itself names a single one."""
    if len(problems) > 1:
        for problem in problems[:LISTED]:
            note(problem)
    if len(problems) > LISTED:
        note(f"and {len(problems) - LISTED} more")


def _require_writable(html: Path | None, out: Path | None) -> None:
    """Raise an error now if a file could not be written in the end, after hours of work."""
    from ztcir_sdk.errors import ZtcirError

    if html is not None and not html.absolute().parent.is_dir():
        raise ZtcirError(f"{html} cannot be written: create its folder, or choose another place.")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZtcirError(
                f"{out} cannot be created ({error.strerror}): choose another folder."
            ) from error


def _write_submissions(report: BenchmarkReport, out: Path) -> list[str]:
    paths = []
    for file, content in report.submissions.items():
        # compact, since CIRR's server takes at most 5 MB
        write_file(out / file, json.dumps(content, separators=(",", ":")).encode())
        paths.append(str(out / file))
    return paths


def _page(report: BenchmarkReport, method: Method, mapped_prompt: str, retriever: Retriever) -> str:
    from ztcir_sdk.pages.benchmark_page import benchmark_page

    setting = ""
    if method.name == "mapped" or method.name in PROMPTED_METHODS:
        setting = f', "{mapped_prompt if method.name == "mapped" else report.prompt}"'
    elif method.sum_weight is not None:
        setting = f", weight {method.sum_weight:g}"
    return benchmark_page(
        f"{report.benchmark} ({report.split}), {retriever.bundle.name}",
        f"method {method.name}{setting}: {len(report.answers)} of {report.queries} queries, "
        f"{report.gallery} images",
        report.answers,
    )


def _print(report: BenchmarkReport, retriever: Retriever, written: Sequence[str]) -> None:
    click.echo(
        f"{report.benchmark} {report.split}: {report.queries} queries, {report.gallery} images"
        + (f", {printable(retriever.bundle.name)}; in percent" if report.scores else "")
    )
    if report.scores:
        metrics = _metric_names(report.scores)
        table(("method", "part", *metrics), _rows(report.scores, metrics))
    for path in written:
        click.echo(printable(f"to submit: {path}"))


def _metric_names(scores: Mapping[str, Scores]) -> list[str]:
    """Return the names of all metrics, each where it first appears."""
    names = (name for parts in scores.values() for values in parts.values() for name in values)
    return list(dict.fromkeys(names))


def _rows(scores: Mapping[str, Scores], metrics: list[str]) -> list[tuple[str, ...]]:
    return [
        (
            method,
            " ".join(part),
            *(f"{100 * values[name]:.2f}" if name in values else "" for name in metrics),
        )
        for method, parts in scores.items()
        for part, values in parts.items()
    ]
