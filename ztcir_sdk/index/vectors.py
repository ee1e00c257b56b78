"""Nearest vectors: exact search with NumPy, or approximate search in an hnswlib graph.

Rows are positions in the file of vectors. Both searches end in `_ranked`, which scores the few
candidates again in float64. So a score depends only on the two vectors, not on batch, block or
position, as the last bits of a float32 matrix product do, and equal vectors have equal scores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.runtime.cores import available_cores

__all__ = [
    "EXACT_LIMIT",
    "GRAPH_EF_CONSTRUCTION",
    "GRAPH_EF_SEARCH",
    "GRAPH_M",
    "UNIT",
    "Gallery",
    "Graph",
    "exact_search",
    "graph_search",
]

EXACT_LIMIT = 50_000
"""Items up to which search is exact by default: one core searches 60 000 x 256 floats in 2 ms."""

# Recall@10 of 200 queries among 60 000 vectors, D = 256, by `M` and `ef` while searching:
#                                              M=16: 200   400   800    M=32: 200   400   800
#   random unit vectors, the hardest case             .38   .57   .78          .63   .83   .951
#   48 directions and noise, more like images        .974  .995  1.00         .998  1.00  1.00
# Two cores build M=32 in 89 s and 43 s, and search it at ef=800 in 4.5 and 2.1 ms per query.
GRAPH_M = 32
"""hnswlib's links per node."""
GRAPH_EF_CONSTRUCTION = 200
"""hnswlib's candidates while building; its default."""
GRAPH_EF_SEARCH = 800
"""hnswlib's minimum of candidates while searching; more for a larger k."""
UNIT = 1e-6
"""Maximum distance of a stored vector's length from 1."""
GRAPH_MOST = 2_000
"""Number of neighbours above which searching the graph is slower than reading every vector."""

_ONE_BY_ONE = 8  # queries; for more, BLAS's threads save more time than they cost
_SCORES_AT_ONCE = 1 << 24  # 64 MB of float32
_ROWS_AT_ONCE = 1 << 12  # 16 MB of float64 at D = 512


@dataclass(frozen=True)
class Gallery:
    """The vectors to search. Rows of removed or replaced items are in the file, but not alive."""

    vectors: NDArray[np.float32]  # (rows, D), L2-normalised
    alive: NDArray[np.bool_]  # (rows,)
    order: NDArray[np.int64]  # (rows,): rank of a row's path among all paths; breaks ties


class Graph:
    """An hnswlib graph of the first `rows` rows; its labels are rows. Threads may share it."""

    def __init__(self, engine: hnswlib.Index, rows: int) -> None:
        self.rows = rows
        self._engine = engine
        # `ef` is a setting of the engine, not of a query, and is not saved with the graph.
        self._lock = threading.Lock()

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> Graph:
        """Build a graph of `vectors` (rows, D)."""
        rows, dim = vectors.shape
        engine = hnswlib.Index(space="ip", dim=dim)  # inner product of unit vectors: cosine
        engine.init_index(rows, M=GRAPH_M, ef_construction=GRAPH_EF_CONSTRUCTION)
        graph = cls(engine, 0)
        graph.extend(vectors)
        return graph

    @classmethod
    def load(cls, file: Path, dim: int, rows: int) -> Graph:
        """Load a graph. Verify its checksum first, because hnswlib does not check what it reads."""
        engine = hnswlib.Index(space="ip", dim=dim)
        engine.load_index(os.fspath(file), max_elements=rows)
        return cls(engine, rows)

    def extend(self, vectors: NDArray[np.float32]) -> None:
        """Add the rows of `vectors` (rows, D) that are not in the graph yet."""
        with self._lock:
            if len(vectors) > self._engine.get_max_elements():
                self._engine.resize_index(len(vectors))
            for start in range(self.rows, len(vectors), _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, len(vectors))
                self._engine.add_items(
                    vectors[start:stop], np.arange(start, stop), num_threads=available_cores()
                )
            self.rows = len(vectors)

    def save(self, file: Path) -> None:
        """Write the graph, not atomically: use a file that the manifest does not name yet."""
        self._engine.save_index(os.fspath(file))

    def nearest(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64] | None:
        """Return about the nearest `k` rows (B, k) to `queries` (B, D); None if it finds fewer."""
        with self._lock:
            self._engine.set_ef(max(GRAPH_EF_SEARCH, 2 * k))
            try:
                rows, _ = self._engine.knn_query(queries, k=k, num_threads=available_cores())
            except RuntimeError:  # fewer than k are reachable, and hnswlib returns none
                return None
        return np.asarray(rows, dtype=np.int64)


