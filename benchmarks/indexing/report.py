"""The results of this benchmark as text of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import describe_source, format_table

__all__ = ["describe_indexing"]


def describe_indexing(values: Mapping[str, Any]) -> str:
    """Describe pictures a second of every side, and what each index reaches of its encoder."""
    sides = [
        (name, f"{rate:.1f}", _ratio(values["ratios"][name]))
        for name, rate in values["pictures_a_second"].items()
    ]
    reached = [(name, _ratio(ratio)) for name, ratio in values["reached"].items()]
    source = (
        f"{values['files']} JPEG files of {values['size']}, {values['bytes_a_file'] // 1000} kB "
        f"each; {describe_source(values, 'onnxruntime', 'torch')}."
    )
    return "\n\n".join(
        (
            format_table(("side", "pictures a second", f"times {values['baseline']}"), sides),
            format_table(("ratio in the same round", "median (middle half)"), reached),
            source,
        )
    )


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})"
