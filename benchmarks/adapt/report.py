"""What adapting took and gained, as text of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import describe_source, format_count, format_table

__all__ = ["FILE", "PLAIN", "describe_adaptation"]

FILE = "adapt.json"
PLAIN = ("sum_best", "sum", "text", "image")
"""What answers without training; the weight of the sum is the best on the queries themselves."""


def describe_adaptation(values: Mapping[str, Any]) -> str:
    """Tabulate the minutes and the gains of each run."""
    rows = []
    for run in values["runs"]:
        gains, measured = run["gains"], run["validation"]
        held_out = {} if gains is None else gains["methods"]
        plain = [one["mAP@10"] for name, one in held_out.items() if name != "composed"]
        best = max(measured[name] for name in PLAIN if name in measured)
        rows.append(
            (
                format_count(run["photos"]),
                f"{run['seconds'] / 60:.1f}",
                f"{held_out['composed']['mAP@10']:.3f}" if "composed" in held_out else "",
                f"{max(plain):.3f}" if plain else "",
                f"{measured['composed']:.3f}" if "composed" in measured else "",
                f"{best:.3f}",
                run["answers"],
            )
        )
    columns = (
        *("photos", "minutes", "composed, held-out photos", "best plain answer there"),
        *("composed, validation", "best plain answer there", "the bundle answers with"),
    )
    return "\n\n".join(
        (
            format_table(columns, rows),
            "mAP@10; a sum of image and text is at its best weight. Validation: the triplets of "
            "the catalogue's validation split, of other photos and in other words. "
            f"Backbone of `{values['backbone']}`; {describe_source(values, 'torch')}.",
        )
    )
