"""Metadata of images as JSON objects: bounded, finite and writable again."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "MAX_METADATA_BYTES",
    "MAX_METADATA_DEPTH",
    "clean_metadata",
    "parse_metadata",
    "stored_metadata",
]

MAX_METADATA_BYTES = 1_000_000
"""JSON texts of more bytes are not read."""
MAX_METADATA_DEPTH = 100
"""Levels of objects and lists within each other."""
MAX_NUMBER = 10**300
"""Whole numbers from here on become null, as the infinity that most JSON readers make of them."""


def parse_metadata(text: bytes) -> dict[str, Any]:
    """Return the JSON object of a text; see `clean_metadata`.

    Raises:
        ValueError: it is no JSON object, too large or nested too deeply.
    """
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"it has more than {MAX_METADATA_BYTES // 1_000_000} MB")
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_METADATA_DEPTH} levels deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return clean_metadata(value)


def clean_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that every JSON reader and every encoding can take.

    NaN, infinite numbers and whole numbers of more than 300 digits become null, surrogates that
    stand alone become U+FFFD, and dates and other objects become text.

    Raises:
        ValueError: it is nested too deeply.
    """
    cleaned = _clean(values, MAX_METADATA_DEPTH)
    assert isinstance(cleaned, dict)
    return cleaned


def stored_metadata(text: Any) -> dict[str, Any] | None:
    """Return the metadata of an item of an index, which somebody else may have written.

    Raises:
        ValueError: it is no JSON object, or too large.
    """
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > 16 * MAX_METADATA_BYTES:
        raise ValueError("its metadata are not a text, or too large")
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("its metadata are nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("its metadata are not an object")
    # Older versions wrote NaN and Infinity, which are no JSON.
    plain = not re.search(r"NaN|Infinity|[0-9][eE]\+?[0-9]{3}|\\u[dD]|[0-9]{300}", text)
    return value if plain else clean_metadata(value)


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int)):
        return value if value is None or abs(value) < MAX_NUMBER else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (Mapping, list, tuple)):
        if depth == 0:
            raise ValueError(f"it is nested more than {MAX_METADATA_DEPTH} levels deep")
        if isinstance(value, Mapping):
            return {_text(str(key)): _clean(inner, depth - 1) for key, inner in value.items()}
        return [_clean(inner, depth - 1) for inner in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    return _text(str(value))


def _whole_number(digits: str) -> int | float:
    # Python refuses to convert thousands of digits, and others take forever.
    return int(digits) if len(digits) <= 301 else math.inf


def _text(value: str) -> str:
    # JSON may write a character as two surrogates; only those that stand alone are replaced.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
