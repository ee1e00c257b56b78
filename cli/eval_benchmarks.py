"""`ztcir eval fashioniq|cirr|circo|genecis`: what papers print, from the bundle that is shipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Engine, as_json, with_engine
from cli.output import emit_json, measured_with, note, progress_bars, table, write_file
from ztcir_sdk.names import METHODS, PROMPTED_METHODS

if TYPE_CHECKING:
    from types import ModuleType

    from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
    from ztcir_sdk.evaluation.benchmarks.report import BenchmarkReport, Scores
    from ztcir_sdk.retriever import Retriever

__all__ = ["circo", "cirr", "fashioniq", "genecis"]

ALL = "all"
LISTED = 1000
"""Lines about images that are missing or broken, at most."""


def _module(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"ztcir_sdk.evaluation.benchmarks.{name}")


def _print_download_help(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(_module(str(ctx.command.name)).DOWNLOAD_HELP, nl=False)
        ctx.exit()


def _benchmark_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all benchmarks have."""
    for option in (
        as_json,
        with_engine,
        click.option(
            "--html-queries",
            type=click.IntRange(min=1),
            default=60,
            show_default=True,
            help="How many queries the page shows, spread evenly.",
        ),
        click.option(
            "--html",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="OUT.html",
            help="Also write a page of queries with their first 10 images, right ones framed.",
        ),
        click.option(
            "--cache",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Where embeddings are kept for the next run; default: the user's cache.",
        ),
        click.option(
            "--prompt",
            metavar="TEMPLATE",
            help='Of composed and stage1; default: "a photo of $ that {text}".',
        ),
        click.option(
            "--weight", type=float, help="Of the text in --method sum, 0 to 1; default: 0.5."
        ),
        click.option(
            "--method",
            type=click.Choice((*METHODS, ALL)),
            default="composed",
            show_default=True,
            help="How to answer; all compares every method.",
        ),
        click.option(
            "--root",
            required=True,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="The data set's folder; see --download-help.",
        ),
        click.option(
            "--download-help",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_download_help,
            help="Say where the data set comes from and how its folder must look, and exit.",
        ),
    ):
        command = option(command)
    return command


def _split_option(help: str) -> Callable[..., Any]:
    return click.option(
        "--split", type=click.Choice(("val", "test")), default="val", show_default=True, help=help
    )


_out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Where --split test writes what to submit; default: the current folder.",
)


@click.command()
@_benchmark_options
@_split_option("val: the test split's targets are not published.")
@click.pass_context
def fashioniq(ctx: click.Context, /, **options: Any) -> None:
    """Measure R@10 and R@50 on FashionIQ, by both protocols in use.

    original ranks every image of a category's split, val_union only candidates and targets. Both
    captions are joined in both orders; both is the mean of the two embeddings, which papers print.
    """
    _evaluate(ctx, **options)


@click.command()
@_benchmark_options
@_out_option
@_split_option("test writes the two files that its server takes.")
@click.pass_context
def cirr(ctx: click.Context, /, **options: Any) -> None:
    """Measure R@1, 5, 10, 50 and R_subset@1, 2, 3 on CIRR; the reference is left out."""
    _evaluate(ctx, **options)


@click.command()
@_benchmark_options
@_out_option
@_split_option("test writes the file that its server takes.")
@click.pass_context
def circo(ctx: click.Context, /, **options: Any) -> None:
    """Measure mAP@5, 10, 25, 50 on CIRCO, with all right answers, and by semantic aspect.

    R@k counts only the image that a caption was written for. A prompt may use the annotations'
    shared concept, as in "a photo of $ , {concept} , that {text}"; the default does not.
    """
    _evaluate(ctx, **options)


@click.command()
@_benchmark_options
@_split_option("val: there is one set of queries.")
@click.pass_context
def genecis(ctx: click.Context, /, **options: Any) -> None:
    """Measure R@1, 2, 3 on GeneCIS, in each query's own gallery, by task."""
    _evaluate(ctx, **options)


