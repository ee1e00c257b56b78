"""Exact rankings by cosine similarity: of a gallery, in memory or in blocks, or of one per query.

A score depends only on its two vectors: other queries and the size of the blocks change nothing.
Equal scores rank in the order of the gallery. Q queries, N gallery rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.nearest import exact_search, gallery_of

NO_ROW = -1
"""Fills a ranking of a gallery that has fewer rows than the ranking."""

BLOCK = 8192
"""Gallery vectors in memory at a time: 32 MB at D = 1024."""

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Gallery rows (Q, k), nearest first, and their cosine similarities; `NO_ROW` and -inf fill the
ranking of a gallery with fewer than k images."""


def rank(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    *,
    excluded: Sequence[Collection[int]] | None = None,
) -> NDArray[np.int64]:
    """Return the `k` nearest gallery rows of each query: (Q, k) int64, nearest first.

    Args:
        queries: query vectors, (Q, D) float32, L2-normalised.
        gallery: gallery vectors, (N, D) float32, L2-normalised.
        k: length of a ranking, 1 or more; `NO_ROW` fills it if fewer rows are left.
        excluded: for each query, gallery rows to remove before ranking.

    Raises:
        ValueError: `excluded` has another length than `queries`, or `k` is below 1.
    """
    return rank_blocks(queries, [gallery], k, excluded=excluded)[0]


def rank_blocks(
    queries: NDArray[np.float32],
    blocks: Iterable[NDArray[np.float32]],
    k: int,
    *,
    excluded: Sequence[Collection[int]] | None = None,
) -> Ranking:
    """Return the `k` nearest gallery rows of each query, with their scores.

    Memory does not grow with the gallery: it holds one block, at most 64 MB of its scores, and the
    best Q times k rows and scores so far.

    Args:
        queries, k, excluded: as in `rank`.
        blocks: gallery vectors in order, each (n, D) float32, L2-normalised.

    Raises:
        ValueError: as in `rank`.
    """
    if k < 1:
        raise ValueError(f"k is {k}, not 1 or more")
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    if excluded is not None and len(excluded) != len(queries):
        raise ValueError(f"excluded has rows for {len(excluded)} of {len(queries)} queries")
    out: Sequence[Collection[int]] = [()] * len(queries) if excluded is None else excluded
    removed = [np.fromiter(one, dtype=np.int64) for one in out]
    start = 0
    for block in blocks:
        size = len(block)
        gallery = gallery_of(np.ascontiguousarray(block, dtype=np.float32))
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
        queries, k: as in `rank`.
        vectors: vectors of all images, (N, D) float32, L2-normalised.
        galleries: for each query, rows of `vectors` in any order; a row that is listed twice takes
            two places.
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
