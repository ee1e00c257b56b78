"""`measure`: what it times, when it stops, and its percentiles."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztcir_sdk.benchmark import Timing, measure


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=300))
def test_a_timing_summarises_its_runs(nanoseconds: list[int]) -> None:
    timing = Timing.of(nanoseconds)
    within = sum(each / 1e6 <= timing.p50 + 1e-9 for each in nanoseconds)
    assert within >= len(nanoseconds) / 2
    assert timing.least <= timing.p50 <= timing.p90 <= timing.p99 <= max(nanoseconds) / 1e6
    assert timing.least == min(nanoseconds) / 1e6
    assert timing.mean == pytest.approx(sum(nanoseconds) / len(nanoseconds) / 1e6)
    assert timing.runs == len(nanoseconds)


def test_percentiles_by_hand() -> None:
    timing = Timing.of([milliseconds * 1_000_000 for milliseconds in range(101)])
    assert (timing.p50, timing.p90, timing.p99) == (50, 90, 99)
    assert timing.to_dict()["p99_ms"] == 99


def test_warm_up_runs_are_not_timed() -> None:
    calls: list[None] = []

    def slow_at_first() -> None:
        calls.append(None)
        if len(calls) <= 2:
            time.sleep(0.05)

    timing = measure(slow_at_first, repeat=20, warm_up=2)
    assert (len(calls), timing.runs) == (22, 20)
    assert timing.p50 < 40


def test_only_the_operation_is_timed() -> None:
    timing = measure(lambda: time.sleep(0.01), repeat=5, warm_up=0)
    assert 10 <= timing.least < 100


def test_measuring_stops_after_the_time_but_not_before_a_tenth_of_the_runs() -> None:
    timing = measure(lambda: time.sleep(0.02), repeat=100, warm_up=0, seconds=0)
    assert timing.runs == 10
    timing = measure(lambda: time.sleep(0.02), repeat=20, warm_up=0, seconds=0.1)
    assert 2 <= timing.runs <= 10
