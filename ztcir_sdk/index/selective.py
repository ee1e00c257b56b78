"""The nearest among the rows that a filter leaves.

Three ways lead there. The nearest of all rows are found first, by the graph or by comparing all of
them, and those that the filter leaves are taken, from further off if too few are: quick where many
rows satisfy the filter, or many of those near the query. Else what the filter leaves is compared
alone. Only the graph may miss rows, as it does without a filter.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index import nearest
from ztcir_sdk.index.filtered import Selection
from ztcir_sdk.index.graph import Graph
from ztcir_sdk.index.manifest import GraphRecord
from ztcir_sdk.index.protocol import Neighbours

__all__ = ["Selected", "search_selected"]

RANDOM_READS = 2
"""Times as long as comparing a query with vectors in their order takes comparing it with as many in
the order of a graph's links: 0.7 to 3 were measured."""
MEASURED_NEIGHBOURS = 10
"""Nearest rows that a graph's `ef` finds with the recall it is set for."""
DEVIATIONS = 2.0
"""Standard deviations by which more rows are asked for than hold enough on average."""
FARTHER = 1.25
"""Times as many again where the rows near a query satisfied a filter less often than others."""
MIN_NEAR = 4
"""Where the rows near a query satisfy a filter so many times less often than others, the graph is
not searched: links may not lead from there to the nearest of those that do, such as a cluster."""
DEEP_KNOWN, DEEP_UNKNOWN = 1 << 9, 1 << 6
"""One row in so many is ranked, at most, before a filter is applied to all rows first: if it is
known which satisfy it, and if SQLite must be asked for every one, which takes longer."""
SCANS_WITHOUT_KNOWING = 10
"""Comparisons of all rows that take as long as evaluating a filter for all of them."""


class Selected:
    """The rows that a filter leaves, and galleries of them. Threads may share it."""

    def __init__(self, selection: Selection, gallery: nearest.Gallery) -> None:
        self.selection = selection
        self.gallery = gallery
        self._lock = threading.Lock()
        self._scans = 0

    @property
    def are_few(self) -> bool:
        """Whether comparing them alone is quicker than comparing all rows."""
        return self.selection.share * nearest.FEW_ROWS <= 1

    @property
    def scanned_bytes(self) -> float:
        """Bytes that are read without a graph."""
        part = self.selection.share if self.are_few and self.selection.is_known else 1.0
        return part * self.gallery.rows.scanned_bytes

    def may_scan_deeper(self) -> bool:
        """Return whether to compare all rows, and apply the filter to the nearest; counts it.

        Which rows satisfy a filter that few do is worth knowing after some searches.
        """
        if not self.are_few:
            return True
        with self._lock:
            self._scans += 1
            return not self.selection.is_known and self._scans <= SCANS_WITHOUT_KNOWING

    @cached_property
    def alone(self) -> nearest.Gallery:
        """These rows, copied together."""
        return self.gallery.part(self.selection.all_rows())

    @cached_property
    def masked(self) -> nearest.Gallery:
        """All rows, of which the others are dead."""
        return self.gallery.among(self.selection.all_rows())

    def newer(self, first: int) -> nearest.Gallery | None:
        """Return those from row `first` on as a gallery; None if there are none."""
        if self._newer is None or self._newer[0] != first:
            rows = np.arange(first, len(self.gallery.rows), dtype=np.int64)
            others = np.flatnonzero(~self.selection.mask(rows)) + first
            out = np.union1d(self.gallery.dead, others)
            whole = nearest.Gallery(self.gallery.rows, out, self.gallery.order)
            self._newer = first, whole.newer(first)
        return self._newer[1]

    _newer: tuple[int, nearest.Gallery | None] | None = None


def search_selected(
    selected: Selected,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
    record: GraphRecord | None,
    load: Callable[[], Graph | None],
) -> list[Neighbours]:
    """Return the nearest `k` of the selected rows to each of `queries` (B, D), and their scores.

    Args:
        selected: the rows that may be found.
        queries: (B, D), L2-normalised.
        k: number of rows.
        excluded: rows to exclude, for each query.
        record: of the graph; None to use none.
        load: returns the graph, or None if it is not worth loading; called if it would be used.
    """
    found: list[Neighbours | None] = [None] * len(queries)
    rates = [selected.selection.share] * len(queries)
    if record is not None:
        links = 2 * record.m  # per node in the lowest layer, where a search spends its time
        compared = RANDOM_READS * links * 4 * selected.gallery.rows.dim
        search = _GraphSearch(selected, k, record.ef, selected.scanned_bytes / compared)
        likely = search.can_find(k, selected.selection.share, record.rows)
        if likely and (graph := load()) is not None:
            search.run(graph, queries, excluded, found, rates)
    left = [i for i, one in enumerate(found) if one is None]
    if left and selected.may_scan_deeper():
        _scan_deeper(selected, queries, k, excluded, found, rates)
        left = [i for i, one in enumerate(found) if one is None]
    if left:
        last = _compare_selected(selected, queries[left], k, [excluded[i] for i in left])
        for i, neighbours in zip(left, last, strict=True):
            found[i] = neighbours
    return [one for one in found if one is not None]


