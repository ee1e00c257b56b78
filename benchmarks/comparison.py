"""Operations timed side by side, and what a ratio of their times can be trusted to say.

A shared machine runs at a speed that changes by the minute. Times of two runs cannot be compared
there, but times of one round can: each round times every operation in turn and gives one ratio.
The median of the rounds' ratios is the result, their spread is its uncertainty.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ztcir_sdk.benchmark import Timing

__all__ = ["Comparison", "Ratio", "Rounds", "add_round_options", "compare", "positive"]


@dataclass(frozen=True)
class Rounds:
    """How long to measure."""

    rounds: int = 40
    """Rounds of a comparison,"""
    runs: int = 5
    """and timed runs of each operation in a round."""
    seconds: float = 180.0
    """Start no round after so long, but make `LEAST_ROUNDS` (or `rounds`, if that is fewer)."""


LEAST_ROUNDS = 5


def add_round_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--rounds``, ``--runs`` and ``--seconds``: the fields of `Rounds`."""
    add = parser.add_argument
    add("--rounds", type=positive, default=Rounds.rounds, help="of a comparison")
    add("--runs", type=positive, default=Rounds.runs, help="timed, of one side in a round")
    add("--seconds", type=float, default=Rounds.seconds, help="of a comparison, about, at most")


def positive(text: str) -> int:
    """Read an option that is a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the baseline an operation is, over several rounds."""

    median: float
    p25: float
    p75: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Sum up one ratio a round, of which there must be one or more."""
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
    """Several operations with the same purpose, timed in one run."""

    baseline: str
    timings: Mapping[str, Timing]
    """Operation -> its times over all rounds."""
    ratios: Mapping[str, Ratio]
    """Operation other than the baseline -> the baseline's time divided by its own."""

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
    how: Rounds,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Comparison:
    """Time operations in interleaved rounds.

    In a round every operation has a turn, first an untimed run and then the timed ones: the
    untimed run fills caches, and outlasts the idle threads of the turn before, which spin for a
    while. Who has the first turn moves on from round to round. A round's ratio is that of the
    medians of its turns.

    Args:
        operations: what to time, by name; called without arguments.
        baseline: the operation that the others are compared with.
        how: how often.
        clock: nanoseconds, monotonic.
    """
    names = list(operations)
    others = [name for name in names if name != baseline]
    durations: dict[str, list[int]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for operation in operations.values():
        operation()  # engines choose their kernels, and memory is first touched
    start, number = clock(), 0
    while number < how.rounds:
        late = clock() - start > how.seconds * 1e9
        if late and number >= LEAST_ROUNDS:
            break
        first = number % len(names)
        turns = {
            name: _turn(operations[name], how.runs, clock)
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
