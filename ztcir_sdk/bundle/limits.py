"""Sane maxima for the numbers of a manifest: larger ones are an error, or an attack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["MANIFEST_BYTES", "MAXIMA", "MAX_FILES", "MAX_FILE_BYTES", "why_unusable"]

MANIFEST_BYTES = 16_000_000
"""Bytes of ``bundle.json``."""
MAX_FILES = 1_000
"""Files of a bundle."""
MAX_FILE_BYTES = 100_000_000_000
"""Bytes of one of them."""
MAX_EDGE = 8_192
"""Pixels of an edge of ``pixel_values``."""
MAX_LEVEL = 1e6
"""Largest mean and standard deviation of the preprocessing."""

MAXIMA: Mapping[str, int] = {
    "embed": 1 << 16,
    "patch": 1 << 16,
    "patches": 1 << 16,
    "text": 1 << 16,
    "vsi_layers": 1 << 10,
    "vsi": 1 << 16,
    "context_length": 1 << 16,
    "pad_to": 1 << 16,
    "pad_id": 1 << 24,
    "tokens": 1 << 10,
    "edge": 1 << 32,
    "text_characters": 1 << 16,
    "prototype_bytes": 1 << 26,
}
"""Entry -> its largest value."""


def why_unusable(values: Any) -> str | None:
    """Return what is wrong with the values of a manifest as a whole; None if nothing is."""
    try:
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it has a text that is not Unicode"
    except ValueError:
        return "it has a number that JSON does not have"
    if isinstance(values, dict) and isinstance(values.get("preprocessing"), dict):
        return _preprocessing_problem(values["preprocessing"])
    return None


def _preprocessing_problem(numbers: Mapping[str, Any]) -> str | None:
    limits = {"image_size": MAX_EDGE, "mean": MAX_LEVEL, "std": MAX_LEVEL}
    for name, most in limits.items():
        found = numbers.get(name)
        if isinstance(found, list) and any(
            isinstance(one, (int, float)) and abs(one) > most for one in found
        ):
            return f"its preprocessing.{name} is over {most:g}"
    return None
