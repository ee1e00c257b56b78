"""Nearest rows: exact search of all rows, or approximate search in a graph.

Both end in `ranked`, which scores the few candidates again in float64. So a score depends only on
the two vectors, not on batch, block or position, as the last bits of a float32 product do, and
equal vectors have equal scores.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.graph import Graph
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.rows import ONE_BY_ONE, FloatRows, Rows, row_products
from ztcir_sdk.runtime.cores import cores_at_start, in_threads

__all__ = [
    "Gallery",
    "ascending",
    "exact_search",
    "gallery_of",
    "graph_search",
    "is_in",
    "near_enough",
    "nearest_newer",
    "positions",
    "ranked",
    "unit_queries",
]

MAX_GRAPH_NEIGHBOURS = 2_000
"""Number of neighbours above which searching the graph is slower than reading every vector."""
FEW_MORE = 10
"""Rows that are asked for beyond the wanted ones: some may be as near as the last of these."""
GRAPH_MARGIN = np.float32(5e-3)
"""More than two distances of hnswlib are off together, by lengths of vectors in half precision."""
FEW_ROWS = 8
"""Rows that are copied together where they are at most one in so many; else all are read."""

BYTES_A_THREAD = 1 << 23
"""Bytes of rows that are worth a thread of their own: they take 0.3 ms, and waking it 0.1 ms."""
PARTS_A_THREAD = 2
"""Runs of rows for each thread: one that is late, or has a core to itself, takes fewer or more."""

_SCORES_AT_ONCE = 1 << 22
_GROUP = 64
_ROWS_AT_ONCE = 1 << 12  # 16 MB of float64 at D = 512

Order: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Gallery:
    """The rows to search. Those of removed or replaced items are in the files, but dead."""

    rows: Rows
    dead: NDArray[np.int64]
    """Row numbers, ascending."""
    order: Order
    """Ranks of row numbers (n,) among each other; breaks ties."""
    first: int = 0
    """Number of its first row in the gallery that it is part of; see `newer`."""

    @property
    def alive(self) -> int:
        """Number of rows that are not dead."""
        return len(self.rows) - len(self.dead)

    def part(self, rows: NDArray[np.int64]) -> Gallery:
        """Return some rows that are alive as a gallery of their own."""
        return Gallery(
            self.rows.subset(rows), np.empty(0, dtype=np.int64), lambda few: self.order(rows[few])
        )

    def among(self, rows: NDArray[np.int64]) -> Gallery:
        """Return the same rows, all dead but those."""
        out = np.ones(len(self.rows), dtype=np.bool_)
        out[rows] = False
        return Gallery(self.rows, np.flatnonzero(out), self.order)

    def newer(self, first: int) -> Gallery | None:
        """Return the rows from `first` on as a gallery; None if all of them are dead."""
        if first >= len(self.rows):
            return None
        dead = self.dead[np.searchsorted(self.dead, first) :] - first
        if len(dead) == len(self.rows) - first:
            return None
        rows = self.rows.subset(slice(first, None))
        return Gallery(rows, dead, lambda few: self.order(few + first), first)


def gallery_of(vectors: NDArray[np.float32]) -> Gallery:
    """Return vectors (n, D), L2-normalised, as a gallery whose ties rank by row."""
    return Gallery(FloatRows(vectors), np.empty(0, dtype=np.int64), lambda rows: rows)


def exact_search(
    gallery: Gallery,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
) -> list[Neighbours]:
    """Return the nearest `k` alive rows to each of `queries` (B, D), and their scores.

    `queries` are L2-normalised; `excluded` has the excluded rows of each query.
    """
    candidates = [_Candidates(k, gallery.rows.margin(query)) for query in queries]
    block = max(1, _SCORES_AT_ONCE // max(len(queries), 1))
    for start in range(0, len(gallery.rows), block):
        stop = min(start + block, len(gallery.rows))
        products = _products(gallery.rows, queries, start, stop)
        if len(gallery.dead):
            first, end = gallery.dead.searchsorted((start, stop))
            products[:, gallery.dead[first:end] - start] = -np.inf
        for scores, out, best in zip(products, excluded, candidates, strict=True):
            if len(out):
                scores[out[(out >= start) & (out < stop)] - start] = -np.inf
            best.add(scores, start)
    return [
        ranked(gallery, query, best.rows(), k)
        for query, best in zip(queries, candidates, strict=True)
    ]


def _products(
    rows: Rows, queries: NDArray[np.float32], start: int, stop: int
) -> NDArray[np.float32]:
    """Return approximate inner products (B, stop - start) of queries and rows, on many cores.

    Many queries are one matrix product, which has threads of its own.
    """
    products = np.empty((len(queries), stop - start), dtype=np.float32)
    threads = 1
    if len(queries) <= ONE_BY_ONE:
        threads = rows.scanned_bytes * (stop - start) // max(len(rows), 1) // BYTES_A_THREAD
        threads = min(cores_at_start(), threads) if threads > 1 else 1
    if threads == 1:
        rows.products(queries, slice(start, stop), products)
        return products
    count = threads * PARTS_A_THREAD
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    waiting = deque(itertools.pairwise(ends))

    def multiply(thread: int) -> None:
        with contextlib.suppress(IndexError):  # none is left
            while True:
                first, end = waiting.popleft()
                rows.products(queries, slice(first, end), products[:, first - start : end - start])

    in_threads(multiply, range(threads))
    return products


class _Candidates:
    """The rows that may be among the `k` nearest, by scores of limited precision."""

    def __init__(self, k: int, margin: float) -> None:
        self._k = k
        self._margin = margin
        self._least = -np.inf
        self._rows: list[NDArray[np.int64]] = []
        self._scores: list[NDArray[np.float32]] = []

    def add(self, scores: NDArray[np.float32], start: int) -> None:
        """Take those of the rows from `start` on that are near enough."""
        if self._least == -np.inf and len(scores) > self._k:
            self._least = _at_most_the_kth(scores, self._k) - self._margin
        # Without a bound, all that are not dead.
        near = (scores >= self._least if self._least > -np.inf else scores > -np.inf).nonzero()[0]
        self._rows.append(near + start)
        self._scores.append(scores[near])
        if sum(map(len, self._rows)) > max(4 * self._k, 1024):
            self._narrow()

    def _narrow(self) -> None:
        rows, scores = np.concatenate(self._rows), np.concatenate(self._scores)
        if len(rows) > self._k:
            self._least = max(self._least, _kth(scores, self._k) - self._margin)
            near = scores >= self._least
            rows, scores = rows[near], scores[near]
        self._rows, self._scores = [rows], [scores]

    def rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending."""
        if not self._rows:
            return np.empty(0, dtype=np.int64)
        self._narrow()
        return self._rows[0]


