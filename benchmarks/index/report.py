"""A result of the index's benchmark as a document shows it."""

from __future__ import annotations

from typing import Any

from benchmarks.index.data import FRACTIONS
from benchmarks.markdown import format_table

__all__ = ["FILES", "describe_index"]

FILES = {
    "index-100000": "index-clip-like-100000x512-0.json",
    "index-1000000": "index-clip-like-1000000x512-0.json",
    "index-catalogue": "index-catalogue.json",
    "index-growth": "index-growth-1000000.json",
}
"""Region of the documents -> its result file."""
SAME_RECALL = 0.002
"""Difference of two recalls up to which the times of two graphs are compared."""


def describe_index(values: Any) -> str:
    """Describe a result file of `python -m benchmarks.index`."""
    if "engines" not in values:
        return _describe_growth(values)
    rows = []
    for name, one in values["engines"].items():
        error = f" ± {one['recall_error']:.3f}" if one.get("recall_error") else ""
        cells = [
            f"{one['build']['cpu_seconds']:.0f}",
            f"{one['build']['bytes'] / 1e6:.0f}",
            f"{one['open']['memory_mb']:.0f}",
            f"{1000 * one['open']['seconds']:.0f}",
            f"{one['recall']:.3f}{error}",
            f"{one['search']['p50_ms']:.2f}",
            f"{one['search']['p99_ms']:.2f}",
        ]
        for fraction in FRACTIONS:
            found = one.get(f"filtered_{fraction}")
            cells.append(f"{found['p50_ms']:.2f} ({found['recall']:.3f})" if found else "")
        rows.append((name, *cells))
    head = ("engine", "build, s of a core", "disk, MB", "memory, MB", "open, ms", "recall@10")
    times = ("p50, ms", "p99, ms")
    filters = [f"p50 with {100 * fraction:g} % (recall)" for fraction in FRACTIONS]
    return "\n\n".join(
        (
            format_table((*head, *times, *filters), rows),
            f"{values['data']}, {values['machine']['cpu']}, {values['threads']} cores, "
            f"{values['date'][:10]}, load {values['load_average']['before']}; {_ratios(values)}",
        )
    )


def _ratios(values: Any) -> str:
    """Return the ratios to hnswlib and NumPy in the same rounds."""
    engines = values["engines"]
    graph, baseline = engines["ztcir"], engines["hnswlib"]
    recalls = f"{graph['recall']:.3f} and {baseline['recall']:.3f}"
    same = abs(graph["recall"] - baseline["recall"]) <= SAME_RECALL
    recalls = f"at the recalls {recalls}" if same else f"but not at its recall ({recalls})"
    sentences = [
        f"the graph's p50 is {graph['search']['ratio_to_hnswlib']['median']:.2f} times hnswlib's, "
        f"{recalls}, and its build takes "
        f"{graph['build']['ratio_to_hnswlib']['cpu_seconds']:.2f} times the processor's time"
    ]
    for name, one in engines.items():
        if name.startswith("ztcir, exact"):
            ratio = one["search"]["ratio_to_numpy"]["median"]
            sentences.append(f"{name} takes {ratio:.2f} times NumPy's p50")
    return "; ".join(sentences) + "."


def _describe_growth(values: Any) -> str:
    """Describe commits from the first to the last, and one command over few and many images."""
    commits, command = values["commits"], values["command"]
    small, large = command["seconds"].values()
    few, _ = command["seconds"]
    opened_small, opened_large = command["open_ms"].values()
    rows = [
        (
            f"commit of {commits['items_each']} images, ms",
            f"{commits['first_50_ms']:.1f} (first 50)",
            f"{commits['last_50_ms']:.1f} (last 50 of {commits['commits']})",
            f"{commits['ratio']:.2f} times",
        ),
        (
            "the same, kB written",
            f"{commits['first_50_bytes'] / 1e3:.0f}",
            f"{commits['last_50_bytes'] / 1e3:.0f}",
            f"{commits['last_50_bytes'] / commits['first_50_bytes']:.2f} times",
        ),
        (
            "open, ms",
            f"{opened_small:.1f} ({few} images)",
            f"{opened_large:.1f} ({command['items']} images)",
            f"{opened_large / opened_small:.2f} times",
        ),
        (
            "`ztcir search`, s",
            f"{small:.2f} ({few} images)",
            f"{large:.2f} ({command['items']} images)",
            f"{command['extra_seconds']['median']:.2f} s more",
        ),
    ]
    return "\n\n".join(
        (
            format_table(("work", "few", "many", "ratio or difference"), rows),
            f"{values['machine']['cpu']}, {values['threads']} cores, {values['date'][:10]}, "
            f"load {values['load_average']['before']}.",
        )
    )
