"""Metadata of images in a table beside them: CSV, TSV or Parquet, joined by path or file name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ztcir_sdk.errors import ZtcirError, first_line
from ztcir_sdk.names import TABLE_SUFFIXES
from ztcir_sdk.sources.metadata import MAX_METADATA_BYTES, clean_metadata
from ztcir_sdk.sources.table_files import holds_bytes, import_pyarrow, open_csv

__all__ = ["MetadataTable"]

PATH_COLUMNS = (
    *("path", "image_path", "file_path", "filepath", "file_name", "filename", "file", "image"),
    *("img", "jpg", "name", "key", "id", "image_id"),
)
"""Names of the column with paths, file names or ids, in lower case; the first found is used."""


@dataclass(frozen=True)
class MetadataTable:
    """The rows of a table by the path, file name or id in them."""

    path: Path
    rows: Mapping[str, dict[str, Any]]
    column: str
    """The column that names the images."""

    @classmethod
    def read(cls, path: Path) -> MetadataTable:
        """Read a table; of several rows about one image the last counts.

        Raises:
            ZtcirError: it does not exist, is damaged, or has no column that names images.
            MissingDependencyError: it is Parquet, and pyarrow is not installed.
        """
        rows: dict[str, dict[str, Any]] = {}
        column: str | None = None
        try:
            for values in _rows(path):
                column = _path_column(path, values) if column is None else column
                name = values.pop(column, None)
                if name is None or name == "":
                    continue
                row = clean_metadata({k: v for k, v in values.items() if v is not None})
                if len(json.dumps(row)) > MAX_METADATA_BYTES:
                    raise ValueError(f"the row of {name} has more than 1 MB")
                rows[_normal(str(name))] = row
        except FileNotFoundError as error:
            raise ZtcirError(f"The table {path} does not exist: check the path.") from error
        except (OSError, ValueError, csv.Error) as error:
            why = getattr(error, "strerror", None) or first_line(error)
            raise ZtcirError(f"The table {path} cannot be read ({why}): check the file.") from error
        if column is None:
            raise ZtcirError(f"The table {path} has no rows: name another one with --metadata.")
        return cls(path, rows, column)

    def row(self, root: Path, path: str) -> dict[str, Any] | None:
        """Return the row of an image whose path is relative to `root`, or None.

        It is found by that path, by the path from the table's folder, by the absolute path, by the
        file name, and by the file name without its suffix; the first that is in the table counts.
        """
        whole, pure = root / path, PurePosixPath(path)
        names = [path]
        if whole.is_relative_to(self.path.parent):
            names.append(whole.relative_to(self.path.parent).as_posix())
        names += [whole.as_posix(), pure.name, pure.stem]
        return next((self.rows[name] for name in names if name in self.rows), None) or None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ZtcirError(f"{path} is not a table: it must end in {', '.join(TABLE_SUFFIXES)}.")
    return _parquet_rows(path) if suffix == ".parquet" else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_csv(path) as rows:
        for row in rows:
            # None: cells beyond the header's columns, and columns beyond the row's cells.
            yield {name: cell or None for name, cell in row.items() if name is not None}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    _, pq = import_pyarrow()
    with pq.ParquetFile(path) as file:
        names = [one.name for one in file.schema_arrow if not holds_bytes(one.type)]
        for batch in file.iter_batches(batch_size=1024, columns=names):
            yield from batch.to_pylist()


def _path_column(path: Path, values: Mapping[str, Any]) -> str:
    lowered = {name.lower(): name for name in values}
    for name in PATH_COLUMNS:
        if name in lowered:
            return lowered[name]
    raise ZtcirError(
        f"No column of {path} names the images: call it path, filename or id. The columns are "
        f"{', '.join(values)}."
    )


def _normal(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")