def exact_search(
    gallery: Gallery,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
) -> list[Neighbours]:
    """Return the nearest `k` alive rows to each of `queries` (B, D), and their scores.

    `queries` are L2-normalised; `excluded` has the excluded rows of each query.
    """
    rows, dim = gallery.vectors.shape
    # Twice the maximum error of a float32 inner product of unit vectors: rows within this margin
    # are ranked again below.
    margin = np.float32(2 * (dim * 2.0**-24 + 2 * UNIT))
    dead = np.flatnonzero(~gallery.alive)
    found: list[Neighbours] = []
    block = max(1, _SCORES_AT_ONCE // max(rows, 1))
    for start in range(0, len(queries), block):
        products = _inner_products(queries[start : start + block], gallery.vectors)  # (b, rows)
        products[:, dead] = -np.inf
        for query, scores, out in zip(
            queries[start : start + block],
            products,
            excluded[start : start + block],
            strict=True,
        ):
            scores[out] = -np.inf
            least = np.float32(-np.inf)
            if k < rows:
                least = np.partition(scores, rows - k)[rows - k] - margin
            candidates = np.flatnonzero((scores >= least) & (scores > -np.inf))
            found.append(_ranked(gallery, query, candidates, k))
    return found


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
    """
    alive_in_graph = int(gallery.alive[: graph.rows].sum())
    # The graph also finds dead rows, so request more in proportion, and a few extra.
    wanted = k + max((len(out) for out in excluded), default=0)
    wanted = min(-(-wanted * graph.rows // max(alive_in_graph, 1)) + 10, graph.rows)
    near = graph.nearest(queries, wanted) if 0 < wanted <= GRAPH_MOST else None
    if near is None:
        return exact_search(gallery, queries, k, excluded)

    newer = Gallery(
        gallery.vectors[graph.rows :], gallery.alive[graph.rows :], gallery.order[graph.rows :]
    )
    newest = exact_search(
        newer, queries, k, [out[out >= graph.rows] - graph.rows for out in excluded]
    )
    found: list[Neighbours] = []
    for i, query in enumerate(queries):
        candidates = near[i][gallery.alive[near[i]] & ~np.isin(near[i], excluded[i])]
        out_of_graph = int(gallery.alive[excluded[i][excluded[i] < graph.rows]].sum())
        if len(candidates) < min(k, alive_in_graph - out_of_graph):
            found += exact_search(gallery, queries[i : i + 1], k, excluded[i : i + 1])
        else:
            candidates = np.concatenate([candidates, newest[i][0] + graph.rows])
            found.append(_ranked(gallery, query, candidates, k))
    return found


def _inner_products(
    queries: NDArray[np.float32], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `queries` (b, D) times `vectors` (rows, D): (b, rows) float32."""
    products: NDArray[np.float32]
    if len(queries) > _ONE_BY_ONE:
        products = queries @ vectors.T
        return products
    # Not a matrix product: BLAS would start its own threads, which compete with ONNX Runtime's
    # for the cores, and wait for each other longer than one thread needs.
    products = np.empty((len(queries), len(vectors)), dtype=np.float32)
    for query, row in zip(queries, products, strict=True):
        np.einsum("nd,d->n", vectors, query, out=row)
    return products


def _ranked(
    gallery: Gallery, query: NDArray[np.float32], candidates: NDArray[np.int64], k: int
) -> Neighbours:
    """Return the best `k` of the candidate rows by cosine similarity, then by path."""
    exact_query = query.astype(np.float64)
    exact_query /= np.linalg.norm(exact_query)
    scores = np.empty(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), _ROWS_AT_ONCE):
        part = gallery.vectors[candidates[start : start + _ROWS_AT_ONCE]].astype(np.float64)
        # Not a matrix product: NumPy sums each row separately, in a fixed order.
        norms = np.sqrt((part * part).sum(axis=1))
        scores[start : start + len(part)] = (part * exact_query).sum(axis=1) / norms
    best = np.lexsort((gallery.order[candidates], -scores))[:k]
    return candidates[best], scores[best]