def _kth(scores: NDArray[np.float32], k: int) -> float:
    """Return the `k`-th largest of more than `k` scores."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _at_most_the_kth(scores: NDArray[np.float32], k: int) -> float:
    """Return a number that is at most the `k`-th largest of many scores, and near it."""
    groups = len(scores) // _GROUP
    if groups <= 4 * k:
        return _kth(scores, k)
    # At least `k` scores are as large as the largest of `k` groups.
    return _kth(np.maximum.reduce(scores[: groups * _GROUP].reshape(_GROUP, groups), axis=0), k)


def unit_queries(queries: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return queries (B, D) with length 1.

    Raises:
        ValueError: they have another shape than (B, ``dim``), or one is zero or not finite.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float64)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries have shape {queries.shape}, not (B, {dim})")
    norms = np.sqrt(row_products(queries, queries))
    if not all(0 < norm < math.inf for norm in norms.tolist()):
        raise ValueError("a query is zero or not finite")
    unit: NDArray[np.float32] = (queries / norms[:, None]).astype(np.float32)
    return unit


def graph_search(
    gallery: Gallery,
    graph: Graph,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
) -> list[Neighbours]:
    """Return nearly the result of `exact_search`: recall is below 1, but scores are exact.

    Rows that are newer than the graph are searched exactly. So is a query for which the graph finds
    too few rows that are alive and not excluded.

    Args:
        gallery: the rows, with their dead ones.
        graph: the graph of the first of them.
        queries: (B, D), L2-normalised.
        k: number of rows.
        excluded: rows to exclude, for each query.
    """
    dead = int(np.searchsorted(gallery.dead, graph.rows)) if len(gallery.dead) else 0
    alive = graph.rows - dead
    wanted = k + max(map(len, excluded), default=0)
    if dead:
        # The graph also finds rows that are dead: ask for more in proportion, and then some.
        wanted = -(-wanted * graph.rows // max(alive, 1))
        wanted += wanted // 2
    wanted = min(wanted + FEW_MORE, graph.rows)
    near = graph.nearest(queries, wanted) if 0 < wanted <= MAX_GRAPH_NEIGHBOURS else None
    if near is None:
        return exact_search(gallery, queries, k, excluded)

    newer = gallery.newer(graph.rows)
    found: list[Neighbours] = []
    for rows, distances, query, out in zip(*near, queries, excluded, strict=True):
        candidates = rows
        if dead or len(out):
            right = ~(is_in(gallery.dead, rows) | is_in(out, rows))
            candidates, distances = rows[right], distances[right]
        candidates = near_enough(candidates, distances, k)
        if len(candidates) < min(k, alive - len(out)):
            found += exact_search(gallery, query[None], k, [out])
            continue
        if newer is not None:
            candidates = np.concatenate([candidates, nearest_newer(newer, query, k, out)])
        found.append(ranked(gallery, query, candidates, k))
    return found


def near_enough(
    rows: NDArray[np.int64], distances: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Return the rows of a graph that may be among its nearest `k` by exact scores."""
    if len(rows) <= k:
        return rows
    return rows[: distances.searchsorted(distances[k - 1] + GRAPH_MARGIN, "right")]


