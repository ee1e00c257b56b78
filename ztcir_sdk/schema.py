"""JSON values as instances of declared schemas; an error names the entry and what is expected.

A schema is a frozen ``msgspec.Struct``. The ``description`` in an entry's ``msgspec.Meta`` states
what is expected there, such as "64 hexadecimal digits".
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

__all__ = ["EntryError", "NaturalNumber", "PositiveNumber", "Text", "from_json", "to_json"]

T = TypeVar("T")
E = TypeVar("E", bound="EntryError")

PositiveNumber = Annotated[int, msgspec.Meta(ge=1, description="a whole number of at least 1")]
NaturalNumber = Annotated[
    int, msgspec.Meta(ge=0, lt=1 << 53, description="a whole number of at least 0")
]
Text = Annotated[str, msgspec.Meta(pattern=r"\S", description="a text that is not empty")]

_DESCRIPTIONS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
}


class EntryError(ValueError):
    """An entry is missing, unknown or wrong.

    Attributes:
        entry: where it is, such as "graphs.text_encoder.fp32.file".
        problem: what is wrong, such as "is missing".
    """

    def __init__(self, entry: str, problem: str) -> None:
        super().__init__(entry, problem)
        self.entry = entry
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.entry or 'the file'} {self.problem}"

    @classmethod
    def wrong(cls: type[E], entry: str, value: Any, expected: str) -> E:
        """Return the error of an entry that has an unusable value."""
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return cls(entry, f"is {shown}, not {expected}")


def from_json(values: Any, schema: type[T]) -> T:
    """Return JSON values as an instance of a schema.

    Raises:
        EntryError: an entry is missing, unknown or wrong.
    """
    try:
        return msgspec.convert(values, schema)
    except msgspec.ValidationError as error:
        raise _find_error(values, schema, "") from error


def to_json(value: Any) -> Any:
    """Return an instance of a schema as JSON values."""
    return _with_lists(msgspec.to_builtins(value))


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _find_error(value: Any, expected: Any, entry: str) -> EntryError:
    """Return the error of the innermost entry that is wrong; `value` is known to hold one."""
    description, kind = _unwrap(expected)
    if container := _container(kind):
        if not isinstance(value, dict if container == "an object" else (list, tuple)):
            return EntryError.wrong(entry, value, description or container)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
            for name, field in known.items():
                if field.required and name not in value:
                    return EntryError(_join(entry, name), "is missing")
            for name in value if kind.__struct_config__.forbid_unknown_fields else ():
                if name not in known:
                    return EntryError(_join(entry, name), "is not a known entry")
        for name, inner, inner_type in _children(value, kind, entry):
            try:
                msgspec.convert(inner, inner_type)
            except msgspec.ValidationError:
                return _find_error(inner, inner_type, name)
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        cause = error.__cause__  # raised by `__post_init__`
        if isinstance(cause, EntryError):
            return EntryError(_join(entry, cause.entry), cause.problem)
        if cause is not None:
            return EntryError(entry, f"cannot be used: {cause}")
    return EntryError.wrong(entry, value, description or container or _describe(kind))


def _unwrap(expected: Any) -> tuple[str, Any]:
    """Return an annotation's description, if it has one, and its type without None."""
    description = ""
    if get_origin(expected) is Annotated:
        expected, *metas = get_args(expected)
        description = next((meta.description for meta in metas if meta.description), "")
    if get_origin(expected) in (Union, types.UnionType):
        others = [one for one in get_args(expected) if one is not type(None)]
        if len(others) == 1:
            inner, kind = _unwrap(others[0])
            return description or inner, kind
    return description, expected


def _container(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if not isinstance(origin, type) or issubclass(origin, str):
        return ""
    if issubclass(origin, (msgspec.Struct, Mapping)) or is_dataclass(origin):
        return "an object"
    return "a list" if issubclass(origin, Sequence) else ""


def _children(value: Any, kind: Any, entry: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the place, value and type of each entry of an object or a list."""
    if isinstance(value, dict):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            inner = {one.encode_name: one.type for one in msgspec.structs.fields(kind)}
        else:
            inner = dict.fromkeys(value, get_args(kind)[1]) if get_args(kind) else {}
        for name, one in value.items():
            if name in inner:
                yield _join(entry, name), one, inner[name]
    else:
        for number, one in enumerate(value):
            yield f"{entry}[{number}]", one, get_args(kind)[0]


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_unwrap(one)[0] or _describe(one) for one in get_args(kind))
    return _DESCRIPTIONS.get(kind, str(kind))


def _join(entry: str, name: str) -> str:
    return f"{entry}.{name}" if entry else str(name)