def _compare_selected(
    selected: Selected,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
) -> list[Neighbours]:
    """Compare with all selected rows."""
    rows = selected.selection.all_rows()
    if not selected.are_few:
        return nearest.exact_search(selected.masked, queries, k, excluded)
    inside = [nearest.positions(rows, out) for out in excluded]
    found = nearest.exact_search(selected.alone, queries, k, inside)
    return [(rows[near], scores) for near, scores in found]


def _scan_deeper(
    selected: Selected,
    queries: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]],
    found: list[Neighbours | None],
    rates: list[float],
) -> None:
    """Compare with all rows, and take the selected ones of the nearest, unless those are few.

    What is found is what comparing all selected rows finds.

    Args:
        selected: the rows that may be found.
        queries: (B, D), L2-normalised.
        k: number of rows.
        excluded: rows to exclude, for each query.
        found: what each query has found; None is replaced.
        rates: for each query, the part of the rows near it that may be selected; is lowered.
    """
    selection = selected.selection
    deepest = len(selected.gallery.rows) // (DEEP_KNOWN if selection.is_known else DEEP_UNKNOWN)
    while pending := [
        i for i, rate in enumerate(rates) if found[i] is None and _number_to_ask(k, rate) <= deepest
    ]:
        wanted = max(_number_to_ask(k, rates[i]) for i in pending)
        every = nearest.exact_search(
            selected.gallery, queries[pending], wanted, [excluded[i] for i in pending]
        )
        for i, (rows, scores) in zip(pending, every, strict=True):
            satisfied = selection.mask(rows)
            if satisfied.sum() >= k or len(rows) < wanted:
                found[i] = rows[satisfied][:k], scores[satisfied][:k]
            else:
                rates[i] = _lower_rate(rates[i], int(satisfied.sum()), wanted)


class _GraphSearch:
    """Searches of a graph, whose `ef` is set for ten neighbours.

    Rows that satisfy a filter lie as many times deeper as they are a part of all. `ef` grows with
    the depth, so that they are found with the recall that ten neighbours have without a filter.
    """

    def __init__(self, selected: Selected, k: int, ef: int, most: float) -> None:
        """Search for `k` of the selected rows, with `ef` of `most` at most."""
        self._selected = selected
        self._k = k
        self._ef = ef
        self._most = most

    def _effort(self, count: int, rate: float) -> int:
        return math.ceil(self._ef * max(1.0, count / rate / MEASURED_NEIGHBOURS))

    def can_find(self, count: int, rate: float, rows: int) -> bool:
        """Return whether a graph of `rows` is the quicker way to `count` rows.

        Args:
            count: rows to find.
            rate: the part of those near the query that is selected.
            rows: rows of the graph.
        """
        wanted = _number_to_ask(count, rate)
        effort = max(self._effort(count, rate), wanted)
        return wanted <= min(nearest.MAX_GRAPH_NEIGHBOURS, rows) and effort <= self._most

    def run(
        self,
        graph: Graph,
        queries: NDArray[np.float32],
        excluded: Sequence[NDArray[np.int64]],
        found: list[Neighbours | None],
        rates: list[float],
    ) -> None:
        """Find the nearest of each query, unless comparing the selected rows is quicker.

        Args:
            graph: the graph.
            queries: (B, D), L2-normalised.
            excluded: rows to exclude, for each query.
            found: what each query has found; None is replaced.
            rates: for each query, the part of the rows near it that may be selected; is lowered.
        """
        selected, k, share = self._selected, self._k, self._selected.selection.share
        counts = [k + len(out) for out in excluded]
        newer = selected.newer(graph.rows) if graph.rows < len(selected.gallery.rows) else None
        while pending := [
            i
            for i, rate in enumerate(rates)
            if found[i] is None
            and rate * MIN_NEAR >= share
            and self.can_find(counts[i], rate, graph.rows)
        ]:
            wanted = max(_number_to_ask(counts[i], rates[i]) for i in pending)
            effort = max(self._effort(counts[i], rates[i]) for i in pending)
            near = graph.nearest(queries[pending], wanted, max(effort, wanted))
            if near is None:
                break
            satisfied = selected.selection.mask(near[0])
            for i, rows, distances, mask in zip(pending, *near, satisfied, strict=True):
                if len(excluded[i]):
                    mask &= ~nearest.is_in(excluded[i], rows)
                candidates = nearest.near_enough(rows[mask], distances[mask], k)
                if len(candidates) < k:
                    rates[i] = _lower_rate(rates[i], len(candidates), wanted)
                    continue
                if newer is not None:
                    own = nearest.nearest_newer(newer, queries[i], k, excluded[i])
                    candidates = np.concatenate([candidates, own])
                found[i] = nearest.ranked(selected.gallery, queries[i], candidates, k)


def _number_to_ask(count: int, rate: float) -> int:
    """Return how many of the nearest rows to ask for, to have `count` that are selected."""
    rate = min(rate, 1.0)
    deviation = math.sqrt(count * (1 - rate)) / rate
    return math.ceil(count / rate + DEVIATIONS * deviation) + nearest.FEW_MORE


def _lower_rate(rate: float, found: int, asked: int) -> float:
    """Return the part of the rows near a query that may be selected, after too few were."""
    return min(rate / 2, (found + 1) / (asked + 1) / FARTHER)
