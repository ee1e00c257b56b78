"""CSV, TSV and Parquet files as rows, and the usual names of their columns."""

from __future__ import annotations

import contextlib
import csv
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.item import DataError, Item
from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import UNKNOWN_VALUE, is_known
from ztcir_sdk.sources.table_files import holds_bytes, import_pyarrow, open_csv

_MAX_CELL = 2**31 - 1  # captions may be long

_USUAL_COLUMNS: Mapping[str, str] = {
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
"""Field -> column names in published files, in lower case; the first that a file has is used."""


@dataclass(frozen=True)
class Row:
    """One row: its number, counted from 1, its values, and its place in a Parquet file."""

    number: int
    values: Mapping[str, Any]
    group: int = 0
    """Row group."""
    place: int = 0
    """Number within the row group, counted from 0."""

    def text(self, column: str, field: str) -> str:
        """Return the text of a cell: the first entry of a list, a whole number without fraction.

        Args:
            column: column name.
            field: field that the column stands for, for the error.

        Raises:
            UsageError: the cell is neither a text nor a number.
        """
        value = self.values.get(column)
        if isinstance(value, list):
            value = next((entry for entry in value if entry is not None), None)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if isinstance(value, float):  # a column of whole numbers with empty cells
            value = None if value != value else int(value) if value.is_integer() else value
        if isinstance(value, list | dict):
            raise UsageError(
                f"The column {column!r} has no text for the {field}; name another column with "
                f"--columns {field}=COLUMN."
            )
        return "" if value is None else str(value)

    def line(self, columns: Mapping[str, str], field: str) -> str:
        """Return the text of a field on one line; empty if ``columns`` does not have the field."""
        return " ".join(self.text(columns[field], field).split()) if field in columns else ""

    def item(self, columns: Mapping[str, str], name: str) -> Item:
        """Return the item that the row describes.

        Args:
            columns: field of `Item` -> column.
            name: the item's id.
        """

        def attribute(field: str) -> str:
            value = self.line(columns, field)
            return value if field not in columns or is_known(value) else UNKNOWN_VALUE

        return Item(
            id=name,
            gender=attribute("gender"),
            type=attribute("type"),
            colour=attribute("colour"),
            pattern=attribute("pattern") or None,
            caption=self.line(columns, "caption"),
        )


class Table(ABC):
    """A file with named columns, read row by row.

    Args:
        path: the file.
        columns: column names.
        pictures: columns whose cells are encoded images.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], pictures: frozenset[str] = frozenset()
    ) -> None:
        self.path, self.columns, self.pictures = path, tuple(columns), pictures

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the rows in order, with some of the columns.

        Raises:
            DataError: the file is damaged.
        """


class _CsvTable(Table):
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        with _open_csv(self.path) as reader:
            for number, row in enumerate(reader, start=1):
                yield Row(number, {name: row[name] for name in columns})


class _ParquetTable(Table):
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        _, pq = import_pyarrow()
        number = 0
        try:
            with pq.ParquetFile(self.path) as file:
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


@contextlib.contextmanager
def _open_csv(path: Path) -> Iterator[csv.DictReader[str]]:
    try:
        with open_csv(path, max_cell=_MAX_CELL) as reader:
            yield reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}.") from error


def open_table(path: Path) -> Table:
    """Open a ``.csv``, ``.tsv`` or ``.parquet`` file.

    Raises:
        DataError: the file is missing or damaged, or has no header.
        MissingDependencyError: the file is Parquet, and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"The table {path} does not exist.")
    if path.suffix.lower() == ".parquet":
        _, pq = import_pyarrow()
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a Parquet file, or is cut short ({error}).") from error
        pictures = frozenset(field.name for field in schema if holds_bytes(field.type))
        return _ParquetTable(path, schema.names, pictures)
    with _open_csv(path) as reader:
        columns = reader.fieldnames or ()
    if not columns:
        raise DataError(f"{path} is empty; its first line must name the columns.")
    return _CsvTable(path, columns)


def choose_columns(
    table: Table, fields: Sequence[str], named: Mapping[str, str], *, needed: Sequence[str]
) -> dict[str, str]:
    """Return field -> column: the columns that the user names, else those with a usual name.

    Args:
        table: the file.
        fields: fields to find.
        named: field -> column, from the user; an empty column means that the file has none.
        needed: fields that must be found.

    Raises:
        UsageError: the file does not have a named or a needed column.
    """
    lowered = {column.lower(): column for column in reversed(table.columns)}
    chosen = {}
    for field in fields:
        if field in named:
            column = named[field]
            if column and column not in table.columns:
                raise UsageError(
                    f"{table.path} has no column {column!r}; it has {', '.join(table.columns)}."
                )
        else:
            usual = _USUAL_COLUMNS.get(field, "").split()
            column = next((lowered[name] for name in usual if name in lowered), "")
        if column:
            chosen[field] = column
    for field in needed:
        if field not in chosen:
            raise UsageError(
                f"No column of {table.path} has a usual name for the {field}; name it as "
                f"{field}=COLUMN. The columns are {', '.join(table.columns)}."
            )
    return chosen


def check_fields(columns: Mapping[str, str], fields: Collection[str], kind: str) -> None:
    """Check that the user names columns of known fields only.

    Args:
        columns: field -> column, from the user.
        fields: known fields.
        kind: what the fields describe, for the error.

    Raises:
        UsageError: a field is unknown.
    """
    if unknown := columns.keys() - {*fields}:
        raise UsageError(
            f"{min(unknown)!r} is not a field of {kind}; columns can be named for "
            f"{', '.join(fields)}."
        )
