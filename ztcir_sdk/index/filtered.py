"""Which rows satisfy a filter: looked up for the rows that a search is about to find, or for all.

SQLite takes a second for the metadata of a million items, but a tenth of a millisecond for those of
the nearest thirty. So a filter that many items satisfy is never evaluated for all of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.nearest import is_in

if TYPE_CHECKING:
    from ztcir_sdk.filters import Filter

__all__ = ["FilteredRows", "KnownRows", "RowFilters", "Selection"]

KEPT_BYTES = 64 << 20
"""Memory for what is known of filters that were asked before."""
SAMPLE = 256
"""Rows by which the share that satisfies a filter is estimated."""

ONE_BY_ONE = 3
"""Times as long as reading all items SQLite takes to look up as many one by one: 2.5 measured."""

Sql = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

_UNKNOWN, _NO, _YES = 0, 1, 2


class KnownRows:
    """Rows of an index that may be found, all of them known."""

    def __init__(self, rows: NDArray[np.int64], count: int) -> None:
        """Take `rows` (n,), ascending and alive, of `count`."""
        self._rows = rows
        self._count = count

    @property
    def is_known(self) -> bool:
        """Whether `all_rows` costs nothing."""
        return True

    @property
    def share(self) -> float:
        """Share of the rows of the index, dead ones included, that may be found; above 0."""
        return max(len(self._rows), 0.5) / max(self._count, 1)

    def mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some rows, in an array of any shape, may be found."""
        return is_in(self._rows, rows)

    def all_rows(self) -> NDArray[np.int64]:
        """Return the rows (n,) that may be found, ascending."""
        return self._rows


class FilteredRows:
    """The rows that satisfy a filter, looked up when they are needed. Threads may share it."""

    def __init__(self, sql: Sql, where: Filter, first_label: int, count: int) -> None:
        """Use the SELECTs of a state that never changes, which has `count` rows.

        Raises:
            FilterError: the filter does not fit the items.
        """
        from ztcir_sdk.filters.sql import check_fields

        check_fields(sql, where)
        self._sql = sql
        self._where = where
        self._first_label = first_label
        self._lock = threading.Lock()
        # Threads may write the same verdicts at the same time: none is ever changed.
        self._verdicts = np.zeros(count, dtype=np.int8)
        self._labels: NDArray[np.int64] | None = None
        self._rows: NDArray[np.int64] | None = None
        self._estimate: float | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._verdicts.nbytes + (0 if self._labels is None else 2 * self._labels.nbytes)

    @property
    def is_known(self) -> bool:
        """Whether `all_rows` costs nothing."""
        return self._rows is not None

    @property
    def share(self) -> float:
        """Share of the rows of the index that satisfy the filter, above 0.

        It is estimated by a sample until all are known.
        """
        count = len(self._verdicts)
        if self._rows is not None:
            return max(len(self._rows), 0.5) / max(count, 1)
        if self._estimate is None:
            few = np.random.default_rng(0).choice(count, min(SAMPLE, count), replace=False)
            self._estimate = max(float(self.mask(few).sum()), 0.5) / max(len(few), 1)
        return self._estimate

    def mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some rows, in an array of any shape, satisfy the filter."""
        verdicts = self._verdicts[rows]
        unknown = rows[verdicts == _UNKNOWN]
        if len(unknown) * ONE_BY_ONE > len(self._verdicts):
            self.labels()
            verdicts = self._verdicts[rows]
        elif len(unknown):
            from ztcir_sdk.filters.sql import matching_among

            labels = matching_among(self._sql, self._where, (unknown + self._first_label).tolist())
            verdicts_of_unknown = np.full(len(unknown), _NO, dtype=np.int8)
            satisfied = np.sort(np.asarray(labels, dtype=np.int64)) - self._first_label
            verdicts_of_unknown[is_in(satisfied, unknown)] = _YES
            self._verdicts[unknown] = verdicts_of_unknown
            verdicts = self._verdicts[rows]
        found: NDArray[np.bool_] = verdicts == _YES
        return found

    def all_rows(self) -> NDArray[np.int64]:
        """Return the rows (n,) that satisfy the filter, ascending."""
        self.labels()
        assert self._rows is not None
        return self._rows

    def labels(self) -> NDArray[np.int64]:
        """Return their labels (n,)."""
        with self._lock:
            if self._labels is None:
                from ztcir_sdk.filters.sql import matching_labels

                labels = np.asarray(matching_labels(self._sql, self._where), dtype=np.int64)
                rows = labels - self._first_label
                inside = (rows >= 0) & (rows < len(self._verdicts))  # all, but in a damaged index
                labels, rows = labels[inside], rows[inside]
                verdicts = np.full(len(self._verdicts), _NO, dtype=np.int8)
                verdicts[rows] = _YES
                self._verdicts = verdicts
                for array in (labels, rows):
                    array.flags.writeable = False  # they are handed to every caller
                self._labels, self._rows = labels, rows
            return self._labels


Selection: TypeAlias = "KnownRows | FilteredRows"
"""The rows that a search may find."""


class RowFilters:
    """What is known of the filters that one state was asked for. Threads may share it."""

    def __init__(self, sql: Sql, first_label: int, count: int) -> None:
        """Use the SELECTs of a state that never changes, which has `count` rows."""
        self._of_state = sql, first_label, count
        self._lock = threading.Lock()
        self._kept: OrderedDict[Filter, FilteredRows] = OrderedDict()

    def rows(self, where: Filter) -> FilteredRows:
        """Return the rows that satisfy a filter.

        Raises:
            FilterError: the filter does not fit the items.
        """
        with self._lock:
            known = self._kept.get(where)
            if known is not None:
                self._kept.move_to_end(where)
                return known
        sql, first_label, count = self._of_state
        rows = FilteredRows(sql, where, first_label, count)
        with self._lock:
            rows = self._kept.setdefault(where, rows)
            while len(self._kept) > 1 and sum(a.nbytes for a in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return rows
