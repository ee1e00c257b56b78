"""Options of `ztcir search` about its hits: filter, page, near-duplicates, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ztcir_sdk.names import AUTOMATIC, NEAR_DUPLICATE

__all__ = ["nothing_sentence", "result_options", "search_keywords"]

result_options = (
    click.option(
        "--where",
        metavar="FILTER",
        help="Only images whose metadata satisfies a filter, such as \"articleType = 'Shirts' AND "
        'price < 50"; `ztcir index --fields` lists what there is.',
    ),
    click.option(
        "--offset",
        type=int,
        default=0,
        metavar="N",
        help="Skip the first N hits: the second page of ten is --offset 10.",
    ),
    click.option(
        "--unique", is_flag=True, help="Show copies and near-duplicates of an image only once."
    ),
    click.option(
        "--unique-from",
        type=float,
        metavar="COSINE",
        help=f"Similarity of two images from which they count as one, as with --unique; default: "
        f"{NEAR_DUPLICATE}.",
    ),
    click.option(
        "--min-score", type=float, metavar="SCORE", help="Leave out hits with a lower score."
    ),
    click.option(
        "--threshold",
        type=click.Choice([AUTOMATIC]),
        help="Leave out images that are no answer: their scores do not stand out in this index.",
    ),
)


def search_keywords(*, unique: bool, unique_from: float | None, **others: Any) -> dict[str, Any]:
    """Return the values of `result_options` as keywords of `Retriever.search`."""
    return {**others, "unique": unique if unique_from is None else unique_from}


def nothing_sentence(options: Mapping[str, Any]) -> str:
    """Return why there is no hit."""
    if options["offset"]:
        return f"There are no hits after the first {options['offset']}."
    if options["where"]:
        return f"No image that satisfies {options['where']} is an answer."
    if options["threshold"] or options["min_score"] is not None:
        return "No image is an answer: lower --min-score, or leave out --threshold."
    return "The index has no other image."
