"""The profile as text of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import describe_source, format_count, format_table

__all__ = ["FILE", "OPENVINO_FILE", "describe_devices", "describe_profile"]

FILE = "profile.json"
OPENVINO_FILE = "profile-openvino.json"
_PARTS = {
    "cold": "A cold command, the first query of a process",
    "warm": "A warm query",
    "indexing": "One picture of an index, each station on one core",
}


def describe_profile(values: Mapping[str, Any]) -> str:
    """Tabulate the milliseconds of every station, each beside the least that it could take."""
    models = values["models"]
    columns = [f"{model['name']} {model['precision']}" for model in models]
    parts = []
    for part, title in _PARTS.items():
        stations = list(dict.fromkeys(name for model in models for name in model[part]))
        rows = [(name, *(_cell(model[part].get(name)) for model in models)) for name in stations]
        sums = [sum(one["ms"] for one in model[part].values()) for model in models]
        rows.append(("**in all**", *(f"**{_milliseconds(total)}**" for total in sums)))
        parts.append(f"{title}:\n\n{format_table(('station', *columns), rows)}")
    rates = values["rates"]
    parts.append(
        "Milliseconds, and in brackets the floor: the products of the graph at "
        f"{rates['fp32_gflops']:.0f} GFLOP/s in fp32 or {rates['int8_gops']:.0f} GOP/s in int8, or "
        f"its bytes at {rates['bandwidth_gb']:.0f} GB/s, as measured in the same run. JPEG files "
        f"of {values['size']}, {format_count(values['gallery'])} vectors; ViTs are random. "
        f"{describe_source(values, 'onnxruntime')}."
    )
    return "\n\n".join(parts)


def describe_devices(values: Mapping[str, Any]) -> str:
    """Tabulate the graphs' milliseconds on each device, in fp32."""
    stations = {
        "load the image graph": ("cold", "load image_encoder"),
        "image graph, one image": ("warm", "image graph"),
        "image graph, in bulk": ("indexing", "image graph"),
        "text graph": ("warm", "text graph"),
    }
    models = [model for model in values["models"] if model["precision"] == "fp32"]
    rows = [
        (title, *(_milliseconds(model[part][name]["ms"]) for model in models))
        for title, (part, name) in stations.items()
    ]
    columns = [f"{model['name']} {model['device']}" for model in models]
    source = describe_source(values, "onnxruntime-openvino")
    return f"{format_table(('ms', *columns), rows)}\n\nIn fp32. {source}."


def _cell(station: Mapping[str, float | None] | None) -> str:
    if station is None or station["ms"] is None:
        return ""
    floor = station["floor_ms"]
    text = _milliseconds(station["ms"])
    return text if floor is None else f"{text} ({_milliseconds(floor)})"


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
