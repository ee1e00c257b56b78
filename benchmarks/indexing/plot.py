"""The plot of pictures a second while JPEG files are indexed, beside open_clip's loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import new_figure, shows, write_figure

__all__ = ["FILES", "draw_plot", "is_current"]

FILES = ("indexing-900x1200.json", "indexing-12MP.json")
SIDES: Mapping[str, tuple[str, str]] = {
    "open_clip, DataLoader": ("open_clip, ViT-B-32, DataLoader", "#999999"),
    "ztcir, ViT-B-32 fp32": ("ztcir index, ViT-B-32, fp32", "#8fb4dc"),
    "ztcir, ViT-B-32 int8": ("ztcir index, ViT-B-32, int8", "#1f5fa8"),
    "ztcir, fashion-lite fp32": ("ztcir index, default model", "#d9822b"),
}
"""Name of a side in the result files -> its label and its colour."""
Values = Mapping[str, Any]


def _bars(results: Sequence[Values]) -> list[tuple[str, list[float]]]:
    """Return the size of each result's files, and the pictures a second of the sides."""
    return [
        (values["size"], [float(values["pictures_a_second"][name]) for name in SIDES])
        for values in results
    ]


def is_current(path: Path, results: Sequence[Values]) -> bool:
    """Whether a PNG shows the figures of result files, whatever its bytes."""
    return shows(path, _bars(results))


def draw_plot(path: Path, results: Sequence[Values]) -> None:
    """Draw the plot as a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ZtcirError: the file cannot be written.
    """
    bars = _bars(results)
    figure = new_figure(6.8, 2.4)
    panels = figure.subplots(1, len(bars), squeeze=False)[0]
    for number, (axes, (size, rates)) in enumerate(zip(panels, bars, strict=True)):
        colours = [colour for _, colour in SIDES.values()]
        drawn = axes.barh(range(len(rates)), rates, color=colours)
        axes.bar_label(drawn, fmt="%.0f", padding=2, fontsize=8)
        labels = [label for label, _ in SIDES.values()] if number == 0 else [""] * len(rates)
        axes.set_yticks(range(len(rates)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(right=1.15 * max(rates))
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(f"JPEG files of {size}", fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    threads = results[0]["threads"]
    figure.supxlabel(f"pictures a second, {threads} threads of a processor", fontsize=8)
    write_figure(figure, path, bars)
