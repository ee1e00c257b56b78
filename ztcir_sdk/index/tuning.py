"""Build or extend a graph, and set how it is searched by the recall that it is measured to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.files import hash_file
from ztcir_sdk.index import nearest
from ztcir_sdk.index.graph import FEWEST, GRAPH_EF_CONSTRUCTION, GRAPH_M, Graph
from ztcir_sdk.index.manifest import GraphRecord, Manifest
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.rows import Rows

__all__ = ["RECALL", "build_graph", "measure_effort"]

RECALL = 0.99
"""Recall@10 that `ef` is set for."""
SAMPLE = 400
"""Vectors of the index that are searched for their neighbours: a recall of 0.99 is then measured
to within 0.002."""
NEIGHBOURS = 10
EFFORTS = (FEWEST, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
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
    """Return the least `ef` that reaches `RECALL`, and the recall that it has.

    Half of the queries are vectors of the index, searched for their neighbours without themselves.
    They are easy, as the graph links them to these. The other half are moved, each by the way from
    another vector to its nearest neighbour: as far off as a new image's vector would be. The lower
    recall of both counts. None stands for a recall that cannot be measured, of an index with hardly
    any items.
    """
    alive = np.setdiff1d(np.arange(graph.rows), gallery.dead, assume_unique=True)
    if len(alive) <= NEIGHBOURS:
        return EFFORTS[0], None
    chosen = np.random.default_rng(seed).permutation(len(alive))[:SAMPLE]
    sample = np.sort(alive[chosen])
    queries = gallery.rows.take(sample)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    itself = [sample[i : i + 1] for i in range(len(sample))]
    nearest_rows = [rows for rows, _ in nearest.exact_search(gallery, queries, 1, itself)]
    ways = gallery.rows.take(np.concatenate(nearest_rows)) - queries
    # Of others: the sample is in no order of likeness.
    queries[::2] += np.roll(ways, len(ways) // 2, axis=0)[::2]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), np.float32(1e-6))
    itself = [sample[i : i + 1] if i % 2 else sample[:0] for i in range(len(sample))]
    true = nearest.exact_search(gallery, queries, NEIGHBOURS, itself)
    recall = 0.0
    for ef in EFFORTS:
        graph.ef = ef
        near = nearest.graph_search(gallery, graph, queries, NEIGHBOURS, itself)
        recall = min(_recall(true[::2], near[::2]), _recall(true[1::2], near[1::2]))
        if recall >= RECALL:
            break
    return graph.ef, round(recall, 4)


def _recall(true: list[Neighbours], near: list[Neighbours]) -> float:
    """Return which part of the true neighbours, or of others that are as near, was found."""
    found = [
        # By score: of equal vectors, any is right.
        float((near_scores[: len(scores)] >= scores[-1]).sum()) / len(scores)
        for (_, scores), (_, near_scores) in zip(true, near, strict=True)
        if len(scores)
    ]
    return float(np.mean(found)) if found else 1.0
