"""Comparisons: how ratios are computed, and that a slower machine does not change them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.comparison import MIN_ROUNDS, Ratio, Rounds, compare


class Machine:
    """A clock that moves only while an operation runs."""

    def __init__(self) -> None:
        self.nanoseconds = 0
        self.speed = 1.0
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.nanoseconds

    def operation(self, name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.nanoseconds += round(milliseconds * 1e6 / self.speed)

        return run


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_a_ratio_summarises_its_rounds(ratios: list[float]) -> None:
    ratio = Ratio.of(ratios)
    ordered = sorted(ratios)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    assert ratio.median == pytest.approx(median)
    assert (ratio.least, ratio.most, ratio.rounds) == (ordered[0], ordered[-1], len(ratios))
    assert ratio.least <= ratio.p25 <= ratio.median <= ratio.p75 <= ratio.most


def test_quartiles_by_hand() -> None:
    assert Ratio.of([5, 1, 2, 4, 3]).to_dict() == {
        "median": 3,
        "p25": 2,
        "p75": 4,
        "min": 1,
        "max": 5,
        "rounds": 5,
    }


class TestCompare:
    def test_a_ratio_says_how_many_times_as_fast(self) -> None:
        machine = Machine()
        operations = {"fast": machine.operation("fast", 2), "slow": machine.operation("slow", 7)}
        result = compare(
            operations, baseline="slow", length=Rounds(rounds=4, runs=3), clock=machine.clock
        )
        assert result.ratios.keys() == {"fast"}
        assert result.ratios["fast"] == Ratio(3.5, 3.5, 3.5, 3.5, 3.5, 4)
        assert (result.timings["fast"].p50, result.timings["fast"].runs) == (2, 12)
        assert (result.timings["slow"].p99, result.timings["slow"].runs) == (7, 12)

    def test_a_slower_machine_changes_times_but_no_ratio(self) -> None:
        machine = Machine()
        fast, slow = machine.operation("fast", 2), machine.operation("slow", 6)

        def fast_then_throttle() -> None:
            fast()
            if machine.calls.count("fast") % 8 == 0:  # between rounds, where "fast" is last
                machine.speed /= 2

        operations = {"slow": slow, "fast": fast_then_throttle}
        length = Rounds(rounds=9, runs=3)
        result = compare(operations, baseline="slow", length=length, clock=machine.clock)
        assert result.timings["slow"].p99 > 5 * result.timings["slow"].least
        assert result.ratios["fast"].median == pytest.approx(3)

    def test_operations_take_turns_and_each_begins_with_an_untimed_run(self) -> None:
        machine = Machine()
        operations = {name: machine.operation(name, 1) for name in "abc"}
        compare(operations, baseline="a", length=Rounds(rounds=4, runs=2), clock=machine.clock)
        turns = [machine.calls[3:][place : place + 3] for place in range(0, 36, 3)]
        assert all(len(set(turn)) == 1 for turn in turns)
        assert "".join(turn[0] for turn in turns) == "abcbcacababc"

    def test_no_figure_includes_the_untimed_run(self) -> None:
        machine = Machine()

        def slow_at_first() -> None:
            machine.nanoseconds += 900_000_000 if machine.calls[-1:] != ["a"] else 1_000_000
            machine.calls.append("a")

        operations = {"a": slow_at_first, "b": machine.operation("b", 1)}
        result = compare(
            operations, baseline="b", length=Rounds(rounds=5, runs=2), clock=machine.clock
        )
        assert result.timings["a"].p99 == 1
        assert result.ratios["a"].median == 1

    def test_it_stops_when_time_is_up_but_not_before_the_least_rounds(self) -> None:
        def rounds(seconds: float) -> int:
            machine = Machine()
            operations = {name: machine.operation(name, 250) for name in "ab"}
            length = Rounds(rounds=50, runs=1, seconds=seconds)  # a round takes a second
            return (
                compare(operations, baseline="a", length=length, clock=machine.clock)
                .ratios["b"]
                .rounds
            )

        assert rounds(0) == MIN_ROUNDS
        assert rounds(10.5) == 11
        assert rounds(1e9) == 50
