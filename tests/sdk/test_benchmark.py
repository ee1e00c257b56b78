"""Timings and their percentiles, what a benchmark measures, and how two are compared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from places import ROOT
from tiny_bundle import write_tiny_bundle

from ztcir_sdk.benchmark import (
    BenchmarkSettings,
    Timing,
    benchmark_all,
    changes,
    measure,
    read_result,
)
from ztcir_sdk.benchmark.changes import describe_precision, named_timings
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import UsageError, ZtcirError


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


def test_every_precision_of_a_bundle_is_measured(tmp_path: Path) -> None:
    bundle = _in_two_precisions(tmp_path / "tiny")
    small = BenchmarkSettings(
        repeat=1,
        image_batches=(1,),
        reference_batches=(1,),
        text_shapes=((1, 8),),
        gallery=20,
        pictures=2,
    )
    seen: list[str] = []
    result = benchmark_all(
        bundle, settings=small, device="cpu", progress=lambda what, *_: seen.append(what)
    )
    others = result["others"]
    assert [result["precision"], *(one["precision"] for one in others)] == ["fp32", "int8"]
    assert result["not_measured"] == {}
    assert {"Measuring onnx fp32", "Measuring onnx int8"} == set(seen)
    one = benchmark_all(bundle, settings=small, device="cpu", precision="int8")
    assert (one["precision"], one["others"]) == ("int8", [])
    assert set(one["precisions"].values()) == {"int8"}


@pytest.mark.parametrize(
    ("precisions", "said"),
    [
        ({}, "fp32"),
        ({"image_encoder": "fp32", "text_encoder": "fp32"}, "fp32"),
        (
            {"image_encoder": "fp32", "token_learner": "int8", "text_encoder": "int8"},
            "int8, image encoder fp32",
        ),
    ],
)
def test_the_precision_of_each_graph_is_said_where_they_differ(
    precisions: dict[str, str], said: str
) -> None:
    assert describe_precision({"precision": "fp32", "precisions": precisions}) == said


def test_what_does_not_run_is_named_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = _in_two_precisions(tmp_path / "tiny")

    def measure_one(bundle: Bundle, *, precision: str, **_: object) -> dict[str, object]:
        if precision == "fp32":
            raise ZtcirError("The graph is damaged: export it again.")
        return {"precision": precision}

    monkeypatch.setattr("ztcir_sdk.benchmark.configurations.benchmark", measure_one)
    result = benchmark_all(bundle, device="cpu")
    assert result["precision"] == "int8"
    assert result["not_measured"] == {"onnx fp32": "The graph is damaged: export it again."}
    with pytest.raises(ZtcirError, match="The graph is damaged"):
        benchmark_all(bundle, device="cpu", precision="fp32")


def _in_two_precisions(folder: Path) -> Bundle:
    """Return the tiny bundle, its graphs in fp32 also under the name int8."""
    whole = write_tiny_bundle(folder)
    graphs = {
        graph: {**variants, "int8": replace(variants["fp32"], precision="int8")}
        for graph, variants in whole.manifest.graphs.items()
    }
    manifest = replace(whole.manifest, graphs=graphs, precisions={})
    return Bundle(whole.path, manifest)


def _result(p50: float, **more: object) -> dict[str, Any]:
    timing = {"p50_ms": p50}
    return {
        "machine": {"cpu": "A"},
        "threads": 2,
        "bundle": {"fingerprint": "00"},
        "device": "cpu",
        "precision": "fp32",
        "graphs": {"text_encoder": [{"texts": 1, "tokens": 8, **timing}]},
        "query": {"index": 1, "first_text": timing, "second_text": timing},
        "indexing": {"pictures_per_second": 100.0 / p50},
        **more,
    }


def test_two_results_are_compared_by_what_both_measured() -> None:
    old = _result(4.0, others=[_result(1.0, precision="int8")])
    new = _result(2.0, stations={"read": {"p50_ms": 1.0}}, backend="onnx")
    compared = changes(old, new)
    [run] = compared["runs"]
    assert run["configuration"] == "onnx, cpu, fp32"
    assert [one["name"] for one in run["times"]] == [
        "text encoder, 1 text of 8 tokens",
        "query, new JPEG, 1 image",
        "query, same JPEG, 1 image",
        "indexing, one image",
    ]
    assert {one["ratio"] for one in run["times"]} == {2.0}
    assert run["times"][-1] == {
        "name": "indexing, one image",
        "old_ms": 40.0,
        "new_ms": 20.0,
        "ratio": 2.0,
    }
    assert compared["differs"] == []
    other = _result(1.0, threads=1, machine={"cpu": "B"}, device="cuda:0")
    assert changes(old, other) == {"runs": [], "differs": ["machine", "threads"]}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"others": 3}', '{"graphs": {}}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(UsageError, match=r"old\.json is not a result of a benchmark"):
        read_result(tmp_path / "old.json")
    with pytest.raises(UsageError, match=r"missing\.json cannot be read"):
        read_result(tmp_path / "missing.json")


def test_the_committed_result_can_be_compared() -> None:
    result = read_result(ROOT / "benchmarks" / "results" / "bench.json")
    [run] = changes(result, result)["runs"]
    assert {one["ratio"] for one in run["times"]} == {1.0}


def test_lines_fit_a_terminal_of_80_columns() -> None:
    """The numbers take four columns of at most eight characters, with two spaces around each."""
    result = read_result(ROOT / "benchmarks" / "results" / "bench.json")
    assert max(len(name) for name, _ in named_timings(result)) <= 80 - 4 * 10 - 4
