"""An hnswlib graph: built, extended, loaded when it is worth that, and searched.

hnswlib is the extra ``hnsw``.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import install_hint
from ztcir_sdk.index.graph_check import check_graph
from ztcir_sdk.index.manifest import GraphRecord, Manifest
from ztcir_sdk.index.rows import Rows
from ztcir_sdk.runtime.cores import available_cores

__all__ = [
    "GRAPH_EF_CONSTRUCTION",
    "GRAPH_FROM",
    "GRAPH_M",
    "Graph",
    "GraphBudget",
    "can_use_graphs",
    "graph_notes",
]

GRAPH_FROM = 50_000
"""Items above which a graph is built: one core compares 50 000 x 512 floats in 5 ms."""

GRAPH_M = 16
"""hnswlib's links per node."""
GRAPH_EF_CONSTRUCTION = 100
"""hnswlib's candidates while building."""
MIN_EF = 20
"""Rows that are asked for to find 10, for which `ef` is measured; more need a larger one."""

SCAN_BYTES_PER_SECOND = 10e9
"""Bytes of vectors that a search compares with a query; 7 to 25 were measured."""
LOAD_BYTES_PER_SECOND = 1e9
"""Bytes of a graph that are checked and loaded; 0.8 to 1.5 were measured."""

_ROWS_AT_ONCE = 1 << 14  # 32 MB at D = 512


def can_use_graphs() -> bool:
    """Return whether hnswlib is installed."""
    return importlib.util.find_spec("hnswlib") is not None


def graph_notes(manifest: Manifest) -> list[str]:
    """Return a sentence for an index that would be searched faster if hnswlib were installed."""
    if manifest.items <= GRAPH_FROM or can_use_graphs():
        return []
    return [
        f"A search compares all {manifest.items} images. With hnswlib it follows a graph, which is "
        f"many times faster in a program that searches often: {install_hint('hnsw')}, which needs "
        "a C++ compiler, and index again."
    ]


class Graph:
    """A graph of the first `rows` rows; its labels are rows. Threads may share it."""

    def __init__(self, engine: Any, rows: int, ef: int) -> None:
        self.rows = rows
        self.ef = ef
        self._engine = engine
        # `ef` is a setting of the engine, not of a query, and is not saved with the graph.
        self._lock = threading.Lock()
        self._set: int | None = None

    @classmethod
    def empty(cls, dim: int, rows: int, *, m: int, ef_construction: int) -> Graph:
        """Return a graph without rows, with room for `rows`."""
        engine = _engine(dim)
        engine.init_index(rows, M=m, ef_construction=ef_construction)
        return cls(engine, 0, ef_construction)

    @classmethod
    def load(cls, file: Path, dim: int, record: GraphRecord, *, room: int = 0) -> Graph:
        """Load a graph, with room for at least `room` rows.

        Raises:
            ValueError: the file is not a graph of this record. hnswlib trusts what it reads, so
                every number that it uses as a place in memory is checked before.
        """
        check_graph(file, dim, record)
        engine = _engine(dim)
        engine.load_index(os.fspath(file), max_elements=max(record.rows, room))
        return cls(engine, record.rows, record.ef)

    def extend(self, rows: Rows, *, progress: Callable[[int], None] | None = None) -> None:
        """Add the rows that are not in the graph yet."""
        with self._lock:
            if len(rows) > self._engine.get_max_elements():
                self._engine.resize_index(len(rows))
            for start in range(self.rows, len(rows), _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, len(rows))
                self._engine.add_items(
                    rows.take(slice(start, stop)),
                    np.arange(start, stop),
                    num_threads=available_cores(),
                )
                if progress is not None:
                    progress(stop)
            self.rows = len(rows)

    def save(self, file: Path) -> None:
        """Write the graph, not atomically: use a file that the manifest does not name yet."""
        self._engine.save_index(os.fspath(file))

    def nearest(
        self, queries: NDArray[np.float32], wanted: int, ef: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return about the nearest `wanted` rows (B, wanted) to `queries` (B, D), and how far.

        The distances are in order, and are those of vectors that may be off unit length as far as
        their storage allows. None if fewer are found. `ef` is by default set for the recall that
        was measured.
        """
        if ef is None:
            ef = max(self.ef, wanted, wanted + (wanted - MIN_EF) // 2)
        threads = 1 if len(queries) == 1 else available_cores()
        with self._lock:
            if ef != self._set:
                self._engine.set_ef(ef)
                self._set = ef
            try:
                rows, distances = self._engine.knn_query(queries, k=wanted, num_threads=threads)
            except RuntimeError:  # fewer than that are reachable, and hnswlib returns none
                return None
        return rows.view(np.int64), distances  # from uint64


class GraphBudget:
    """Searches without a graph, until they have taken as long as loading it would.

    So a process that asks a few questions never loads it, and no process takes more than about
    twice the time of the better choice, which cannot be known before.
    """

    def __init__(self) -> None:
        self._spent = 0.0

    def is_worth_loading(self, queries: int, manifest: Manifest, graph: GraphRecord) -> bool:
        """Return whether so many more queries are worth it; else count their time."""
        scanned = manifest.vectors[0].bytes  # the only file of vectors that a scan reads
        self._spent += queries * scanned / SCAN_BYTES_PER_SECOND
        return self._spent > graph.bytes / LOAD_BYTES_PER_SECOND


def _engine(dim: int) -> Any:
    import hnswlib

    return hnswlib.Index(space="ip", dim=dim)  # inner product of unit vectors: cosine
