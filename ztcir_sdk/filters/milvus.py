"""A filter as an expression of Milvus, and the columns that it asks.

An item's fields are stored as one JSON value, made by `filter_columns`: Milvus can neither turn a
text into a number nor, in every version, tell a missing key from a false comparison. So "n" and
"t" hold numbers and texts by field, and "has" lists which fields have a number, a text, or any
value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ztcir_sdk.filters.expression import (
    PATH,
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Field,
    Filter,
    IsNull,
    Like,
    OneOf,
    number_of,
)
from ztcir_sdk.filters.parsing import FilterError

__all__ = ["FIELDS", "filter_columns", "has_expression", "milvus_expression", "text_literal"]

FIELDS = "fields"
"""Column of the JSON value of `filter_columns`."""
KEY, ANY, NUMBER, TEXT = "k", "a", "n", "t"
"""Marks of what an item has of a field: the key, a value that is not null, a number, a text."""
MAX_VALUES = 1000
"""Values of an IN, at most: Milvus Lite knows none for JSON, so they are joined by OR."""


def filter_columns(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what Milvus stores of an item's metadata, to be filtered by."""
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    has: list[str] = []

    def enter(keys: tuple[str, ...], values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            place = (*keys, key)
            name = _key(Field(place))
            has.append(f"{KEY}:{name}")
            if value is not None:
                has.append(f"{ANY}:{name}")
            if isinstance(value, Mapping):
                enter(place, value)
            if isinstance(value, str):
                texts[name] = value
                has.append(f"{TEXT}:{name}")
            number = number_of(value)
            if number is not None:
                numbers[name] = number
                has.append(f"{NUMBER}:{name}")

    enter((), metadata or {})
    return {"has": has, "n": numbers, "t": texts}


def milvus_expression(where: Filter) -> str:
    """Return a filter as an expression of Milvus, with literals that are escaped here.

    Raises:
        FilterError: a pattern has a backslash, which versions of Milvus read differently.
    """
    return _expression(where.condition)


def has_expression(field: Field, kind: type | None) -> str:
    """Return the expression of the items that have a field with a text, a number, or at all."""
    return _has({str: TEXT, float: NUMBER}.get(kind, KEY) if kind else KEY, field)


def _has(mark: str, field: Field) -> str:
    return f'json_contains({FIELDS}["has"], {text_literal(f"{mark}:{_key(field)}")})'


def text_literal(text: str) -> str:
    """Return a text as a literal of Milvus."""
    return json.dumps(text, ensure_ascii=False)


def _expression(condition: Condition) -> str:
    if isinstance(condition, (AllOf, AnyOf)):
        joint = " and " if isinstance(condition, AllOf) else " or "
        return "(" + joint.join(_expression(part) for part in condition.parts) + ")"
    if isinstance(condition, IsNull):
        if condition.field == PATH:
            return 'path >= ""' if condition.negated else 'path < ""'
        has = _has(ANY, condition.field)
        return has if condition.negated else f"(not {has})"
    kind, test = _test(condition)
    if condition.field == PATH:
        return test
    return f"({has_expression(condition.field, kind)} and {test})"


def _test(condition: Comparison | OneOf | Like) -> tuple[type, str]:
    """Return the kind of value that a condition compares, and the comparison."""
    if isinstance(condition, Comparison):
        kind: type = str if isinstance(condition.value, str) else float
        operator = "==" if condition.operator == "=" else condition.operator
        return kind, f"{_column(condition.field, kind)} {operator} {_literal(condition.value)}"
    if isinstance(condition, OneOf):
        kind = str if isinstance(condition.values[0], str) else float
        if len(condition.values) > MAX_VALUES:
            raise FilterError(
                f"{condition.field} IN (...) has more than {MAX_VALUES} values, which is too many "
                "for Milvus: split the search."
            )
        operator, joint = ("!=", " and ") if condition.negated else ("==", " or ")
        column = _column(condition.field, kind)
        parts = [f"{column} {operator} {_literal(value)}" for value in condition.values]
        return kind, f"({joint.join(parts)})"
    if "\\" in condition.pattern:
        raise FilterError(
            f"The pattern {condition.pattern!r} has a backslash, which cannot be searched for in "
            "Milvus: use _ in its place."
        )
    like = f"{_column(condition.field, str)} like {text_literal(condition.pattern)}"
    return str, f"(not ({like}))" if condition.negated else like


def _column(field: Field, kind: type) -> str:
    if field == PATH:
        return "path"
    return f'{FIELDS}["{TEXT if kind is str else NUMBER}"][{text_literal(_key(field))}]'


def _literal(value: str | int | float) -> str:
    return text_literal(value) if isinstance(value, str) else repr(value)


def _key(field: Field) -> str:
    """Return a field as one key; those of nested objects cannot equal another's."""
    return ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in field.keys)
