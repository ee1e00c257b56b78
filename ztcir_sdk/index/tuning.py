"""Build or extend a graph, and set how it is searched by the recall that it is measured to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.files import hash_file
from ztcir_sdk.index import nearest
from ztcir_sdk.index.graph import GRAPH_EF_CONSTRUCTION, GRAPH_M, MIN_EF, Graph
from ztcir_sdk.index.manifest import GraphRecord, Manifest
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.rows import Rows

__all__ = ["RECALL", "build_graph", "measure_effort"]

RECALL = 0.99
"""Recall@10 that `ef` is set for."""
SAMPLE = 1000
"""Queries that it is measured with. The recall of most is 1, and of a few 0, where the graph hardly
leads to a group of vectors. With a standard deviation of 0.07, the mean is known to within 0.004.
"""
MAX_SAMPLE = 4 * SAMPLE
"""Queries at most, where that is in doubt."""
CONFIDENCE = 1.645
"""Standard errors that the measured recall must be above `RECALL`: then the recall of all such
queries is, 19 times of 20."""
NEIGHBOURS = 10
EFFORTS = (
    MIN_EF,
    24,
    28,
    32,
    40,
    48,
    56,
    64,
    80,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    448,
    512,
    768,
    1024,
)
"""Candidates while searching, `ef`, in the order in which they are tried."""
HARD_M, HARD_EF_CONSTRUCTION = 2 * GRAPH_M, 2 * GRAPH_EF_CONSTRUCTION
HARD_EFFORT = 512
"""A graph that needs a larger `ef` is built again, with more links: its vectors have few
directions in common, as random ones have."""


def build_graph(
    folder: Path, file: Path, rows: Rows, state: Manifest, dead: NDArray[np.int64]
) -> GraphRecord:
    """Build a graph of all rows, or extend the existing one, and save it.

    Args:
        folder: the index.
        file: where to save the graph.
        rows: all rows.
        state: the state that gets the graph; its `graph` is the present one, or None.
        dead: dead rows, ascending.

    Raises:
        ValueError: the present graph is damaged.
    """
    m, ef_construction, graph = GRAPH_M, GRAPH_EF_CONSTRUCTION, None
    if (old := state.graph) is not None:
        m, ef_construction = old.m, old.ef_construction
        graph = Graph.load(folder / old.file, state.dim, old, room=len(rows))
    if graph is None:
        graph = Graph.empty(state.dim, len(rows), m=m, ef_construction=ef_construction)
    graph.extend(rows)
    gallery = nearest.Gallery(rows, dead, lambda few: few)
    ef, recall = measure_effort(gallery, graph, seed=state.generation)
    if m < HARD_M and ef > HARD_EFFORT:
        m, ef_construction = HARD_M, HARD_EF_CONSTRUCTION
        graph = Graph.empty(state.dim, len(rows), m=m, ef_construction=ef_construction)
        graph.extend(rows)
        ef, recall = measure_effort(gallery, graph, seed=state.generation)
    graph.save(file)
    return GraphRecord(
        file.name, file.stat().st_size, hash_file(file), graph.rows, m, ef_construction, ef, recall
    )


def measure_effort(
    gallery: nearest.Gallery, graph: Graph, *, seed: int
) -> tuple[int, float | None]:
    """Return the least `ef` that surely reaches `RECALL`, and the recall that was measured with it.

    More queries are asked where the recall seems to be reached, and only its error leaves a doubt:
    that takes less time than a larger `ef` in every search to come. None stands for a recall that
    cannot be measured, of an index with hardly any items.
    """
    alive = np.setdiff1d(np.arange(graph.rows), gallery.dead, assume_unique=True)
    if len(alive) <= NEIGHBOURS:
        return EFFORTS[0], None
    sample = _Sample(gallery, graph, np.random.default_rng(seed).permutation(alive)[:MAX_SAMPLE])
    sample.extend()
    for ef in EFFORTS:
        graph.ef = ef
        sample.measure_lacking()
        while not sample.is_enough and sample.found.mean() >= RECALL and sample.extend():
            sample.measure_lacking()
        if sample.is_enough:
            sample.measure(np.arange(len(sample.found)))
            if sample.is_enough:
                break
    return graph.ef, round(float(sample.found.mean()), 4)


class _Sample:
    """Queries, and the recall of each in a graph.

    The queries are no vectors of the index, since the graph links each of these to its neighbours
    and finds them more easily than anything else. They are such vectors, each moved by the way from
    another one to its nearest neighbour: about as far off as a new image's vector would be.
    """

    def __init__(self, gallery: nearest.Gallery, graph: Graph, rows: NDArray[np.int64]) -> None:
        self.found = np.empty(0)
        self._gallery = gallery
        self._graph = graph
        self._rows = rows  # whose vectors may be moved
        self._queries = np.empty((0, gallery.rows.dim), dtype=np.float32)
        self._true: list[Neighbours] = []

    @property
    def is_enough(self) -> bool:
        """Whether the recall of all such queries is at least `RECALL`, 19 times of 20."""
        error = self.found.std() / len(self.found) ** 0.5
        return bool(self.found.mean() - CONFIDENCE * error >= RECALL)

    def measure(self, some: NDArray[np.int64]) -> None:
        """Measure the recall of some queries again."""
        none = [self._rows[:0]] * len(some)
        near = nearest.graph_search(
            self._gallery, self._graph, self._queries[some], NEIGHBOURS, none
        )
        self.found[some] = _recalls([self._true[i] for i in some], near)

    def measure_lacking(self) -> None:
        """Measure again those that did not find all: a larger `ef` visits what a smaller one did.

        New queries have found nothing.
        """
        self.measure(np.flatnonzero(self.found < 1))

    def extend(self) -> bool:
        """Take as many new queries again, at first `SAMPLE`; return whether there were any."""
        known = len(self.found)
        rows = np.sort(self._rows[known : max(2 * known, SAMPLE)])
        if not len(rows):
            return False
        queries = _moved_vectors(self._gallery, self._graph, rows)
        none = [rows[:0]] * len(rows)
        self._true += nearest.exact_search(self._gallery, queries, NEIGHBOURS, none)
        self._queries = np.concatenate([self._queries, queries])
        self.found = np.concatenate([self.found, np.zeros(len(rows))])
        return True


def _moved_vectors(
    gallery: nearest.Gallery, graph: Graph, sample: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the vectors (n, D) of some rows, each moved by another's way to its nearest."""
    vectors = gallery.rows.take(sample)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    itself = [sample[i : i + 1] for i in range(len(sample))]
    ef = graph.ef
    # A graph that overlooks the nearest one moves them farther, which makes them harder to find.
    graph.ef = 2 * MIN_EF
    rows = [rows for rows, _ in nearest.graph_search(gallery, graph, vectors, 1, itself)]
    graph.ef = ef
    ways = gallery.rows.take(np.concatenate(rows)) - vectors
    # Each vector is moved by the way of another: the sample is not ordered by likeness.
    vectors += np.roll(ways, len(ways) // 2, axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-6))
    return vectors


def _recalls(true: list[Neighbours], near: list[Neighbours]) -> NDArray[np.float64]:
    """Return which part of its true neighbours, or of others that are as near, each query found."""
    return np.array(
        [
            # By score: of equal vectors, any is right.
            (near_scores[: len(scores)] >= scores[-1]).sum() / len(scores)
            for (_, scores), (_, near_scores) in zip(true, near, strict=True)
        ]
    )
