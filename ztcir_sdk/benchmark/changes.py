"""The times of two results of `benchmark` side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import AUTOMATIC, IMAGE_ENCODER

__all__ = ["changes", "configuration", "describe_precision", "named_timings", "read_result"]

_SIZES = ("images", "references", "texts", "tokens")


def configuration(result: Mapping[str, Any]) -> str:
    """Return what ran a result's graphs: "onnx, cpu, int8"; older results name no backend."""
    backend = result.get("backend", AUTOMATIC)
    if backend == AUTOMATIC:
        providers = set(result.get("providers", {}).values())
        backend = "tensorrt" if any(one.startswith("TensorRT") for one in providers) else "onnx"
    return f"{backend}, {result['device']}, {describe_precision(result)}"


def describe_precision(result: Mapping[str, Any]) -> str:
    """Return the precision of a result's graphs: "fp32"; "int8, image encoder fp32" if they differ.

    ``precisions`` has that of each graph; older results have the image encoder's alone.
    """
    image: str = result["precision"]
    others = {one for graph, one in result.get("precisions", {}).items() if graph != IMAGE_ENCODER}
    if others <= {image}:
        return image
    return f"{' and '.join(sorted(others))}, {IMAGE_ENCODER.replace('_', ' ')} {image}"


def named_timings(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the timings of one configuration, each with a name that fits half a terminal."""
    for graph, timings in result["graphs"].items():
        for timing in timings:
            yield f"{graph.replace('_', ' ')}, {_sizes(timing)}", timing
    for station, timing in result.get("stations", {}).items():
        yield f"station {station}", timing
    query = result["query"]
    gallery = _count(query["index"], "image")
    yield f"query, new JPEG, {gallery}", query["first_text"]
    yield f"query, same JPEG, {gallery}", query["second_text"]


def read_result(path: Path) -> dict[str, Any]:
    """Read a file that ``ztcir bench --json`` wrote.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        values: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): name a file that `ztcir bench --json` "
            "wrote."
        ) from error
    except ValueError:
        values = None
    try:
        for result in (values, *values.get("others", ())):
            configuration(result)
            for _, timing in named_timings(result):
                float(timing["p50_ms"])
            float(result["indexing"]["pictures_per_second"])
            str(result["machine"]["cpu"]), int(result["threads"]), result["bundle"]["fingerprint"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is not a result of a benchmark: name a file that `ztcir bench --json` wrote."
        ) from error
    found: dict[str, Any] = values
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the medians of two results.

    Returns:
        ``runs``: for each configuration that both have, its ``configuration`` and ``times``: name,
        ``old_ms``, ``new_ms`` and their ``ratio``, which is above 1 where the new one is faster.
        ``differs``: what else the results differ in: "machine", "threads", "bundle".
    """
    before = {configuration(one): one for one in (old, *old.get("others", ()))}
    runs = []
    for one in (new, *new.get("others", ())):
        name = configuration(one)
        if name in before:
            runs.append({"configuration": name, "times": _times(before[name], one)})
    differs = [
        what
        for what, values in {
            "machine": [each["machine"]["cpu"] for each in (old, new)],
            "threads": [each["threads"] for each in (old, new)],
            "bundle": [each["bundle"]["fingerprint"] for each in (old, new)],
        }.items()
        if values[0] != values[1]
    ]
    return {"runs": runs, "differs": differs}


def _times(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    medians = {name: timing["p50_ms"] for name, timing in named_timings(old)}
    rows = [
        (name, medians[name], timing["p50_ms"])
        for name, timing in named_timings(new)
        if name in medians
    ]
    rates = [each["indexing"]["pictures_per_second"] for each in (old, new)]
    rows.append(("indexing, one image", *(round(1e3 / rate, 3) for rate in rates)))
    return [
        {
            "name": name,
            "old_ms": before,
            "new_ms": after,
            "ratio": round(before / after, 3) if after else None,
        }
        for name, before, after in rows
    ]


def _sizes(timing: Mapping[str, Any]) -> str:
    return " of ".join(_count(timing[name], name[:-1]) for name in _SIZES if name in timing)


def _count(number: int, one: str) -> str:
    """Return "1 image" or "10 000 images"."""
    return f"{number:,} {one}{'' if number == 1 else 's'}".replace(",", " ")
