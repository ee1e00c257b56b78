"""A product catalogue: a table of items with their attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from train.data.item import Item, is_known
from train.data.tabular import Row, open_table
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.names import CATALOGUE_COLUMNS, UNKNOWN_VALUE

__all__ = ["DEFAULT_COLUMNS", "read_catalogue"]

DEFAULT_COLUMNS: Mapping[str, str] = {
    "id": "id",
    **CATALOGUE_COLUMNS,
    "caption": "caption",
    "split": "split",
}
"""What an `Item` holds -> the catalogue's column; "pattern" may be added, others replaced."""


def read_catalogue(
    metadata: Path, split: str | None = None, *, columns: Mapping[str, str] | None = None
) -> list[Item]:
    """Read a catalogue's items from a CSV, TSV or Parquet file, in the file's order.

    Args:
        metadata: the file; text in UTF-8, with a header.
        split: only rows whose split column says so; None for all.
        columns: what replaces or adds to `DEFAULT_COLUMNS`, for example ``{"colour": "shade",
            "pattern": "pattern"}``. An attribute mapped to an empty string does not exist here.

    Raises:
        UsageError: an unknown key in ``columns``, or a column that the file does not have.
        ZtcirError: the file is missing, damaged, or has no row of the split.
    """
    mapped = {**DEFAULT_COLUMNS, **(columns or {})}
    strange = mapped.keys() - DEFAULT_COLUMNS.keys() - {"pattern"}
    if strange:
        raise UsageError(
            f"There is no item field {min(strange)!r}; the columns can be given for "
            f"{', '.join(DEFAULT_COLUMNS)} and pattern."
        )
    table = open_table(metadata)
    needed = {field: name for field, name in mapped.items() if name}
    if split is None:
        needed.pop("split", None)
    missing = [name for name in needed.values() if name not in table.columns]
    if missing:
        raise UsageError(
            f"{metadata} has no column {missing[0]!r}; it has {', '.join(table.columns)}."
        )
    if split is not None and "split" not in needed:
        raise UsageError(f"Which rows are {split!r} is not told without a split column.")
    items = [
        _item(row, mapped)
        for row in table.rows(list(dict.fromkeys(needed.values())))
        if split is None or row.text(needed["split"], "split") == split
    ]
    if not items:
        which = f" of the split {split!r}" if split is not None else ""
        raise ZtcirError(f"{metadata} holds no row{which}; check the file and the split's name.")
    return items


def _item(row: Row, mapped: Mapping[str, str]) -> Item:
    def text(field: str) -> str:
        return row.text(mapped[field], field).strip() if mapped.get(field) else ""

    def value(field: str) -> str:
        if not mapped.get(field):
            return ""
        found = " ".join(text(field).split())
        return found if is_known(found) else UNKNOWN_VALUE

    return Item(
        id=text("id"),
        gender=value("gender"),
        type=value("type"),
        colour=value("colour"),
        pattern=value("pattern") or None,
        caption=text("caption"),
    )
