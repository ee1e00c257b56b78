"""When a graph is worth its loading."""

from __future__ import annotations

from ztcir_sdk.index.manifest import GraphRecord, Manifest

__all__ = ["GraphBudget"]

SCAN_BYTES_PER_SECOND = 10e9
"""Bytes of vectors that a search compares with a query; 7 to 25 were measured."""
LOAD_BYTES_PER_SECOND = 1e9
"""Bytes of a graph that are checked and loaded; 0.8 to 1.5 were measured."""


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
