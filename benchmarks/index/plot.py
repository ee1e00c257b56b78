"""The plot of a result: time of one query against recall, for each engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import new_figure, shows, write_figure

__all__ = ["draw_plot", "is_current"]


def _points(values: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return name, milliseconds of a query and recall of each engine."""
    return [
        (name, engine["search"]["p50_ms"], engine["recall"])
        for name, engine in values["engines"].items()
    ]


def is_current(path: Path, values: Mapping[str, Any]) -> bool:
    """Whether a PNG shows the figures of a result file, whatever its bytes."""
    return shows(path, _points(values))


def draw_plot(path: Path, values: Mapping[str, Any]) -> None:
    """Draw the engines of a result file as a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ZtcirError: the file cannot be written.
    """
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    points = _points(values)
    for name, milliseconds, recall in points:
        own = name.startswith("ztcir")
        point = (milliseconds, recall)
        axes.scatter(*point, color="#1f5fa8" if own else "#999999", zorder=3)
        offset = (5, -11 if own else 3)
        axes.annotate(name, point, xytext=offset, textcoords="offset points", fontsize="small")
    axes.margins(x=0.15, y=0.1)
    axes.set_xscale("log")
    axes.set_xlabel("one query, p50, milliseconds (logarithmic)")
    axes.set_ylabel("recall@10")
    axes.set_title(f"{values['data']}; {values['machine']['cpu']}, {values['date'][:10]}")
    axes.grid(alpha=0.3)
    write_figure(figure, path, points)
