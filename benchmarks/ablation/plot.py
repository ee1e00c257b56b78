"""The plot of mAP@10 against the number of triplets; the file records which figures it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import new_figure, shows, write_figure
from benchmarks.markdown import format_count

NUMBERS: Mapping[str, int | None] = {
    "stage1": 0,
    "triplets-100": 100,
    "triplets-1000": 1000,
    "triplets-10000": 10000,
    "composed": None,
}
"""Row -> its number of triplets; None means all."""
LEVELS: Mapping[str, str] = {
    "oracle": "oracle",
    "sum-best": "sum of image and text, best weight",
}
Values = Mapping[str, Any]


def points(values: Values) -> list[tuple[int, float, float]]:
    """Return number of triplets, mean and spread of mAP@10 of each measured row."""
    rows, everything = values["rows"], int(values["settings"]["triplets"])
    return [
        (
            everything if number is None else number,
            rows[name]["mean"]["mAP@10"],
            rows[name]["spread"]["mAP@10"],
        )
        for name, number in NUMBERS.items()
        if name in rows
    ]


def _levels(values: Values) -> list[tuple[str, float]]:
    rows = values["rows"]
    return [(LEVELS[name], rows[name]["mean"]["mAP@10"]) for name in LEVELS if name in rows]


def _shown(values: Values) -> list[Any]:
    return [points(values), _levels(values)]


def is_current(path: Path, values: Values) -> bool:
    """Whether a PNG shows the figures of a result file, whatever its bytes."""
    return shows(path, _shown(values))


def draw_plot(path: Path, values: Values) -> None:
    """Draw the plot as a PNG, with 0 triplets on an otherwise logarithmic axis.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ZtcirError: the file cannot be written.
    """
    found = points(values)
    places = [_place(number) for number, _, _ in found]
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    axes.errorbar(
        places,
        [mean for _, mean, _ in found],
        yerr=[spread for _, _, spread in found],
        marker="o",
        capsize=3,
        color="#1f5fa8",
        label="Stage I and II, mean and standard deviation over seeds",
    )
    for style, (label, level) in zip(("--", ":"), _levels(values), strict=False):
        axes.axhline(level, linestyle=style, color="#666666", label=label)
    axes.set_xticks(places, [format_count(number) for number, _, _ in found])
    axes.set_xlabel("synthetic triplets of Stage II (logarithmic, and 0)")
    axes.set_ylabel("mAP@10, validation queries")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    write_figure(figure, path, _shown(values))


def _place(number: int) -> float:
    """Return a number's place in decades; 0 triplets are placed at 10."""
    return math.log10(max(number, 10))
