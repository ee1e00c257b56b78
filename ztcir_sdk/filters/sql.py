"""A filter as SQL for the items of an index, in SQLite; every name and value is bound.

The items are a table with the columns ``path`` and ``metadata``, JSON as text or NULL.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
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
)
from ztcir_sdk.filters.fields import require_kinds

__all__ = ["Execute", "check_fields", "matching_among", "matching_labels", "where_clause"]

Execute = Callable[[str, Sequence[Any]], Iterable[Sequence[Any]]]
"""Runs a statement with bound values and returns its rows."""

SAMPLE = 10_000
"""Items that are looked at for the names of fields that an error suggests."""

# A text is greater than every number in SQLite, so this excludes what did not become one.
_ARE_NUMBERS = "<= CAST(9e999 AS NUMERIC)"


def matching_labels(execute: Execute, where: Filter, table: str = "items") -> list[int]:
    """Return the labels of the items that satisfy a filter, ascending.

    Raises:
        FilterError: no item has a field of the filter, or one with values of the kind it is
            compared with.
    """
    check_fields(execute, where, table)
    clause, values = where_clause(where)
    rows = _rows(execute, f"SELECT label FROM {table} WHERE {clause} ORDER BY label", values)
    return [label for (label,) in rows]


def matching_among(
    execute: Execute, where: Filter, labels: Sequence[int], table: str = "items"
) -> list[int]:
    """Return those of some labels whose items satisfy a filter, in any order.

    The filter's fields are not checked: see `check_fields`.
    """
    clause, values = where_clause(where)
    # One value for all labels, so that SQLite prepares one statement whatever their number.
    listed = "label IN (SELECT value FROM json_each(?))"
    statement = f"SELECT label FROM {table} WHERE {listed} AND {clause}"
    return [label for (label,) in _rows(execute, statement, [json.dumps(labels), *values])]


def where_clause(where: Filter) -> tuple[str, list[Any]]:
    """Return a filter as SQL with question marks, and the values to bind to them."""
    values: list[Any] = []
    return _sql(where.condition, values), values


def check_fields(execute: Execute, where: Filter, table: str = "items") -> None:
    """Check that some item has each field of a filter, and values to compare with.

    Raises:
        FilterError: none has; the sentence names fields or values that there are.
    """

    def exists(condition: str, values: Sequence[Any]) -> bool:
        statement = f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1"
        return bool(_rows(execute, statement, values))

    def has(field: Field, kind: type | None) -> bool:
        place = json_path(field)
        if kind is None:
            return exists("json_type(metadata, ?) IS NOT NULL", [place])
        if kind is str:
            return exists("json_type(metadata, ?) = 'text'", [place])
        return exists(f"json_extract(metadata, ?) {_ARE_NUMBERS}", [place])

    def example(field: Field) -> Any:
        statement = (
            f"SELECT json_extract(metadata, ?) FROM {table} "
            "WHERE json_type(metadata, ?) NOT IN ('null', 'object', 'array') LIMIT 1"
        )
        rows = _rows(execute, statement, [json_path(field), json_path(field)])
        return rows[0][0] if rows else None

    def names() -> list[str]:
        statement = (
            f"SELECT DISTINCT key FROM (SELECT metadata FROM {table} "
            "WHERE metadata IS NOT NULL LIMIT ?) AS some, json_each(some.metadata)"
        )
        return [str(name) for (name,) in _rows(execute, statement, [SAMPLE])]

    require_kinds(where, has, example, names)


def json_path(field: Field) -> str:
    """Return a field as a path of SQLite's JSON functions."""
    # Escaped as `json.dumps` writes keys: SQLite before 3.45 compares the escapes themselves.
    return "$" + "".join(f".{json.dumps(key)}" for key in field.keys)


def _rows(execute: Execute, statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
    try:
        return list(execute(statement, values))
    except sqlite3.OperationalError as error:
        if "malformed JSON" not in str(error):
            raise
        # Old versions wrote NaN, which is no JSON; such items have no fields.
        valid = "CASE WHEN json_valid(metadata) THEN metadata END"
        return list(execute(statement.replace("(metadata,", f"({valid},"), values))


def _sql(condition: Condition, values: list[Any]) -> str:
    if isinstance(condition, (AllOf, AnyOf)):
        joint = " AND " if isinstance(condition, AllOf) else " OR "
        return _balanced([_sql(part, values) for part in condition.parts], joint)
    if isinstance(condition, IsNull):
        return _null_sql(condition, values)
    if isinstance(condition, Like):
        return _text_sql(condition.field, values, _glob(condition), condition.negated)
    if isinstance(condition, OneOf):
        return _one_of_sql(condition, values)
    return _comparison_sql(condition, values)


def _balanced(parts: Sequence[str], joint: str) -> str:
    """Join conditions as a tree of little depth, which SQLite limits to 1000."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_balanced(parts[:half], joint)}{joint}{_balanced(parts[half:], joint)})"


def _null_sql(condition: IsNull, values: list[Any]) -> str:
    if condition.field == PATH:
        return "1" if condition.negated else "0"
    values.append(json_path(condition.field))
    kind = "coalesce(json_type(metadata, ?), 'null')"
    return f"{kind} {'!=' if condition.negated else '='} 'null'"


def _comparison_sql(condition: Comparison, values: list[Any]) -> str:
    if isinstance(condition.value, str):
        test = (f"{condition.operator} ?", condition.value)
        return _text_sql(condition.field, values, test, negated=False)
    place = json_path(condition.field)
    values += [place, condition.value]
    compared = f"json_extract(metadata, ?) {condition.operator} CAST(? AS NUMERIC)"
    return _numbers_only(compared, place, values)


def _one_of_sql(condition: OneOf, values: list[Any]) -> str:
    bound = json.dumps(condition.values)
    if isinstance(condition.values[0], str):
        test = ("IN (SELECT value FROM json_each(?))", bound)
        return _text_sql(condition.field, values, test, condition.negated)
    place = json_path(condition.field)
    values += [place, bound]
    word = "NOT IN" if condition.negated else "IN"
    listed = "(SELECT CAST(value AS NUMERIC) FROM json_each(?))"
    return _numbers_only(f"json_extract(metadata, ?) {word} {listed}", place, values)


def _numbers_only(compared: str, place: str, values: list[Any]) -> str:
    """Exclude texts that are no numbers, which a comparison with NUMERIC leaves as they are."""
    values.append(place)
    return f"({compared} AND json_extract(metadata, ?) {_ARE_NUMBERS})"


def _text_sql(field: Field, values: list[Any], test: tuple[str, str], negated: bool) -> str:
    """Compare a text; a list or an object, which SQLite would give as text, is none."""
    comparison, value = test
    no = "NOT " if negated else ""
    if field == PATH:
        values.append(value)
        return f"path {no}{comparison}"
    place = json_path(field)
    values += [place, value, place]
    return f"(json_extract(metadata, ?) {no}{comparison} AND json_type(metadata, ?) = 'text')"


def _glob(condition: Like) -> tuple[str, str]:
    """Return a LIKE as a GLOB, which tells upper from lower case."""
    marks = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "GLOB ?", "".join(marks.get(char, char) for char in condition.pattern)
