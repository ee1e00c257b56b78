"""`ztcir eval`: retrieval quality, on public benchmarks and on triplets of your own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Engine, Group, as_json, parse_columns, weight_option, with_engine
from cli.output import emit_json, measured_with, note, printable, progress_bar, table
from ztcir_sdk.evaluation.benchmarks.registry import BENCHMARKS
from ztcir_sdk.names import EVERY_METHOD, METHODS, ORACLE
from ztcir_sdk.path_patterns import expand_paths

if TYPE_CHECKING:
    from ztcir_sdk.evaluation.triplet_evaluation import MethodScores


class EvalGroup(Group):
    """The registered benchmarks, each imported when it is used, and the other commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return [*BENCHMARKS, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in BENCHMARKS:
            return super().get_command(ctx, cmd_name)
        from cli.eval_benchmarks import benchmark_command

        return benchmark_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing a benchmark."""
        others = {name: one.get_short_help_str(80) for name, one in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl([*BENCHMARKS.items(), *others.items()])


@click.group("eval", cls=EvalGroup)
def evaluate() -> None:
    """Measure retrieval quality, on a public benchmark or on your own triplets.

    \b
    Examples:
      ztcir eval cirr --download-help
      ztcir eval cirr --root CIRR
      ztcir eval triplets --images photos/ --triplets queries.jsonl
    """


@evaluate.command()
@click.argument("more_images", nargs=-1, metavar="[MORE_IMAGES]...")
@click.option(
    "--images",
    required=True,
    multiple=True,
    metavar="FOLDER_OR_TARS",
    help="Gallery: a folder, tar archives, a brace pattern or a glob. Repeatable; more may follow "
    "as arguments, as when a shell expands val-*.tar.",
)
@click.option(
    "--triplets",
    "file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Queries: a JSON object with id, kind, reference, text and targets on each line.",
)
@click.option(
    "--method",
    type=click.Choice((*METHODS, ORACLE, EVERY_METHOD)),
    show_default="the bundle's own, mostly composed",
    help="Search method. oracle uses the targets' attributes as text; all measures every method, "
    "and sum with its best weight.",
)
@weight_option
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="NAME.ztcir",
    help="Index with vectors of the same images, which are then not encoded again.",
)
@click.option(
    "--columns",
    callback=parse_columns,
    metavar="FIELD=COLUMN,...",
    help="Columns or JSON keys of the attributes gender, type and colour for oracle, for example "
    "colour=shade,type=kind.",
)
@with_engine
@as_json
def triplets(
    more_images: tuple[str, ...],
    images: tuple[str, ...],
    file: Path,
    method: str | None,
    weight: float | None,
    index: Path | None,
    columns: dict[str, str] | None,
    engine: Engine,
    as_json: bool,
) -> None:
    """Measure R@1, 5, 10 and mAP@10 on triplets of your own.

    The gallery is all images; the reference is removed before ranking. R@k is the fraction of
    queries with a target among the first k images. mAP@10 is the mean average precision, divided
    by min(10, number of targets).

    \b
    Examples:
      ztcir eval triplets --images photos/ --triplets queries.jsonl
      ztcir eval triplets --images val-*.tar --triplets queries.jsonl --method all
    """
    from ztcir_sdk.evaluation.triplet_evaluation import evaluate_triplets
    from ztcir_sdk.index import Index

    retriever = engine.retriever()
    method = method or retriever.bundle.default_method
    with progress_bar("Encoding") as progress:
        result = evaluate_triplets(
            retriever,
            expand_paths((*images, *more_images)),
            file,
            methods=(*retriever.bundle.methods, ORACLE) if method == EVERY_METHOD else (method,),
            weight=weight,
            best_sum=method == EVERY_METHOD,
            optional_oracle=method == EVERY_METHOD,
            columns=columns,
            index=None if index is None else Index.open(index, image_tower=retriever.image_tower),
            progress=progress,
        )
    for sentence in (*result.notes, *(f"failed: {why}" for _, why in result.failed)):
        note(sentence)

    scores = dict(result.methods)
    if result.sum_best is not None:
        scores["sum_best"] = result.sum_best
    if as_json:
        by_method = {name: one.to_dict() for name, one in scores.items()}
        emit_json(
            {
                **({"methods": by_method} if method == EVERY_METHOD else by_method[method]),
                "method": method,
                "queries": result.queries,
                "gallery": result.gallery,
                "failed": len(result.failed),
                **measured_with(retriever),
            }
        )
        return
    name = printable(retriever.bundle.name)
    click.echo(f"{result.queries} queries, {result.gallery} images, {name}")
    metrics = next(iter(scores.values())).overall
    table(("method", "kind", *metrics), _rows(scores))


def _rows(scores: Mapping[str, MethodScores]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, one in scores.items():
        label = name if one.weight is None else f"{name} ({one.weight:g})"
        kinds = {"all": one.overall, **one.per_kind}
        rows += [
            (label, kind, *(f"{value:.4f}" for value in values.values()))
            for kind, values in kinds.items()
        ]
    return rows
