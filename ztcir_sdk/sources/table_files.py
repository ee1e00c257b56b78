"""CSV, TSV and Parquet files, opened: the separator that a file uses, and pyarrow on first use."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ztcir_sdk.errors import MissingDependencyError, install_hint

__all__ = ["holds_bytes", "import_pyarrow", "open_csv"]

MAX_CELL = 1 << 17
"""Most characters of a cell, unless a reader allows more."""
MAX_HEADER = 1_000_000
"""Most characters of the first line that are read to find the separator."""


@contextlib.contextmanager
def open_csv(path: Path, *, max_cell: int = MAX_CELL) -> Iterator[csv.DictReader[str]]:
    """Open a CSV or TSV file in UTF-8, whose first line names the columns."""
    csv.field_size_limit(max_cell)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline(MAX_HEADER)
        lines.seek(0)
        mark = max(",;\t", key=header.count)  # Excel writes ";" in many countries
        yield csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else mark)


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Return ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            f"Parquet files need the package pyarrow: {install_hint('parquet')}."
        ) from error
    return pa, pq


def holds_bytes(kind: Any) -> bool:
    """Return whether the cells of a Parquet column of this type hold bytes, such as images."""
    from pyarrow import types

    if types.is_struct(kind):  # {bytes, path}, as the `datasets` library writes images
        return any(part.name == "bytes" and holds_bytes(part.type) for part in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))
