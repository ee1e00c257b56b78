"""Exact rankings of a gallery that passes by in blocks, and of a gallery that each query has.

Scores and ties are those of `metrics.rank`: a score depends on its two vectors alone, so that a
ranking is the same whatever the blocks, and equal scores rank in the order of the gallery.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.evaluation.metrics import NO_ROW
from ztcir_sdk.index.vectors import Gallery, exact_search

__all__ = ["BLOCK", "Ranking", "rank_blocks", "rank_own"]

BLOCK = 8192
"""Gallery vectors that are held at once: 32 MB at D = 1024."""

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Gallery rows (Q, k), nearest first, and their cosine similarities; `NO_ROW` and -inf where the
gallery has fewer."""


def rank_blocks(
    queries: NDArray[np.float32],
    blocks: Iterable[NDArray[np.float32]],
    k: int,
    *,
    excluded: Sequence[Collection[int]] | None = None,
) -> Ranking:
    """Return the `k` nearest rows to each query in a gallery that comes block by block.

    Memory is bounded whatever the gallery: one block, its scores for as many queries as 64 MB
    hold, and what was found so far, Q times k rows and scores.

    Args:
        queries: (Q, D) float32, L2-normalised.
        blocks: the gallery's vectors in order, each (n, D) float32, L2-normalised.
        k: how many, 1 or more.
        excluded: for each query, gallery rows to leave out before ranking.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, not 1 or more")
    count = len(queries)
    rows = np.full((count, k), NO_ROW, dtype=np.int64)
    scores = np.full((count, k), -np.inf, dtype=np.float32)
    out = [np.empty(0, dtype=np.int64)] * count
    if excluded is not None:
        out = [np.fromiter(one, dtype=np.int64) for one in excluded]
    start = 0
    for block in blocks:
        size = len(block)
        gallery = Gallery(block, np.ones(size, dtype=np.bool_), np.arange(size, dtype=np.int64))
        local = [one[(one >= start) & (one < start + size)] - start for one in out]
        for query, (near, near_scores) in enumerate(exact_search(gallery, queries, k, local)):
            # What was found before comes first in the gallery, and a stable sort keeps it first.
            both = np.concatenate([scores[query], near_scores])
            best = np.argsort(-both, kind="stable")[:k]
            rows[query] = np.concatenate([rows[query], near + start])[best]
            scores[query] = both[best]
        start += size
    return rows, scores


def rank_own(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    galleries: Sequence[Collection[int]],
    k: int,
) -> Ranking:
    """Return the `k` nearest to each query in a gallery of its own.

    Args:
        queries: (Q, D) float32, L2-normalised.
        vectors: (N, D) float32, L2-normalised: what the galleries are taken from.
        galleries: for each query, its rows of `vectors`, in any order; one that is named twice
            takes two places.
        k: how many, 1 or more.
    """
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for number, members in enumerate(galleries):
        own = np.array(sorted(members), dtype=np.int64)
        [near], [near_scores] = rank_blocks(queries[number : number + 1], [vectors[own]], k)
        found = near != NO_ROW
        rows[number, found] = own[near[found]]
        scores[number] = near_scores
    return rows, scores