def _evaluate(
    ctx: click.Context,
    *,
    root: Path,
    split: str,
    method: str,
    weight: float | None,
    prompt: str | None,
    cache: Path | None,
    html: Path | None,
    html_queries: int,
    engine: Engine,
    as_json: bool,
    out: Path | None = None,
) -> None:
    """Run one of the benchmarks, and print what it gives."""
    from ztcir_sdk.evaluation.benchmarks.embedding_cache import EmbeddingCache
    from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
    from ztcir_sdk.evaluation.benchmarks.images import UnusableImagesError

    name = str(ctx.command.name)
    benchmark = _module(name)
    run_benchmark: Callable[..., BenchmarkReport] = getattr(benchmark, f"evaluate_{name}")
    if weight is not None and method not in ("sum", ALL):
        raise click.UsageError("--weight is of --method sum: leave it out, or use sum.")
    if prompt is not None and method not in (*PROMPTED_METHODS, ALL):
        raise click.UsageError("--prompt is of --method composed and stage1: leave it out.")
    _require_places(html, out if split == "test" else None)
    retriever = engine.retriever()
    methods = [
        Method(one, benchmark.PROMPT if prompt is None else prompt, weight)
        for one in (retriever.bundle.manifest.methods if method == ALL else (method,))
    ]
    with (
        EmbeddingCache(
            cache,
            image_tower=retriever.image_tower,
            precision=retriever.precision,
            dim=retriever.dim,
        ) as embeddings,
        progress_bars() as progress,
    ):
        run = EmbeddingRun(retriever.encoder, embeddings, name, progress)
        try:
            report = run_benchmark(
                run, root, methods, split=split, answers=html_queries if html else 0
            )
        except UnusableImagesError as error:
            _list_problems(error.problems)
            raise
    written = [] if out is None else _write_submissions(report, out)
    if html is not None:
        write_file(html, _page(report, methods[0], run, retriever).encode())
        note(f"wrote {html}")
    mixed = next((_weight(one) for one in methods if one.name == "sum"), None)
    _print(report, method, mixed, retriever, written, as_json=as_json)


def _list_problems(problems: Sequence[str]) -> None:
    """Name the images that are missing or broken; a single one is named by the error itself."""
    if len(problems) > 1:
        for problem in problems[:LISTED]:
            note(problem)
    if len(problems) > LISTED:
        note(f"and {len(problems) - LISTED} more")


def _weight(method: Method) -> float:
    return 0.5 if method.weight is None else method.weight


def _require_places(html: Path | None, out: Path | None) -> None:
    """Refuse what could not be written in the end, before hours are spent."""
    from ztcir_sdk.errors import ZtcirError

    if html is not None and not html.absolute().parent.is_dir():
        raise ZtcirError(f"{html} cannot be written: make its folder, or choose another place.")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZtcirError(f"{out} cannot be made ({error.strerror}); choose another.") from error


def _write_submissions(report: BenchmarkReport, out: Path) -> list[str]:
    paths = []
    for file, content in report.submissions.items():
        # Compact: CIRR's server takes no more than 5 MB.
        write_file(out / file, json.dumps(content, separators=(",", ":")).encode())
        paths.append(str(out / file))
    return paths


def _page(report: BenchmarkReport, method: Method, run: EmbeddingRun, retriever: Retriever) -> str:
    from ztcir_sdk.pages.benchmark_page import benchmark_page

    prompt = {"composed": report.prompt, "stage1": report.prompt, "mapped": run.mapped_prompt}
    asked = f', "{prompt[method.name]}"' if method.name in prompt else ""
    if method.name == "sum":
        asked = f", weight {_weight(method):g}"
    return benchmark_page(
        f"{report.benchmark} ({report.split}), {retriever.bundle.name}",
        f"method {method.name}{asked}: {len(report.answers)} of {report.queries} queries, "
        f"{report.gallery} images",
        report.answers,
    )


def _print(
    report: BenchmarkReport,
    method: str,
    weight: float | None,
    retriever: Retriever,
    written: list[str],
    *,
    as_json: bool,
) -> None:
    for sentence in report.notes:
        note(sentence)
    if as_json:
        emit_json(
            {
                **report.to_dict(),
                "method": method,
                "weight": weight,
                "submissions": written,
                **measured_with(retriever),
            }
        )
        return
    click.echo(
        f"{report.benchmark} {report.split}: {report.queries} queries, {report.gallery} images, "
        f"{retriever.bundle.name}; in percent"
        if report.scores
        else f"{report.benchmark} {report.split}: {report.queries} queries, {report.gallery} images"
    )
    if report.scores:
        metrics = _metrics(report.scores)
        table(("method", "part", *metrics), _rows(report.scores, metrics))
    for path in written:
        click.echo(f"to submit: {path}")


def _metrics(scores: Mapping[str, Scores]) -> list[str]:
    """Return every metric's name, in the order of a first encounter."""
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
