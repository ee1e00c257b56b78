"""Which items satisfy a filter, found once for each state of an index and filter."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.filters import Filter
from ztcir_sdk.filters.sql import matching_labels

__all__ = ["FilteredLabels"]

KEPT_BYTES = 64 << 20
"""Memory for the labels of filters that were asked before."""


class FilteredLabels:
    """The labels of the items of one state, by filter. Threads may share it."""

    def __init__(self, sql: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]) -> None:
        """Use the SELECTs of a state that never changes."""
        self._sql = sql
        self._lock = threading.Lock()
        self._kept: OrderedDict[Filter, NDArray[np.int64]] = OrderedDict()

    def labels(self, where: Filter) -> NDArray[np.int64]:
        """Return the labels (n,) of the items that satisfy a filter, ascending.

        Raises:
            FilterError: the filter does not fit the items.
        """
        with self._lock:
            known = self._kept.get(where)
            if known is not None:
                self._kept.move_to_end(where)
                return known
        labels = np.asarray(matching_labels(self._sql, where), dtype=np.int64)
        labels.flags.writeable = False  # it is handed to every caller
        with self._lock:
            self._kept[where] = labels
            while len(self._kept) > 1 and sum(a.nbytes for a in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return labels
