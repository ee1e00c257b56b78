"""The results of these benchmarks as text of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import describe_source, format_count, format_table
from ztcir_sdk.benchmark.changes import describe_precision

__all__ = ["CONCURRENCY", "FILE", "describe_concurrency", "describe_warm"]

FILE = "warm.json"
CONCURRENCY = "concurrency.json"
ASKED = {("second text", "fp32"): 5.0, ("second text", "int8"): 9.0}
ASKED |= {("first text", "fp32"): 2.2, ("first text", "int8"): 4.5}
"""The times as fast that are aimed at."""


def describe_warm(values: Mapping[str, Any]) -> str:
    """Describe how many times as fast as PyTorch eager a query is, and its milliseconds."""
    rows = []
    for one in values["comparisons"]:
        timings = one["timings"]
        for side, ratio in one["ratios"].items():
            asked = ASKED.get((one["what"], side))
            rows.append(
                (
                    f"{one['what']}, {one['size']}, {side}",
                    f"{timings[side]['p50_ms']:.1f}",
                    f"{timings[side]['p99_ms']:.1f}",
                    f"{timings[one['baseline']]['p50_ms']:.1f}",
                    f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})",
                    "" if asked is None else f"{asked:g}",
                )
            )
    header = ("query", "p50, ms", "p99, ms", "PyTorch p50, ms", "times as fast", "aim")
    source = (
        f"{values['model']} with random weights, {format_count(values['gallery'])} vectors "
        f"like CLIP's; {describe_source(values, 'onnxruntime', 'torch')}."
    )
    return "\n\n".join((format_table(header, rows), source))


def describe_concurrency(values: Mapping[str, Any]) -> str:
    """Describe texts a second and the slowest in a hundred, for each number of threads."""
    rows = [
        (
            str(one["threads"]),
            f"{one['alone']['a_second']:.0f}",
            f"{one['alone']['p99_ms']:.1f}",
            f"{one['batched']['a_second']:.0f}",
            f"{one['batched']['p99_ms']:.1f}",
            f"{one['ratio']['median']:.2f}",
        )
        for one in values["sides"]
    ]
    header = (
        *("callers", "texts a second", "p99, ms", "batched, texts a second", "batched, p99, ms"),
        "batched / alone",
    )
    source = (
        f"Bundle `{values['bundle']}` ({describe_precision(values)}), {values['pictures']} images; "
        f"{values['machine']['cpu']}, {values['threads']} threads of ONNX Runtime, onnxruntime "
        f"{values['versions']['onnxruntime']}, {values['date'][:10]}."
    )
    return "\n\n".join((format_table(header, rows), source))
