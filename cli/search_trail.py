"""`ztcir search --then`: several changes, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztcir_sdk.names import PROMPTED_METHODS

if TYPE_CHECKING:
    from ztcir_sdk.answers import SearchOptions
    from ztcir_sdk.decoding import ImageSource
    from ztcir_sdk.index.hit import Hit
    from ztcir_sdk.retriever import Retriever

__all__ = ["search_on"]


def search_on(
    retriever: Retriever,
    source: ImageSource,
    text: str,
    k: int,
    changes: Sequence[tuple[str, str]],
    options: SearchOptions,
) -> tuple[list[Hit], list[str]]:
    """Search, and go on from a hit with each of `changes`.

    Args:
        retriever: the retriever.
        source: the first image.
        text: the first text.
        k: number of hits.
        changes: the rank or path of a hit, and what is asked of it.
        options: of every search; an offset is that of the last one.

    Returns:
        The hits of the last change, and the path of each image that was picked.

    Raises:
        click.UsageError: the method composes nothing, or there is no hit of a rank.
    """
    from ztcir_sdk.answers import check_k

    check_k(k)
    if options.get("method") not in PROMPTED_METHODS:
        raise click.UsageError(f"--then needs --method {' or '.join(PROMPTED_METHODS)}.")
    if not all(change.strip() for _, change in changes):
        raise click.BadParameter(
            "The text is empty: describe what should change.", param_hint="--then"
        )
    ranks = [_rank(hit) for hit, _ in changes]
    step: SearchOptions = {**options, "offset": 0}  # ranks count from the first hit
    reference = retriever.reference(source)
    asked, picked = text, []
    for (hit, change), rank in zip(changes, ranks, strict=True):
        if rank is None:
            picked.append(hit)
        else:
            hits = reference.search(asked, max(k, rank), **step)
            if rank > len(hits):
                raise click.BadParameter(
                    f"There is no hit {rank}, only {len(hits)}: name one of these by its rank or "
                    "path.",
                    param_hint="--then",
                )
            picked.append(hits[rank - 1].path)
        reference = reference.refine(picked[-1], change, asked=asked)
        asked = ""  # the reference keeps it
    return reference.search(k=k, **options), picked


def _rank(hit: str) -> int | None:
    """Return the rank that names a hit; None for a path."""
    if not hit.isdecimal() or Path(hit).is_file():
        return None
    if int(hit) < 1:
        raise click.BadParameter("The first hit has rank 1, not 0.", param_hint="--then")
    return int(hit)
