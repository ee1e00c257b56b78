"""Exact rankings of a gallery that is read in blocks, and of a gallery for each query.

Scores and ties are those of `metrics.rank`: a score depends only on its two vectors, so the size of
the blocks changes nothing, and equal scores rank in the order of the gallery.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.evaluation.metrics import NO_ROW
from ztcir_sdk.index.vectors import Gallery, exact_search

__all__ = ["BLOCK", "Ranking", "rank_blocks", "rank_own"]

BLOCK = 8192
"""Gallery vectors in memory at a time: 32 MB at D = 1024."""

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Gallery rows (Q, k), nearest first, and their cosine similarities; `NO_ROW` and -inf fill the
ranking of a gallery with fewer than k images."""


def rank_blocks(
    queries: NDArray[np.float32],
    blocks: Iterable[NDArray[np.float32]],
    k: int,
    *,
    excluded: Sequence[Collection[int]] | None = None,
) -> Ranking:
    """Return the `k` nearest gallery rows of each query.

    Memory does not grow with the gallery: it holds one block, at most 64 MB of its scores, and the
    best Q times k rows and scores so far.

    Args:
        queries: query vectors, (Q, D) float32, L2-normalised.
        blocks: gallery vectors in order, each (n, D) float32, L2-normalised.
        k: length of a ranking, 1 or more.
        excluded: for each query, gallery rows to remove before ranking.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, not 1 or more")
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    removed = [np.fromiter(one, np.int64) for one in excluded or [()] * len(queries)]
    start = 0
    for block in blocks:
        size = len(block)
        gallery = Gallery(block, np.ones(size, dtype=np.bool_), np.arange(size, dtype=np.int64))
        local = [one[(one >= start) & (one < start + size)] - start for one in removed]
        for query, (near, near_scores) in enumerate(exact_search(gallery, queries, k, local)):
            # Earlier rows come first, and a stable sort keeps them first among equal scores.
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
    """Return the `k` nearest rows to each query in the query's own gallery.

    Args:
        queries: query vectors, (Q, D) float32, L2-normalised.
        vectors: vectors of all images, (N, D) float32, L2-normalised.
        galleries: for each query, rows of `vectors` in any order; a row that is listed twice takes
            two places.
        k: length of a ranking, 1 or more.
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
