"""Times operations side by side and returns ratios of their times.

The speed of a shared machine changes by the minute. Times of two runs cannot be compared there, but
times of one round can: each round times every operation in turn and gives one ratio per operation.
The result is the median of these ratios; their spread is its uncertainty.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.command import positive
from ztcir_sdk.benchmark import Timing


@dataclass(frozen=True)
class Rounds:
    """Length of a comparison.

    Attributes:
        rounds: number of rounds.
        runs: timed runs of each operation in a round.
        seconds: start no further round after this time, except to reach `MIN_ROUNDS`.
    """

    rounds: int = 40
    runs: int = 5
    seconds: float = 180.0

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Rounds:
        """Return the values of the options of `add_round_options`."""
        return cls(options.rounds, options.runs, options.seconds)


MIN_ROUNDS = 5


def add_round_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--rounds``, ``--runs`` and ``--seconds``: the fields of `Rounds`."""
    add = parser.add_argument
    add("--rounds", type=positive, default=Rounds.rounds, help="rounds of a comparison")
    add("--runs", type=positive, default=Rounds.runs, help="timed runs of one side in a round")
    add("--seconds", type=float, default=Rounds.seconds, help="approximate limit of a comparison")


@dataclass(frozen=True)
class Ratio:
    """Speed of an operation relative to the baseline, over several rounds."""

    median: float
    p25: float
    p75: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Summarise the ratios of one or more rounds."""
        least, p25, median, p75, most = (
            float(value) for value in np.percentile(ratios, (0, 25, 50, 75, 100))
        )
        return cls(median, p25, p75, least, most, len(ratios))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "median": round(self.median, 3),
            "p25": round(self.p25, 3),
            "p75": round(self.p75, 3),
            "min": round(self.least, 3),
            "max": round(self.most, 3),
            "rounds": self.rounds,
        }


@dataclass(frozen=True)
class Comparison:
    """Several operations with the same purpose, timed in one run.

    Attributes:
        baseline: the operation that the others are compared with.
        timings: operation -> its times over all rounds.
        ratios: other operation -> the baseline's time divided by its own.
    """

    baseline: str
    timings: Mapping[str, Timing]
    ratios: Mapping[str, Ratio]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "baseline": self.baseline,
            "timings": {name: timing.to_dict() for name, timing in self.timings.items()},
            "ratios": {name: ratio.to_dict() for name, ratio in self.ratios.items()},
        }


def compare(
    operations: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    length: Rounds,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Comparison:
    """Time operations in interleaved rounds.

    In each round every operation has a turn: an untimed run, then the timed ones. The untimed run
    fills caches and outlasts the previous operation's idle threads, which spin for a while. Each
    round starts with the next operation. A round's ratio is the ratio of the turns' medians.

    Args:
        operations: name -> the operation, called without arguments.
        baseline: name of the operation that the others are compared with.
        length: length of the comparison.
        clock: returns monotonic nanoseconds.
    """
    names = list(operations)
    others = [name for name in names if name != baseline]
    durations: dict[str, list[int]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for operation in operations.values():
        operation()  # engines choose kernels, and memory is allocated
    start, number = clock(), 0
    while number < length.rounds:
        late = clock() - start > length.seconds * 1e9
        if late and number >= MIN_ROUNDS:
            break
        first = number % len(names)
        turns = {
            name: _turn(operations[name], length.runs, clock)
            for name in (*names[first:], *names[:first])
        }
        medians = {name: float(np.median(turn)) for name, turn in turns.items()}
        for name, turn in turns.items():
            durations[name] += turn
        for name in others:
            ratios[name].append(medians[baseline] / medians[name])
        number += 1
    return Comparison(
        baseline,
        {name: Timing.of(each) for name, each in durations.items()},
        {name: Ratio.of(each) for name, each in ratios.items()},
    )


def _turn(operation: Callable[[], object], runs: int, clock: Callable[[], int]) -> list[int]:
    operation()
    durations = []
    for _ in range(runs):
        start = clock()
        operation()
        durations.append(clock() - start)
    return durations
