"""The results of this benchmark as text of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import describe_source, format_table

__all__ = ["DECODING", "describe_decoding", "describe_indexing"]

DECODING = "indexing-decoding.json"


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


def describe_decoding(values: Mapping[str, Any]) -> str:
    """Tabulate what decoding takes, and how near scaled pictures are to the exact transform."""
    sizes = values["decoders"]
    names = list(dict.fromkeys(name for one in sizes.values() for name in one["timings"]))
    rows = [
        (
            name,
            *(
                f"{one['timings'][name]['ms_a_picture']:.1f}" if name in one["timings"] else ""
                for one in sizes.values()
            ),
        )
        for name in names
    ]
    tolerance = values["tolerance"]
    cosines = [
        (
            f"{one['width']} pixels",
            f"1/{one['scale']}",
            "yes" if one["chosen"] else "",
            f"{one['mean']:.5f}",
            f"{one['least']:.5f}",
        )
        for one in tolerance["cosines"]
    ]
    columns = ("photo's width", "decoded at", "chosen", "mean cosine", "least cosine")
    return "\n\n".join(
        (
            format_table(("decoder", *(f"{size}, ms" for size in sizes)), rows),
            format_table(columns, cosines),
            f"Cosines of {tolerance['photos']} photos' vectors with those of the exact transform, "
            f"bundle `{tolerance['bundle']}`. "
            f"{describe_source(values, 'pillow', *_installed(values))}.",
        )
    )


def _installed(values: Mapping[str, Any]) -> list[str]:
    return [name for name in ("simplejpeg", "pyvips", "av") if values["versions"].get(name)]


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})"
