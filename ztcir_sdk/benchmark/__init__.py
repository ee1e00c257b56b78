"""Latency, throughput and memory of a bundle on this machine, with the SDK alone."""

from __future__ import annotations

from ztcir_sdk.benchmark.changes import changes, read_result
from ztcir_sdk.benchmark.configurations import benchmark_all
from ztcir_sdk.benchmark.inputs import draw_photos, random_index
from ztcir_sdk.benchmark.run import BenchmarkSettings, benchmark
from ztcir_sdk.benchmark.timing import Timing, measure

__all__ = [
    "BenchmarkSettings",
    "Timing",
    "benchmark",
    "benchmark_all",
    "changes",
    "draw_photos",
    "measure",
    "random_index",
    "read_result",
]
