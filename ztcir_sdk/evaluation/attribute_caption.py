"""Captions of all of a product's attributes; the method "oracle" searches with the target's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.names import CATALOGUE_COLUMNS, ORACLE, TABLE_SUFFIXES
from ztcir_sdk.sources import Listing, Source, SourceReader
from ztcir_sdk.sources.metadata import parse_metadata
from ztcir_sdk.sources.tables import MetadataTable

TABLE_NAME = "metadata"
"""Name, without suffix, of a table in a folder of images or beside it."""


class NoAttributesError(ZtcirError):
    """A target has no known attributes, so the method "oracle" cannot be measured."""


def attribute_caption(colour: str, type: str, gender: str) -> str:
    """Return ``"{colour} {type} for {gender}"`` in the catalogue's own words, lower-cased.

    An attribute that is an empty string is left out, the gender with its "for":
    ``attribute_caption("Navy Blue", "Tshirts", "Men")`` is ``"navy blue tshirts for men"``.
    """
    gender = f"for {gender.strip()}" if gender.strip() else ""
    return " ".join(part for part in (colour.strip(), type.strip(), gender) if part).lower()


def oracle_captions(
    images: Source,
    listing: Listing,
    paths: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a caption of the attributes of some images, without decoding one.

    Attributes come from the JSON beside an image, or from a table ``metadata.csv`` (``.tsv``,
    ``.parquet``) in the folder of images or beside it.

    Args:
        images: the collection.
        listing: what it holds.
        paths: of images in it.
        columns: attribute -> its column or JSON key, where it differs from `CATALOGUE_COLUMNS`.

    Raises:
        NoAttributesError: an image has no attributes.
        UsageError: `columns` has an unknown attribute.
        ZtcirError: the table cannot be read.
    """
    named = {**CATALOGUE_COLUMNS, **(columns or {})}
    if unknown := named.keys() - CATALOGUE_COLUMNS.keys():
        raise UsageError(
            f"{min(unknown)!r} is not an attribute: --columns names {', '.join(CATALOGUE_COLUMNS)}."
        )
    table = _table_of(images)
    files = {file.path: file for file in listing.files}
    reader = SourceReader()
    captions: dict[str, str] = {}
    try:
        for path in dict.fromkeys(paths):
            try:
                text = reader.read_metadata(files[path])
                metadata = {} if text is None else parse_metadata(text)
            except (ImageError, ValueError):
                metadata = {}
            row = None if table is None else table.row(listing.root, path)
            captions[path] = _caption({**metadata, **(row or {})}, named)
            if not captions[path]:
                raise NoAttributesError(
                    f"The method {ORACLE} needs the attributes {', '.join(named.values())} of "
                    f"every target, in a JSON file beside its image or in a table {TABLE_NAME}.csv "
                    f"in its folder; {path} has none. Name other columns with --columns."
                )
    finally:
        reader.close()
    return [captions[path] for path in paths]


def _table_of(images: Source) -> MetadataTable | None:
    """Return the table in a single folder of images, or beside it; None where there is none."""
    if not isinstance(images, str | os.PathLike):
        if len(images) != 1:
            return None
        [images] = images
    folder = Path(images).absolute()
    if not folder.is_dir():
        return None
    named = (
        one / f"{TABLE_NAME}{suffix}"
        for one in (folder, folder.parent)
        for suffix in TABLE_SUFFIXES
    )
    found = next((file for file in named if file.is_file()), None)
    return None if found is None else MetadataTable.read(found)


def _caption(metadata: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    values = {name: metadata.get(key) for name, key in columns.items()}
    return attribute_caption(**{name: str(value or "") for name, value in values.items()})
