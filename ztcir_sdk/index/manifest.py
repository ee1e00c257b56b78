"""``index.json``: the properties of an index, its files and their checksums.

Replacing this one file commits a state of the index; files that it does not name are not part of
the index.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import flush_folder, hash_file, write_whole
from ztcir_sdk.schema import EntryError, NaturalNumber, PositiveNumber, from_json, to_json
from ztcir_sdk.sources import CollectionRules
from ztcir_sdk.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "FileRecord",
    "IndexUnusableError",
    "Manifest",
    "MetadataRecord",
    "file_record",
    "relative_root",
    "remove_unlisted",
]

FORMAT_VERSION = 1
MANIFEST = "index.json"
INDEX_FILE = re.compile(
    r"(vectors-\d+\.f32|items-\d+\.sqlite|graph-\d+\.hnsw|index\.json\.new|\.index\.json\.\w+\.new)"
)
"""Names of files that are removed from an index if the manifest does not name them."""


class IndexUnusableError(ZtcirError):
    """An index is missing, incomplete, altered, locked, or has an unknown format."""


class FileRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the index; only its first `bytes` bytes belong to it and to the checksum."""

    file: Annotated[
        str, Meta(pattern=rf"^{INDEX_FILE.pattern}\Z", description="the name of an index's file")
    ]
    bytes: NaturalNumber
    sha256: str


class MetadataRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of metadata, as it was when it was last applied to all images."""

    file: str
    """Relative to the index."""
    bytes: NaturalNumber
    mtime_ns: int


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One committed state of an index."""

    dim: PositiveNumber
    """Width of the vectors."""
    items: NaturalNumber
    """Number of items."""
    image_tower: str
    """Fingerprint (hex) of the image-tower weights and preprocessing that made the vectors."""
    precision: str
    """Precisions of the graphs that made the vectors, joined by "+"; only informative."""
    root: str
    """Folder of the item paths, relative to the index, so that both can be moved together."""
    generation: NaturalNumber
    """Number of the commit."""
    first_label: NaturalNumber
    """Label of the first row; it grows when rows are rewritten, so no label is used twice."""
    rows: NaturalNumber
    """Rows in the file of vectors, including those of removed items."""
    vectors: FileRecord
    """(rows, dim) little-endian float32, L2-normalised, without a header."""
    table: FileRecord
    """SQLite file of the items."""
    graph: FileRecord | None
    """hnswlib graph of the first `graph_rows` rows, if the collection is large."""
    graph_rows: NaturalNumber
    updated: str
    """Time of this commit: UTC, ISO 8601."""
    ztcir: str
    """Version that made it."""
    rules: CollectionRules = CollectionRules()
    """Which files of the collection are indexed; not written where these are the usual ones."""
    metadata: MetadataRecord | None = None
    """The table that the images' metadata comes from."""
    metric: Literal["cosine"] = "cosine"
    format_version: int = FORMAT_VERSION

    @property
    def files(self) -> set[str]:
        """Names of the files of this state."""
        records = (self.vectors, self.table, self.graph)
        return {record.file for record in records if record is not None}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Raises:
            IndexUnusableError: there is no index, or this version cannot read it.
        """
        advice = "make one with `ztcir index FOLDER`"
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            if not folder.exists():
                raise IndexUnusableError(f"There is no index {folder}; {advice}.") from None
            raise IndexUnusableError(
                f"{folder} is not an index, because it has no {MANIFEST}; {advice}."
            ) from None
        except NotADirectoryError:
            raise IndexUnusableError(f"{folder} is a file, not an index; {advice}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise IndexUnusableError(
                f"The manifest {folder / MANIFEST} cannot be read ({error}); "
                "index the collection again."
            ) from error
        try:
            values = json.loads(text)
            found = values.get("format_version") if isinstance(values, dict) else FORMAT_VERSION
            if found != FORMAT_VERSION:
                raise IndexUnusableError(
                    f"{folder} has index format {found!r}, which ztcir {__version__} does not "
                    "know; update ztcir, or index the collection again."
                )
            manifest = from_json(values, cls)
            _check_sizes(manifest)
            return manifest
        except (ValueError, RecursionError) as error:
            raise IndexUnusableError(
                f"The manifest {folder / MANIFEST} is corrupt ({error}); "
                "delete the index and index the collection again."
            ) from error

    def write(self, folder: Path) -> None:
        """Commit this state; a crash leaves the previous state or this one."""
        flush_folder(folder)  # the named files must be on disk before the manifest
        values = to_json(self)
        if self.rules == CollectionRules():  # so that older versions can read it
            del values["rules"]
        if self.metadata is None:
            del values["metadata"]
        write_whole(folder / MANIFEST, json.dumps(values, indent=2) + "\n")
        flush_folder(folder)


def _check_sizes(manifest: Manifest) -> None:
    """Check the sizes against each other.

    Raises:
        EntryError: entries contradict each other.
    """
    if manifest.vectors.bytes != 4 * manifest.rows * manifest.dim:
        raise EntryError.wrong("vectors.bytes", manifest.vectors.bytes, "4 * rows * dim")
    for name in ("items", "graph_rows"):
        if (number := getattr(manifest, name)) > manifest.rows:
            raise EntryError.wrong(name, number, f"at most the {manifest.rows} rows")


def remove_unlisted(folder: Path, listed: set[str]) -> None:
    """Remove files that a killed writer left or that only older states need."""
    for entry in list(folder.iterdir()):
        if entry.name not in listed and INDEX_FILE.fullmatch(entry.name):
            # Windows cannot remove open files; the next writer tries again.
            with contextlib.suppress(PermissionError):
                entry.unlink(missing_ok=True)


def file_record(file: Path) -> FileRecord:
    """Return the record of a file, all of whose bytes belong to the index."""
    return FileRecord(file.name, file.stat().st_size, hash_file(file))


def relative_root(root: Path, folder: Path) -> str:
    """Return a collection's root relative to the folder of its index."""
    root, folder = root.resolve(), folder.resolve()
    try:
        return Path(os.path.relpath(root, folder)).as_posix()
    except ValueError:  # on another drive there is no relative path
        return root.as_posix()
