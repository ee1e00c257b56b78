"""Nearest rows: exact search of all rows, or approximate search in a graph.

Both end in `_ranked`, which scores the few candidates again in float64. So a score depends only on
the two vectors, not on batch, block or position, as the last bits of a float32 product do, and
equal vectors have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.graph import Graph
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.rows import FloatRows, Rows

__all__ = ["Gallery", "exact_search", "gallery_of", "graph_search", "places", "unit_queries"]

GRAPH_MOST = 2_000
"""Number of neighbours above which searching the graph is slower than reading every vector."""
FEW_MORE = 10
"""Rows that are asked for beyond the wanted ones: some may be as near as the last of these."""
FEW_ROWS = 8
"""Rows that are copied together where they are at most one in so many; else all are read."""

_SCORES_AT_ONCE = 1 << 22
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
    block = max(1, _SCORES_AT_ONCE // max(len(queries), 1))
    candidates = [_Candidates(k, gallery.rows.margin(query)) for query in queries]
    for start in range(0, len(gallery.rows), block):
        stop = min(start + block, len(gallery.rows))
        products = gallery.rows.products(queries, slice(start, stop))  # (B, stop - start)
        first, end = np.searchsorted(gallery.dead, (start, stop))
        products[:, gallery.dead[first:end] - start] = -np.inf
        for scores, out, best in zip(products, excluded, candidates, strict=True):
            if len(out):
                scores[out[(out >= start) & (out < stop)] - start] = -np.inf
            best.add(scores, start)
    return [
        _ranked(gallery, query, best.rows(), k)
        for query, best in zip(queries, candidates, strict=True)
    ]


class _Candidates:
    """The rows that may be among the `k` nearest, by scores of limited precision."""

    def __init__(self, k: int, margin: float) -> None:
        self._k = k
        self._margin = margin
        self._least = -np.inf
        self._rows: list[NDArray[np.int64]] = []
        self._scores: list[NDArray[np.float64]] = []

    def add(self, scores: NDArray[np.float64], start: int) -> None:
        """Take those of the rows from `start` on that are near enough."""
        if len(scores) > self._k and self._least == -np.inf:
            kth = np.partition(scores, len(scores) - self._k)[len(scores) - self._k]
            self._least = float(kth) - self._margin
        near = np.flatnonzero((scores >= self._least) & (scores > -np.inf))
        self._rows.append(near + start)
        self._scores.append(scores[near].astype(np.float64))
        if sum(map(len, self._rows)) > max(4 * self._k, 1024):
            self._narrow()

    def _narrow(self) -> None:
        rows, scores = np.concatenate(self._rows), np.concatenate(self._scores)
        if len(rows) > self._k:
            kth = np.partition(scores, len(scores) - self._k)[len(scores) - self._k]
            self._least = max(self._least, float(kth) - self._margin)
            near = scores >= self._least
            rows, scores = rows[near], scores[near]
        self._rows, self._scores = [rows], [scores]

    def rows(self) -> NDArray[np.int64]:
        """Return the candidates, ascending."""
        if not self._rows:
            return np.empty(0, dtype=np.int64)
        if len(self._rows) > 1:
            self._narrow()
        return self._rows[0]


def unit_queries(queries: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return queries (B, D) with length 1.

    Raises:
        ValueError: they have another shape than (B, ``dim``), or one is zero or not finite.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float64)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries have shape {queries.shape}, not (B, {dim})")
    norms = np.sqrt((queries * queries).sum(axis=1, keepdims=True))
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError("a query is zero or not finite")
    unit: NDArray[np.float32] = (queries / norms).astype(np.float32)
    return unit


def graph_search(
    gallery: Gallery,
    graph: Graph,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
    *,
    among: NDArray[np.int64] | None = None,
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
        among: the rows that may be found, ascending and alive; all alive ones by default.
    """
    dead = int(np.searchsorted(gallery.dead, graph.rows))
    newer_dead = gallery.dead[dead:]
    allowed = graph.rows - dead if among is None else int(np.searchsorted(among, graph.rows))
    most_out = max((len(out) for out in excluded), default=0)
    wanted = k + most_out
    if allowed < graph.rows:
        # The graph also finds rows that are not allowed: ask for more in proportion, and then some.
        wanted = -(-wanted * graph.rows // max(allowed, 1))
        wanted += wanted // 2
    wanted = min(wanted + FEW_MORE, graph.rows)
    near = graph.nearest(queries, wanted) if 0 < wanted <= GRAPH_MOST else None
    if near is None:
        wide = gallery if among is None else gallery.among(among)
        return exact_search(wide, queries, k, excluded)

    newest = _newer_rows(gallery, graph.rows, newer_dead, among)
    found: list[Neighbours] = []
    for rows, query, out in zip(near, queries, excluded, strict=True):
        candidates = rows
        if among is not None:
            candidates = candidates[_in(among, candidates)]
        elif dead:
            candidates = candidates[~_in(gallery.dead, candidates)]
        if len(out):
            candidates = candidates[~_in(out, candidates)]
        lacking = k - len(candidates)
        if lacking > 0 and len(candidates) < allowed - len(out):
            wide = gallery if among is None else gallery.among(among)
            found += exact_search(wide, query[None], k, [out])
            continue
        if len(newest):
            part = gallery.part(newest)
            [(rows_in_part, _)] = exact_search(part, query[None], k, [places(newest, out)])
            candidates = np.concatenate([candidates, newest[rows_in_part]])
        found.append(_ranked(gallery, query, candidates, k))
    return found


def _newer_rows(
    gallery: Gallery,
    first: int,
    dead: NDArray[np.int64],
    among: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Return the rows from `first` on that may be found."""
    if among is not None:
        return among[np.searchsorted(among, first) :]
    rows = np.arange(first, len(gallery.rows), dtype=np.int64)
    return rows if not len(dead) else np.setdiff1d(rows, dead, assume_unique=True)


def _in(ascending: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are in an ascending array."""
    if not len(ascending):
        return np.zeros(len(rows), dtype=np.bool_)
    places = np.searchsorted(ascending, rows)
    places[places == len(ascending)] = 0
    found: NDArray[np.bool_] = ascending[places] == rows
    return found


def places(ascending: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where rows are in an ascending array, without those that are not."""
    there = rows[_in(ascending, rows)]
    return np.searchsorted(ascending, there).astype(np.int64)


def _ranked(
    gallery: Gallery, query: NDArray[np.float32], candidates: NDArray[np.int64], k: int
) -> Neighbours:
    """Return the best `k` of the candidate rows by cosine similarity, then by order."""
    exact_query = query.astype(np.float64)
    exact_query /= np.sqrt((exact_query * exact_query).sum())
    scores = np.empty(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), _ROWS_AT_ONCE):
        part = gallery.rows.take(candidates[start : start + _ROWS_AT_ONCE]).astype(np.float64)
        # Not a matrix product: NumPy sums each row separately, in a fixed order.
        norms = np.sqrt((part * part).sum(axis=1))
        scores[start : start + len(part)] = (part * exact_query).sum(axis=1) / norms
    if len(candidates) > 4 * k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates, scores = candidates[scores >= least], scores[scores >= least]
    best = np.argsort(-scores, kind="stable")
    candidates, scores = candidates[best], scores[best]
    equal = np.flatnonzero(scores[1:] == scores[:-1])
    if len(equal) and equal[0] < k:  # only then is it worth looking up the paths
        tied = np.unique(np.concatenate([equal, equal + 1]))
        ranks = np.zeros(len(candidates), dtype=np.int64)
        ranks[tied] = gallery.order(candidates[tied])
        best = np.lexsort((ranks, -scores))
        candidates, scores = candidates[best], scores[best]
    return candidates[:k], scores[:k]
