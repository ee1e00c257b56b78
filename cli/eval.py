"""`ztcir eval`: how good the answers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.eval_benchmarks import circo, cirr, fashioniq, genecis
from cli.options import Engine, as_json, with_engine
from cli.output import emit_json, measured_with, note, progress_bar, table
from ztcir_sdk.names import METHODS, ORACLE
from ztcir_sdk.path_patterns import expand_paths

if TYPE_CHECKING:
    from ztcir_sdk.evaluation.triplet_evaluation import MethodScores

__all__ = ["evaluate"]

ALL = "all"


@click.group("eval")
def evaluate() -> None:
    """Measure how good the answers are."""


for benchmark in (fashioniq, cirr, circo, genecis):
    evaluate.add_command(benchmark)


@evaluate.command()
@click.argument("more_images", nargs=-1, metavar="[MORE_IMAGES]...")
@click.option(
    "--images",
    required=True,
    multiple=True,
    metavar="FOLDER_OR_TARS",
    help="The gallery: a folder, tar archives, a brace pattern or a glob. Repeatable; more may "
    "follow as arguments, as a shell expands val-*.tar.",
)
@click.option(
    "--triplets",
    "file",
    required=True,
    type=click.Path(path_type=Path),
    help="The queries: lines of JSON with id, kind, reference, text, targets.",
)
@click.option(
    "--method",
    type=click.Choice((*METHODS, ORACLE, ALL)),
    default="composed",
    show_default=True,
    help="How to answer. oracle reads the targets' attributes; all compares every method, and "
    "finds the best weight of sum.",
)
@click.option("--weight", type=float, help="Of the text in --method sum, 0 to 1; default: 0.5.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="NAME.ztcir",
    help="Take vectors of the same pictures from this index, which saves encoding them.",
)
@with_engine
@as_json
def triplets(
    more_images: tuple[str, ...],
    images: tuple[str, ...],
    file: Path,
    method: str,
    weight: float | None,
    index: Path | None,
    engine: Engine,
    as_json: bool,
) -> None:
    """Answer composed queries of a file, and score the answers.

    The gallery is all the pictures; the reference is removed before ranking. R@k is the fraction
    of queries with a right answer among the first k, mAP@10 the mean average precision, divided
    by min(10, right answers).
    """
    from ztcir_sdk.evaluation.triplet_evaluation import evaluate_triplets

    retriever = engine.retriever()
    with progress_bar("Encoding") as progress:
        result = evaluate_triplets(
            retriever,
            expand_paths((*images, *more_images)),
            file,
            methods=(*METHODS, ORACLE) if method == ALL else (method,),
            weight=weight,
            best_sum=method == ALL,
            index=None if index is None else retriever.open_index(index),
            progress=progress,
        )
    for _, sentence in result.failed:
        note(f"failed: {sentence}")

    scores = dict(result.methods)
    if result.sum_best is not None:
        scores["sum_best"] = result.sum_best
    if as_json:
        values: dict[str, Any] = (
            {"methods": {name: one.to_dict() for name, one in scores.items()}}
            if method == ALL
            else scores[method].to_dict()
        )
        emit_json(
            {
                **values,
                "method": method,
                "queries": result.queries,
                "gallery": result.gallery,
                "failed": len(result.failed),
                **measured_with(retriever),
            }
        )
        return
    click.echo(f"{result.queries} queries, {result.gallery} pictures, {retriever.bundle.name}")
    table(("method", "kind", *_names(scores)), _rows(scores))


def _names(scores: Mapping[str, MethodScores]) -> list[str]:
    return list(next(iter(scores.values())).overall)


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