def nearest_newer(
    newer: Gallery, query: NDArray[np.float32], k: int, excluded: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of the nearest `k` of `Gallery.newer` to a query (D,)."""
    out = excluded[excluded >= newer.first] - newer.first
    [(rows, _)] = exact_search(newer, query[None], k, [out])
    return rows + newer.first


def ascending(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers (n,) in order, each once: `np.unique`, which imports all of `numpy.ma`."""
    ordered = np.sort(numbers)
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def is_in(ascending: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are in an ascending array."""
    if not len(ascending):
        return np.zeros(rows.shape, dtype=np.bool_)
    positions = np.searchsorted(ascending, rows)
    positions[positions == len(ascending)] = 0
    found: NDArray[np.bool_] = ascending[positions] == rows
    return found


def positions(ascending: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where rows are in an ascending array, without those that are not."""
    there = rows[is_in(ascending, rows)]
    return np.searchsorted(ascending, there).astype(np.int64)


def ranked(
    gallery: Gallery, query: NDArray[np.float32], candidates: NDArray[np.int64], k: int
) -> Neighbours:
    """Return the best `k` of the candidate rows by cosine similarity, then by order."""
    exact_query = query.astype(np.float64)
    exact_query /= math.sqrt(exact_query.dot(exact_query))
    if len(candidates) <= _ROWS_AT_ONCE:
        scores = _cosines(gallery.rows.take(candidates), exact_query)
    else:
        scores = np.empty(len(candidates), dtype=np.float32)
        for start in range(0, len(candidates), _ROWS_AT_ONCE):
            part = gallery.rows.take(candidates[start : start + _ROWS_AT_ONCE])
            scores[start : start + len(part)] = _cosines(part, exact_query)
    if len(candidates) > 4 * k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates, scores = candidates[scores >= least], scores[scores >= least]
    best = (-scores).argsort(kind="stable")
    candidates, scores = candidates[best], scores[best]
    equal = (scores[1:] == scores[:-1]).nonzero()[0]
    if len(equal) and equal[0] < k:  # only then is it worth looking up the paths
        tied = np.unique(np.concatenate([equal, equal + 1]))
        ranks = np.zeros(len(candidates), dtype=np.int64)
        ranks[tied] = gallery.order(candidates[tied])
        best = np.lexsort((ranks, -scores))
        candidates, scores = candidates[best], scores[best]
    return candidates[:k], scores[:k]


def _cosines(rows: NDArray[np.float32], query: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the cosines (n,) of rows (n, D) with a query (D,) of length 1."""
    wide = rows.astype(np.float64)
    # Not matrix products: each row is summed separately, in the same order wherever it is.
    cosines = row_products(wide, query)
    cosines /= np.sqrt(row_products(wide, wide))
    return cosines.astype(np.float32)
