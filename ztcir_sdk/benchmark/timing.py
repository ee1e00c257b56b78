"""Times of an operation over several runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WARM_UP", "Timing", "measure"]

WARM_UP = 3
"""Untimed runs before the timed ones."""


@dataclass(frozen=True)
class Timing:
    """Duration of one operation over several runs, in milliseconds."""

    p50: float
    p90: float
    p99: float
    mean: float
    least: float
    runs: int

    @classmethod
    def of(cls, nanoseconds: Sequence[int]) -> Timing:
        """Summarise one or more durations."""
        each = np.asarray(nanoseconds, dtype=np.float64) / 1e6
        p50, p90, p99 = (float(value) for value in np.percentile(each, (50, 90, 99)))
        return cls(p50, p90, p99, float(each.mean()), float(each.min()), len(each))

    def a_second(self, items: int = 1) -> float:
        """Return how many items one caller gets in a second, if a run gives `items`."""
        return round(1e3 * items / self.mean, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, to a microsecond."""
        return {
            "p50_ms": round(self.p50, 3),
            "p90_ms": round(self.p90, 3),
            "p99_ms": round(self.p99, 3),
            "mean_ms": round(self.mean, 3),
            "min_ms": round(self.least, 3),
            "runs": self.runs,
        }


def measure(
    operation: Callable[[], object],
    *,
    repeat: int,
    warm_up: int = WARM_UP,
    seconds: float | None = None,
) -> Timing:
    """Time an operation with a monotonic clock.

    Args:
        operation: the function to time; called without arguments.
        repeat: number of timed runs.
        warm_up: number of untimed runs before, which fill caches and let engines choose kernels.
        seconds: time after which to stop, but not before a tenth of the runs.
    """
    for _ in range(warm_up):
        operation()
    durations: list[int] = []
    deadline = None if seconds is None else time.perf_counter_ns() + int(seconds * 1e9)
    while len(durations) < repeat:
        start = time.perf_counter_ns()
        operation()
        end = time.perf_counter_ns()
        durations.append(end - start)
        if deadline is not None and end > deadline and len(durations) >= repeat / 10:
            break
    return Timing.of(durations)
