"""The plot of a result: time of one query against recall, for each engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import new_figure, write_figure

__all__ = ["draw_plot"]


def draw_plot(path: Path, values: Mapping[str, Any]) -> None:
    """Draw the engines of a result file as a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ZtcirError: the file cannot be written.
    """
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    for name, engine in values["engines"].items():
        own = name.startswith("ztcir")
        place = (engine["search"]["p50_ms"], engine["recall"])
        axes.scatter(*place, color="#1f5fa8" if own else "#999999", zorder=3)
        axes.annotate(name, place, xytext=(5, 3), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    axes.set_xlabel("one query, p50, milliseconds (logarithmic)")
    axes.set_ylabel("recall@10")
    axes.set_title(f"{values['data']}; {values['machine']['cpu']}, {values['date'][:10]}")
    axes.grid(alpha=0.3)
    write_figure(figure, path)
