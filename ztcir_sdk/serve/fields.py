"""The fields of items' metadata that a filter can ask for, as the page offers them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ztcir_sdk.filters.expression import PATH, number_of

__all__ = ["offered_fields"]

MAX_FIELDS = 20
MAX_DEPTH = 8
"""Keys that lead to a field."""
MAX_VALUES = 50
MAX_CHARACTERS = 200
"""Longest text of a choice."""
MAX_INTEGER = 1 << 53
"""Largest whole number that a page reads as it is."""


def offered_fields(items: Iterable[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Return the fields of the metadata of items, as values of `models.FieldModel`.

    A number has its bounds. A field with few values, or with values that recur, has the most
    frequent ones as they are in the metadata: a filter compares each as its own kind. Any other
    field holds texts. What no filter can name or compare is left out.
    """
    found: dict[tuple[str, ...], Counter[Any]] = {}
    for metadata in items:
        for keys, value in _values((), metadata or {}):
            found.setdefault(keys, Counter())[value] += 1
    fields: dict[str, dict[str, Any]] = {}
    for keys, counts in found.items():
        # of "a.b" and b in a, which would look alike, the first is offered
        fields.setdefault(".".join(keys), _field(keys, counts))
    return list(fields.values())[:MAX_FIELDS]


def _values(above: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in values.items():
        keys = (*above, key)
        if not key or '"' in key or "\0" in key or keys == PATH.keys:
            continue
        if isinstance(value, Mapping):
            if len(keys) < MAX_DEPTH:
                yield from _values(keys, value)
        elif isinstance(value, str):
            if value and "\0" not in value:
                yield keys, value
        elif isinstance(value, (int, float)) and number_of(value) is not None:
            yield keys, value


def _field(keys: tuple[str, ...], counts: Counter[Any]) -> dict[str, Any]:
    field = {"name": ".".join(keys), "where": ".".join(f'"{key}"' for key in keys)}
    # as in a filter: a text that holds a number, as cells of a CSV file do, is one
    numbers = [number for value in counts if (number := number_of(value)) is not None]
    are_numbers = len(numbers) == len(counts) and all(map(math.isfinite, numbers))
    if are_numbers and not all(isinstance(value, bool) for value in counts):
        return {**field, "kind": "number", "least": min(numbers), "most": max(numbers)}
    if len(counts) <= MAX_VALUES or counts.total() >= 4 * len(counts):
        return {**field, "kind": "choice", "values": _choices(counts)}
    return {**field, "kind": "text"}


def _choices(counts: Counter[Any]) -> list[Any]:
    """Return the most frequent values that a filter can be sent for."""
    numbers = {value for value in counts if not isinstance(value, str)}

    def is_offered(value: Any) -> bool:
        if isinstance(value, str):  # 5 finds "5" too
            return len(value) <= MAX_CHARACTERS and number_of(value) not in numbers
        return math.isfinite(value) and abs(value) <= MAX_INTEGER

    return [value for value, _ in counts.most_common() if is_offered(value)][:MAX_VALUES]
