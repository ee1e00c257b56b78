"""Warm queries: who answers what at the same time, what is described, and the plot of indexing."""

from __future__ import annotations

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import SIZE, write_tiny_bundle

from benchmarks.command import RESULTS
from benchmarks.indexing import plot
from benchmarks.warm import concurrency
from benchmarks.warm.concurrency import Batcher
from benchmarks.warm.report import CONCURRENCY, describe_concurrency, describe_warm
from ztcir_sdk import Retriever
from ztcir_sdk.benchmark import random_index
from ztcir_sdk.errors import UsageError

TIMINGS = {
    "pytorch": {"p50_ms": 40, "p99_ms": 80},
    "int8": {"p50_ms": 4, "p99_ms": 8},
}
RATIO = {"median": 10.0, "p25": 9.5, "p75": 10.5}
WARM = {
    "model": "ViT-B-32",
    "gallery": 100_000,
    "comparisons": [
        {
            "size": "12 MP",
            "what": "second text",
            "baseline": "pytorch",
            "timings": TIMINGS,
            "ratios": {"int8": RATIO},
        }
    ],
    "machine": {"cpu": "A"},
    "threads": 2,
    "versions": {"onnxruntime": "1.99", "torch": "2.99"},
    "date": "2026-01-02T00:00:00+00:00",
}


@pytest.fixture
def retriever(tmp_path: Path) -> Retriever:
    found = Retriever(write_tiny_bundle(tmp_path / "tiny"), device="cpu", threads=1)
    found.open_index(random_index(found, tmp_path / "random.ztcir", 30))
    return found


def test_batched_texts_get_their_own_hits(retriever: Retriever) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, SIZE, SIZE, 3)).astype(np.uint8)
    references = retriever.references(list(pictures))
    asked = [(references[i % 4], text) for i, text in enumerate(["red", "blue", "a dress"] * 8)]
    started = threading.Barrier(8)

    def ask(number: int) -> list[Any]:
        started.wait(20)
        return [batcher.ask(*one) for one in asked[number::8]]

    with Batcher(retriever) as batcher, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
        with pytest.raises(UsageError, match=r"text"):
            batcher.ask(references[0], "   ")
        batcher.ask(references[0], "red")  # one mistake ends nothing
    for number, own in enumerate(found):
        for (reference, text), hits in zip(asked[number::8], own, strict=True):
            alone = reference.search(text, 10)
            assert [hit.path for hit in hits] == [hit.path for hit in alone]


def test_both_ways_are_measured_for_each_number_of_callers(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retriever, "from_pretrained", lambda **_: retriever)
    out = tmp_path / "concurrency.json"
    small = ["--texts", "6", "--rounds", "2", "--gallery", "20", "--threads", "1"]
    assert concurrency.main(["--callers", "1", "3", *small, "--out", str(out)]) == 0
    values = json.loads(out.read_text())
    assert [one["threads"] for one in values["sides"]] == [1, 3]
    for one in values["sides"]:
        for side in ("alone", "batched"):
            assert 0 < one[side]["p50_ms"] <= one[side]["p99_ms"]
            assert one[side]["a_second"] > 0
        assert one["ratio"]["rounds"] == 2
    lines = describe_concurrency(values).splitlines()
    assert len([line for line in lines if line.startswith(("| 1 |", "| 3 |"))]) == 2


def test_a_warm_query_is_described_with_its_aim() -> None:
    text = describe_warm(WARM)
    assert "| second text, 12 MP, int8 | 4.0 | 8.0 | 40.0 | 10.00 (9.50 to 10.50) | 9 |" in text
    assert "100 000 vectors" in text


def test_the_committed_concurrency_has_one_to_sixteen_callers() -> None:
    values = json.loads((RESULTS / CONCURRENCY).read_text(encoding="utf-8"))
    assert [one["threads"] for one in values["sides"]] == [1, 2, 4, 8, 16]
    assert values["git"]["modified"] is False


def test_the_plot_of_indexing_records_which_figures_it_shows(tmp_path: Path) -> None:
    values = [json.loads((RESULTS / file).read_text(encoding="utf-8")) for file in plot.FILES]
    path = tmp_path / "plot.png"
    assert not plot.is_current(path, values)
    plot.draw_plot(path, values)
    assert plot.is_current(path, values)
    other = copy.deepcopy(values)
    other[1]["pictures_a_second"]["ztcir, ViT-B-32 int8"] += 1
    assert not plot.is_current(path, other)
