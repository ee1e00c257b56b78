"""CSV and Parquet files as rows, and what their columns are likely to be called."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.data.item import DataError
from ztcir_sdk.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["TABLE_SUFFIXES", "Row", "Table", "choose_columns", "open_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")

_USUAL: Mapping[str, str] = {
    "id": "id key image_id",
    "path": "path image_path file_path filepath file_name filename file image img jpg",
    "caption": "caption text txt title description",
    "gender": "gender",
    "type": "articletype article_type type",
    "colour": "basecolour base_colour colour color",
    "pattern": "pattern",
    "reference": "reference reference_image reference_id reference_img_id candidate source_image "
    "source original_image input_image query_image query-image",
    "text": "text modification_text modification instruction edit_prompt edit query_text "
    "query-text relative_caption caption prompt",
    "target": "target target_image target_id target_img_id target_hard edited_image output_image "
    "target-image targets",
}
ALIASES: Mapping[str, tuple[str, ...]] = {
    field: tuple(names.split()) for field, names in _USUAL.items()
}
"""Field -> names that published files have for its column, the first that is there counts."""


@dataclass(frozen=True)
class Row:
    """One row: its number from 1, its values, and where it lies in a Parquet file."""

    number: int
    values: Mapping[str, Any]
    group: int = 0
    place: int = 0

    def text(self, column: str, field: str) -> str:
        """A column's cell as the text of a field: of a list its first entry, of a whole number no
        fraction.

        Raises:
            UsageError: it holds neither text nor a number.
        """
        value = self.values.get(column)
        if isinstance(value, list):
            value = next((entry for entry in value if entry is not None), None)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if isinstance(value, float):  # as whole numbers are where some cells are empty
            value = None if value != value else int(value) if value.is_integer() else value
        if isinstance(value, list | dict):
            raise UsageError(
                f"The column {column!r} holds no text for the {field}; name another one with "
                f"--columns {field}=COLUMN."
            )
        return "" if value is None else str(value)


class Table:
    """A file with named columns that is read row by row, never whole."""

    def __init__(self, path: Path, columns: Sequence[str], pictures: frozenset[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.pictures = pictures
        """Columns whose cells are pictures themselves."""

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """The rows in order, with some of the columns.

        Raises:
            DataError: the file breaks off, or is damaged.
        """
        raise NotImplementedError


class _CsvTable(Table):
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as lines:
                for number, row in enumerate(_reader(self.path, lines), start=1):
                    yield Row(number, {name: row[name] for name in columns})
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path} is not a CSV file in UTF-8: {error}.") from error


class _ParquetTable(Table):
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        number = 0
        try:
            with _parquet(self.path) as file:
                for group in range(file.num_row_groups):
                    place = 0
                    for batch in file.iter_batches(
                        batch_size=4096, row_groups=[group], columns=list(columns)
                    ):
                        for values in batch.to_pylist():
                            number += 1
                            yield Row(number, values, group, place)
                            place += 1
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} is damaged after row {number}: {error}.") from error


def _reader(path: Path, lines: Any) -> csv.DictReader[str]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # captions have no limit
    return csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {path.name} needs pyarrow; install the extra `ztcir[train]`."
        ) from error
    return pq.ParquetFile(path)


def open_table(path: Path) -> Table:
    """Open a ``.csv``, ``.tsv`` or ``.parquet`` file.

    Raises:
        DataError: it is missing, has no header, or is damaged.
        MissingDependencyError: a Parquet file, without pyarrow.
    """
    if not path.is_file():
        raise DataError(f"The table {path} does not exist.")
    if path.suffix.lower() == ".parquet":
        try:
            with _parquet(path) as file:
                schema = file.schema_arrow
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a Parquet file, or is cut short ({error}).") from error
        pictures = frozenset(field.name for field in schema if _holds_bytes(field.type))
        return _ParquetTable(path, schema.names, pictures)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            columns = _reader(path, lines).fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    if not columns:
        raise DataError(f"{path} is empty; its first line has to name the columns.")
    return _CsvTable(path, columns, frozenset())


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):  # {bytes, path}, as the `datasets` library writes images
        return any(part.name == "bytes" and _holds_bytes(part.type) for part in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def choose_columns(
    table: Table, fields: Sequence[str], named: Mapping[str, str], *, needed: Sequence[str]
) -> dict[str, str]:
    """Which columns hold which fields: those that are named, else those with a usual name.

    Args:
        table: the file.
        fields: what is looked for, keys of `ALIASES` or fields that have to be named.
        named: field -> column, as the user says; an empty column means that there is none.
        needed: fields that have to be there.

    Raises:
        UsageError: a named column is not there, or a needed one is not found.
    """
    chosen = {}
    for field in fields:
        if field in named:
            if named[field] and named[field] not in table.columns:
                raise UsageError(
                    f"{table.path} has no column {named[field]!r}; it has "
                    f"{', '.join(table.columns)}."
                )
            if named[field]:
                chosen[field] = named[field]
            continue
        lowered = {column.lower(): column for column in reversed(table.columns)}
        found = next((lowered[name] for name in ALIASES.get(field, ()) if name in lowered), None)
        if found is not None:
            chosen[field] = found
    for field in needed:
        if field not in chosen:
            raise UsageError(
                f"{table.path} has no column that is known to hold the {field}; name it as "
                f"{field}=COLUMN, of {', '.join(table.columns)}."
            )
    return chosen
