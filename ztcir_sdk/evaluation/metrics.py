"""Quality of rankings: recall and average precision at k, for queries with one or more targets.

A ranking is an array of gallery rows, nearest first; Q queries.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.evaluation.ranking import NO_ROW

DEPTH = 10
"""Hits that ztcir's own measures look at: the k of mAP@k, and the largest of R@k."""


def relevance(ranking: NDArray[np.int64], targets: Sequence[Collection[int]]) -> NDArray[np.bool_]:
    """Return which rows of a ranking (Q, K) are targets of their query: (Q, K) bool.

    Raises:
        ValueError: `targets` has another length than `ranking`.
    """
    if len(targets) != len(ranking):
        raise ValueError(f"targets has rows for {len(targets)} of {len(ranking)} queries")
    # each (query, row) as one number, so that all queries are compared at once
    stride = 1 + max(
        int(ranking.max(initial=0)), max((max(own, default=0) for own in targets), default=0)
    )
    wanted = np.array(
        [query * stride + row for query, own in enumerate(targets) for row in own], dtype=np.int64
    )
    keys = np.arange(len(ranking), dtype=np.int64)[:, None] * stride + ranking
    found: NDArray[np.bool_] = np.isin(keys, wanted) & (ranking != NO_ROW)
    return found


def recall_at_k(relevant: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Return 1 for each query with a target among its first `k` rows, else 0: (Q,) float64.

    Args:
        relevant: (Q, K) bool from `relevance`, with K at least `k`.
        k: number of rows, 1 or more.
    """
    found: NDArray[np.bool_] = np.asarray(_first(relevant, k).any(axis=1))
    return found.astype(np.float64)


def average_precision_at_k(
    relevant: NDArray[np.bool_], target_counts: Sequence[int] | NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Return each query's average precision at `k`: (Q,) float64.

    AP@k = sum over ranks i <= k of precision(i) [i is a target], divided by min(k, targets), as
    CIRCO defines it (Baldrati et al., 2023): 1 if the first min(k, targets) rows are all targets.

    Args:
        relevant: (Q, K) bool from `relevance`, with K at least `k`.
        target_counts: (Q,) number of different targets of each query, found or not; 1 or more.
        k: number of rows, 1 or more.

    Raises:
        ValueError: a query has no target.
    """
    relevant = _first(relevant, k)
    counts = np.asarray(target_counts, dtype=np.int64)
    if (counts < 1).any():
        raise ValueError("a query has no target")
    precision = relevant.cumsum(axis=1) / np.arange(1, k + 1)  # (Q, k)
    total: NDArray[np.float64] = (precision * relevant).sum(axis=1) / np.minimum(counts, k)
    return total


def _first(relevant: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    if not 1 <= k <= relevant.shape[1]:
        raise ValueError(f"k is {k}, not between 1 and the ranking's length {relevant.shape[1]}")
    return relevant[:, :k]
