"""The fields that items have: what a filter may ask for, and sentences where it may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ztcir_sdk.filters.expression import PATH, Field, Filter, number_of
from ztcir_sdk.filters.parsing import FilterError

__all__ = ["FieldSummary", "require_kinds", "summarise_fields"]

RESERVED = frozenset(
    (
        *("alter", "and", "any", "as", "between", "case", "create", "cross", "current_date"),
        *("current_time", "current_timestamp", "current_user", "distinct", "drop", "else"),
        *("except", "false", "fetch", "for", "from", "glob", "grant", "having", "ilike", "inner"),
        *("insert", "intersect", "into", "join", "lateral", "like", "localtime", "not", "null"),
        *("on", "or", "outer", "qualify", "regexp", "returning", "revoke", "rlike", "rollback"),
        *("select", "tablesample", "then", "true", "union", "using", "when", "where", "with"),
        "xor",
    )
)
"""Names that a filter only takes in quotes."""

MAX_VALUES = 1000
"""Distinct values of a field that are counted; a field with more shows the first ones."""
EXAMPLES = 5


@dataclass(frozen=True)
class FieldSummary:
    """A field that a filter can ask for."""

    name: str
    """As it is written in a filter."""
    kind: str
    """"number", "text" or "list"; joined by "or" where items differ."""
    items: int
    """Items that have it, and not as null."""
    distinct: int | None
    """Different values; None for more than `MAX_VALUES`."""
    values: list[Any]
    """The most frequent values, up to five, if they are few; else the first ones."""
    least: float | None
    """The smallest number, if it has numbers,"""
    most: float | None
    """and the largest."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def summarise_fields(items: Iterable[Mapping[str, Any] | None]) -> list[FieldSummary]:
    """Return a summary of every field in the metadata of items, the most frequent first."""
    found: dict[tuple[str, ...], _Seen] = {}
    for metadata in items:
        for keys, value in _walk((), metadata or {}):
            if value is not None:
                found.setdefault(keys, _Seen()).add(value)
    summaries = [seen.summary(_written(keys)) for keys, seen in found.items()]
    return sorted(summaries, key=lambda one: (-one.items, one.name))


def require_kinds(
    where: Filter,
    has: Callable[[Field, type | None], bool],
    example: Callable[[Field], Any],
    names: Callable[[], list[str]],
) -> None:
    """Check that the items have what a filter compares.

    Args:
        where: the filter.
        has: whether an item has a field with a value of a kind: `str`, `float`, None for any.
        example: a value of a field.
        names: the fields that there are.

    Raises:
        FilterError: a field is unknown, or is compared with another kind than it holds.
    """
    for field, kinds in where.uses().items():
        if field == PATH:
            if float in kinds:
                raise FilterError("path is a text: write what it is compared with in quotes.")
            continue
        for kind in kinds:
            if has(field, kind):
                continue
            if kind is None or not has(field, None):
                raise FilterError(_unknown(field, names()))
            raise FilterError(_other_kind(field, kind, example(field)))


def _unknown(field: Field, names: list[str]) -> str:
    if not names:
        return (
            f"There is no field {field}, since the images of this index have no metadata: give a "
            "table with `ztcir index --metadata`; without one, only path can be asked for."
        )
    folded = {name.casefold(): name for name in names}
    import difflib

    close = difflib.get_close_matches(field.keys[0].casefold(), folded, n=1)
    if close and folded[close[0]] != field.keys[0]:
        return f"There is no field {field}: did you mean {_written((folded[close[0]],))}?"
    shown = ", ".join(_written((name,)) for name in sorted(names)[:12])
    return f"There is no field {field}: `ztcir index --fields` lists them, such as {shown}."


def _other_kind(field: Field, kind: type, example: Any) -> str:
    if example is None:
        return f"{field} holds lists or objects, which can be compared with nothing."
    if kind is str:
        return (
            f"{field} holds numbers, such as {example}, and is compared with a text: write the "
            "number without quotes."
        )
    return (
        f"{field} holds texts, such as {str(example)[:40]!r}, and is compared with a number: "
        "write a text in single quotes."
    )


def _written(keys: tuple[str, ...]) -> str:
    """Write a field as a filter takes it: in quotes if SQL would read something else."""
    return ".".join(
        key if key.isidentifier() and key.lower() not in RESERVED else f'"{key}"' for key in keys
    )


def _walk(
    above: tuple[str, ...], values: Mapping[str, Any]
) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        keys = (*above, key)
        if '"' in key:
            continue  # a filter cannot name it
        if isinstance(value, Mapping):
            yield from _walk(keys, value)
        else:
            yield keys, value


class _Seen:
    """The values of one field."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._values: Counter[Any] = Counter()
        self._least: float | None = None
        self._most: float | None = None

    def add(self, value: Any) -> None:
        number = number_of(value)
        if isinstance(value, (list, tuple)):
            self._kinds["list"] += 1
            return
        self._kinds["text" if number is None else "number"] += 1
        if number is not None:
            self._least = number if self._least is None else min(self._least, number)
            self._most = number if self._most is None else max(self._most, number)
        if len(self._values) <= MAX_VALUES or value in self._values:
            self._values[value] += 1

    def summary(self, name: str) -> FieldSummary:
        few = len(self._values) <= MAX_VALUES
        frequent = self._values.most_common(EXAMPLES)
        return FieldSummary(
            name=name,
            kind=" or ".join(kind for kind, _ in self._kinds.most_common()),
            items=self._kinds.total(),
            distinct=len(self._values) if few else None,
            values=[value for value, _ in frequent] if few else list(self._values)[:EXAMPLES],
            least=self._least,
            most=self._most,
        )
