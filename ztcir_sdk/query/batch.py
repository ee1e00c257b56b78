"""Files of queries: CSV with a column for each part of a query, or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ztcir_sdk.errors import UsageError, ZtcirError, is_number
from ztcir_sdk.query.query import Query, with_weights

__all__ = ["BatchQuery", "parse_batch", "read_batch"]

SEPARATOR = "|"
"""Between several pictures or texts of one cell of a CSV."""
FIELDS: Mapping[str, str] = {
    "image": "images",
    "images": "images",
    "reference": "images",
    "text": "texts",
    "texts": "texts",
    "not": "without",
    "unlike": "unlike",
}
"""Column or key -> field of `Query`; there may be several of each."""
SINGLE = ("weights", "strength", "where")
"""Columns or keys of a whole query."""
KNOWN = "id, image, text, not, unlike, weights, strength and where"
OTHER_SEPARATORS: Mapping[str, str] = {";": "semicolons", "\t": "tabs"}
"""What other programs put between columns -> its name."""

_ARRAY_OF_OBJECTS = re.compile(r"\s*\[\s*\{")


@dataclass(frozen=True)
class BatchQuery:
    """One row of a file of queries."""

    id: str
    """The row's own "id", or its number from 1."""
    query: Query | None
    error: str | None = None
    """Why the row is no query."""


def read_batch(path: str | os.PathLike[str]) -> Iterator[BatchQuery]:
    """Yield the queries of a file, in order.

    A CSV has a header with some of the columns ``id``, ``image``, ``text``, ``not``, ``unlike``,
    ``weights``, ``strength``, ``where``; a cell of the first five holds several values separated
    by ``|``, one of ``weights`` a number for each image, then for each text, separated by commas.
    JSON lines (``.jsonl``) have the same keys; the values of the first five are a text, or a list
    of texts and of pairs of a text and its weight. Paths of images start from the current folder,
    not from the file's.

    A row that is no query has its `BatchQuery.error`, and ends nothing. Only the others can be
    answered by `Retriever.search_many`::

        rows = list(read_batch("queries.csv"))
        queries = [row.query for row in rows if row.query is not None]

    Raises:
        ZtcirError: the file cannot be read.
        UsageError: it is not UTF-8; it is a JSON array; or a CSV has no column of a query, one that
            is unknown, one twice, or other separators than commas.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ZtcirError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    return parse_batch(data, Path(path))


def parse_batch(data: bytes, file: Path, *, max_where: int | None = None) -> Iterator[BatchQuery]:
    """Yield the queries of a file that was read; see `read_batch`.

    Each row is parsed when it is asked for. With `max_where`, a row whose filter has more
    characters has an error instead of a query.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 ({error.reason}): save it as UTF-8.") from error
    lines = file.suffix.lower() in (".jsonl", ".ndjson", ".json")
    rows = _json_rows(text, file) if lines else _csv_rows(text, file)
    try:
        for number, row in enumerate(rows, start=1):
            name = str(number) if row.id is None else row.id
            try:
                query = _query(row, max_where)
            except UsageError as error:
                yield BatchQuery(name, None, str(error))
            except OverflowError:  # JSON may have whole numbers of any length
                yield BatchQuery(name, None, "The row has a number that is too large: correct it.")
            else:
                yield BatchQuery(name, query)
    except csv.Error as error:
        raise UsageError(f"{file} is not a CSV file ({error}): correct it.") from error


@dataclass(frozen=True)
class _Row:
    id: str | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    """Column or key -> its value."""
    fault: str = ""
    """Why the row cannot be used."""


def _csv_rows(text: str, file: Path) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    for mark, name in OTHER_SEPARATORS.items():
        if any(mark in column for column in columns):
            raise UsageError(f"{file} has {name} between its columns: save it with commas.")
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise UsageError(
            f"{file} has the column {twice[0]!r} twice: keep one, and put {SEPARATOR} between "
            "several values of a cell."
        )
    unknown = [name for name in columns if name not in (*FIELDS, *SINGLE, "id")]
    if unknown or not {FIELDS.get(name) for name in columns} & {"images", "texts"}:
        found = f"the column {unknown[0]!r} is unknown" if unknown else "it has none of them"
        raise UsageError(
            f"{file} must have a header with columns of {KNOWN}, at least image or text: {found}."
        )
    reader.fieldnames = columns
    for row in reader:
        cells = {key: value for key, value in row.items() if isinstance(key, str) and value}
        parts = {
            key: value.strip()
            if key in SINGLE
            else [part.strip() for part in value.split(SEPARATOR) if part.strip()]
            for key, value in cells.items()
            if key != "id"
        }
        fault = "it has more cells than the header" if len(row) > len(columns) else ""
        yield _Row(cells.get("id"), parts, fault)


def _json_rows(text: str, file: Path) -> Iterator[_Row]:
    if _ARRAY_OF_OBJECTS.match(text):
        raise UsageError(
            f"{file} is a JSON array: write each query as an object on a line of its own, without "
            "brackets and commas around them."
        )
    for line in io.StringIO(text, newline=None):  # not U+2028 or others of `splitlines`
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield _Row(fault=f"it is not JSON ({error})")
            continue
        except RecursionError:
            yield _Row(fault="its JSON is nested too deeply")
            continue
        if not isinstance(row, dict):
            yield _Row(fault="it is no JSON object")
            continue
        own = row.pop("id", None)
        yield _Row(None if own is None else str(own), row)


def _query(row: _Row, max_where: int | None) -> Query:
    if row.fault:
        _refuse(row.fault)
    fields: dict[str, list[Any]] = {}
    for key, value in row.parts.items():
        if key not in (*FIELDS, *SINGLE):
            _refuse(f"its key {key!r} is not one of {KNOWN}")
        if key in FIELDS:
            values = value if isinstance(value, list) else [value]
            fields.setdefault(FIELDS[key], []).extend(_value(one, key) for one in values)
    strength, where, weights = (row.parts.get(key) for key in ("strength", "where", "weights"))
    if weights is not None:
        if isinstance(weights, list):
            weights = ",".join(map(str, weights))
        if any(isinstance(one, tuple) for key in fields for one in fields[key]):
            _refuse("it has weights beside the weights of pairs")
        images, texts = fields.get("images", []), fields.get("texts", [])
        fields["images"], fields["texts"] = with_weights(images, texts, str(weights))
    if where is not None and not isinstance(where, str):
        _refuse("where must be a text")
    if isinstance(strength, bool):
        _refuse("strength must be a number")
    if where and max_where is not None and len(where) > max_where:
        raise UsageError(f"A filter may have {max_where} characters, not {len(where)}: shorten it.")
    return Query(**fields, strength=None if strength == "" else strength, where=where or None)


def _value(value: Any, key: str) -> Any:
    """Return a text, or a pair of a text and a weight."""
    pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    if pair and is_number(value[1]) and FIELDS[key] in ("images", "texts"):
        return (value[0], value[1])
    if not isinstance(value, str):
        _refuse(f"{key} must be a text, or a list of texts and of pairs [text, weight]")
    return value


def _refuse(why: str) -> NoReturn:
    raise UsageError(f"The row cannot be used, since {why}: correct it.")
