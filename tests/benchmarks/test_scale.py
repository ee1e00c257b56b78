"""What many pictures take, and the constants that `python -m benchmarks.answers` measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.answers import FILE as ANSWERS
from benchmarks.answers import describe_answers
from benchmarks.command import RESULTS
from benchmarks.scale import FILE as SCALE
from benchmarks.scale import SIZES, describe_scale, estimate, latency
from ztcir_sdk.names import NEAR_DUPLICATE, STANDS_OUT

MEASURED: dict[str, Any] = {
    "dim": 256,
    "encode_seconds": 0.01,
    "graph_bytes": 1000.0,
    "storages": {"f32": {"bytes": 1500.0, "scan_seconds": 1e-7}},
}
PRICES = {
    "memory_gb": 50,
    "machine_dollars_a_month": 200.0,
    "core_dollars_an_hour": 0.036,
    "disk_dollars_a_gb_month": 0.1,
}


def result(file: str) -> Any:
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def test_an_estimate_multiplies_what_was_measured() -> None:
    found = estimate(100_000_000, MEASURED, PRICES)
    assert found["memory_gb"] == pytest.approx(100)
    assert found["machines"] == 3  # of 40 GB each
    assert found["disk_gb"] == pytest.approx(150)
    assert found["dollars_a_month"] == pytest.approx(3 * 200 + 15)
    assert found["core_hours"] == pytest.approx(1e6 / 3600)
    assert found["encode_dollars"] == pytest.approx(10)
    assert found["scan_seconds"] == pytest.approx(10)


def test_latency_is_that_of_a_machines_part() -> None:
    measured = {**MEASURED, "storages": {"i8": {"scan_seconds": 5e-8}}}
    assert latency(1_000_000, measured, 3.0) == pytest.approx((0.05, 3.0))
    assert latency(100_000_000, measured, 3.0) == pytest.approx((5.0, 4.0))


def test_the_committed_estimates_follow_from_the_committed_measurement() -> None:
    values = result(SCALE)
    for size in SIZES:
        expected = estimate(size, values["measured"], values["prices"])
        assert values["sizes"][str(size)] == pytest.approx(expected)
    assert "1 000 000 000" in describe_scale(values)


def test_the_constants_are_those_that_were_measured() -> None:
    values = result(ANSWERS)
    assert values["near_duplicate"]["chosen"] == NEAR_DUPLICATE
    assert values["stands_out"]["chosen"] == STANDS_OUT
    assert f"{NEAR_DUPLICATE:g}" in describe_answers(values)
