"""A product catalogue: a table of items with their attributes, without images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from train.data.csv_parquet import check_fields, choose_columns, open_table
from train.data.item import Item
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.names import CATALOGUE_COLUMNS

DEFAULT_COLUMNS: Mapping[str, str] = {
    "id": "id",
    **CATALOGUE_COLUMNS,
    "caption": "caption",
    "split": "split",
}
"""Field -> column of a catalogue. "pattern" has no default."""


def read_catalogue(
    metadata: Path, split: str | None = None, *, columns: Mapping[str, str] | None = None
) -> list[Item]:
    """Read the items of a CSV, TSV or Parquet file, in order.

    Args:
        metadata: the file; text files are UTF-8 and have a header.
        split: read only the rows of this split; None for all rows.
        columns: field -> column where it differs from `DEFAULT_COLUMNS`, for example ``{"colour":
            "shade", "pattern": "pattern"}``. An empty column means that the file has no such field.

    Raises:
        UsageError: ``columns`` has an unknown field, or the file does not have a column.
        ZtcirError: the file is missing or damaged, or no row belongs to the split.
    """
    named = {**DEFAULT_COLUMNS, **(columns or {})}
    check_fields(named, (*DEFAULT_COLUMNS, "pattern"), "an item")
    if split is None:
        del named["split"]
    elif not named["split"]:
        raise UsageError(f"Without a split column the rows of split {split!r} are unknown.")
    table = open_table(metadata)
    chosen = choose_columns(table, tuple(named), named, needed=())
    items = [
        row.item(chosen, row.text(chosen["id"], "id").strip() if "id" in chosen else "")
        for row in table.rows(list(dict.fromkeys(chosen.values())))
        if split is None or row.text(chosen["split"], "split") == split
    ]
    if not items:
        rows = "no row" if split is None else f"no row of split {split!r}"
        raise ZtcirError(f"{metadata} has {rows}; check the file and the name of the split.")
    return items
