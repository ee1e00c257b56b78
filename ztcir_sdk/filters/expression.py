"""A condition on an item's fields, and which items satisfy it.

Fields are the keys of an item's metadata, such as ``price`` or ``seller.city``, and ``path``.
Logic has three values, as in SQL: a comparison with a value of another kind, or with none, is
neither true nor false, and only what is true is found. Parsing moves NOT into the comparisons, so
unknown and false need no distinction here.

Numbers are compared with numbers, with texts that hold one number (as in CSV files), and with true
and false, which are 1 and 0. Texts are compared by code points; upper and lower case differ.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

__all__ = [
    "OPPOSITES",
    "PATH",
    "AllOf",
    "AnyOf",
    "Comparison",
    "Condition",
    "Field",
    "Filter",
    "IsNull",
    "Like",
    "OneOf",
    "Value",
    "number_of",
]

Value: TypeAlias = "str | int | float"
"""A text or a number; true and false are 1 and 0."""

OPPOSITES: Mapping[str, str] = MappingProxyType(
    {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
)
"""Operator -> the one that is true where it is false."""

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        "=": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
)
_NUMBER = re.compile(
    r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*"
)
_MAX_INTEGER = 1 << 63


@dataclass(frozen=True)
class Field:
    """A field of an item: the keys that lead to it in the metadata."""

    keys: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.keys)

    def of(self, path: str, metadata: Mapping[str, Any] | None) -> Any:
        """Return an item's value; None if it has none."""
        if self == PATH:
            return path
        value: Any = metadata
        for key in self.keys:
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value


PATH = Field(("path",))
"""The item's path, relative to the collection's root."""


@dataclass(frozen=True)
class Comparison:
    """``price < 50``."""

    field: Field
    operator: str
    """Of `OPPOSITES`."""
    value: Value


@dataclass(frozen=True)
class OneOf:
    """``colour IN ('Red', 'Blue')``; all values are texts, or all are numbers."""

    field: Field
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True)
class Like:
    """``name LIKE '%shirt%'``: % is any text, _ any character."""

    field: Field
    pattern: str
    negated: bool = False


@dataclass(frozen=True)
class IsNull:
    """``price IS NULL``: the item has no such field, or null."""

    field: Field
    negated: bool = False


@dataclass(frozen=True)
class AllOf:
    """Conditions joined by AND."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Conditions joined by OR."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = "Comparison | OneOf | Like | IsNull | AllOf | AnyOf"


@dataclass(frozen=True)
class Filter:
    """A parsed ``where``; `parse_filter` makes one."""

    text: str
    """As the user wrote it."""
    condition: Condition

    def __str__(self) -> str:
        return self.text

    def uses(self) -> dict[Field, set[type[str] | type[float] | None]]:
        """Return each field, and what it is compared with: `str`, `float` or only with null."""
        used: dict[Field, set[type[str] | type[float] | None]] = {}
        for leaf in _leaves(self.condition):
            used.setdefault(leaf.field, set()).add(_kind(leaf))
        return used

    def matches(self, path: str, metadata: Mapping[str, Any] | None = None) -> bool:
        """Return whether an item satisfies it; every engine gives the same answer."""
        return _holds(self.condition, path, metadata)


def number_of(value: Any) -> int | float | None:
    """Return a value as a number; None if it is none, and no text that holds one."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
        try:
            value = int(value)
        except ValueError:  # has a fraction or an exponent, or too many digits
            return float(value)
    if isinstance(value, int):
        whole = int(value)
        return whole if -_MAX_INTEGER <= whole < _MAX_INTEGER else _as_float(whole)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return None


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _leaves(condition: Condition) -> Iterator[Comparison | OneOf | Like | IsNull]:
    waiting = [condition]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (AllOf, AnyOf)):
            waiting.extend(reversed(one.parts))
        else:
            yield one


def _kind(leaf: Comparison | OneOf | Like | IsNull) -> type[str] | type[float] | None:
    if isinstance(leaf, IsNull):
        return None
    if isinstance(leaf, Like):
        return str
    value = leaf.value if isinstance(leaf, Comparison) else leaf.values[0]
    return str if isinstance(value, str) else float


def _holds(condition: Condition, path: str, metadata: Mapping[str, Any] | None) -> bool:
    if isinstance(condition, AllOf):
        return all(_holds(part, path, metadata) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(_holds(part, path, metadata) for part in condition.parts)
    value = condition.field.of(path, metadata)
    if isinstance(condition, IsNull):
        return (value is None) != condition.negated
    if _kind(condition) is float:
        value = number_of(value)
    elif not isinstance(value, str):
        value = None
    if value is None:
        return False
    if isinstance(condition, Comparison):
        return _OPERATORS[condition.operator](value, condition.value)
    if isinstance(condition, OneOf):
        return (value in condition.values) != condition.negated
    return (_pattern(condition.pattern).fullmatch(value) is not None) != condition.negated


def _pattern(like: str) -> re.Pattern[str]:
    parts = ({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in like)
    return re.compile("".join(parts), re.DOTALL)
