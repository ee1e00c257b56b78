"""``index.json``: the properties of an index, its files and their sizes.

Replacing this one file commits a state of the index. What its files hold beyond that state, and
files that it does not name, are not part of the index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.files import flush_folder, read_bounded, write_whole
from ztcir_sdk.index.rows import row_bytes
from ztcir_sdk.names import STORAGES
from ztcir_sdk.schema import EntryError, NaturalNumber, PositiveNumber, from_json, to_json
from ztcir_sdk.sources import CollectionRules
from ztcir_sdk.sources.listing import is_whole_machine
from ztcir_sdk.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "INDEX_FILE",
    "MANIFEST",
    "OLD_FORMAT",
    "FileRecord",
    "GraphRecord",
    "IndexUnusableError",
    "Manifest",
    "MetadataRecord",
    "corrupt",
    "old_colours",
    "relative_root",
    "remove_unlisted",
    "root_of",
]

MANIFEST_BYTES = 4_000_000
"""Bytes of ``index.json``."""
MAX_DIMENSIONS = 1 << 16
FORMAT_VERSION = 2
OLD_FORMAT = 1
"""The format of ztcir 0.1: one checksum of all vectors, and a new file of items in each commit."""
MANIFEST = "index.json"
INDEX_FILE = re.compile(
    r"(vectors-\d+\.(f32|f16|i8)|residuals-\d+\.i8|items-\d+\.sqlite(-journal)?|graph-\d+\.hnsw|"
    r"index\.json\.new|\.index\.json\.\w+\.new)"
)
"""Names of files that are removed from an index if the manifest does not name them."""
_JOURNAL = "-journal"

FileName = Annotated[
    str, Meta(pattern=rf"^{INDEX_FILE.pattern}\Z", description="the name of an index's file")
]

StorageName = Annotated[
    str,
    Meta(pattern=rf"^({'|'.join(STORAGES)})\Z", description=f"one of {', '.join(STORAGES)}"),
]


class IndexUnusableError(ZtcirError):
    """An index is missing, incomplete, altered, locked, or has an unknown format."""


class FileRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file of the index; only its first `bytes` bytes belong to this state."""

    file: FileName
    bytes: NaturalNumber
    sha256: str = ""
    """Checksum of a file of the old format; in today's format the items' file has those of all
    others."""

    @classmethod
    def of(cls, folder: Path, name: str) -> FileRecord:
        """Return the record of all that a file has by now."""
        return cls(name, (folder / name).stat().st_size)


class GraphRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """An hnswlib graph, and how it is searched."""

    file: FileName
    bytes: NaturalNumber
    sha256: str
    rows: NaturalNumber
    """The graph holds the first `rows` rows."""
    m: PositiveNumber
    """hnswlib's links per node."""
    ef_construction: PositiveNumber
    """hnswlib's candidates while building."""
    ef: PositiveNumber
    """hnswlib's candidates while searching for 10 neighbours."""
    recall: float | None
    """Recall@10 that was measured with `ef` on vectors of the index; None: never measured."""


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
    """Rows in the files of vectors, including those of removed items."""
    versions: NaturalNumber
    """Number of the last version of an item in `table`."""
    storage: StorageName
    """How the vectors are stored; see `ztcir_sdk.index.rows`."""
    vectors: tuple[FileRecord, ...]
    """Files of rows, without headers."""
    table: FileRecord
    """SQLite file of the items, and of checksums."""
    graph: GraphRecord | None
    """Graph of the first rows, if the collection is large."""
    updated: str
    """Time of this commit: UTC, ISO 8601."""
    ztcir: str
    """Version that made it."""
    rules: CollectionRules = CollectionRules()
    """Which files of the collection are indexed."""
    metadata: MetadataRecord | None = None
    """The table that the images' metadata comes from."""
    colour: Literal["srgb"] | None = None
    """Colour space that embedded profiles were converted to; None: they were ignored at first."""
    metric: Literal["cosine"] = "cosine"
    format_version: int = FORMAT_VERSION

    @property
    def files(self) -> set[str]:
        """Names of the files of this state."""
        records: tuple[FileRecord | GraphRecord | None, ...] = (
            *self.vectors,
            self.table,
            self.graph,
        )
        return {record.file for record in records if record is not None}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Raises:
            IndexUnusableError: there is no index, or this version cannot read it.
        """
        advice = "make one with `ztcir index FOLDER`"
        try:
            text = read_bounded(folder / MANIFEST, MANIFEST_BYTES).decode()
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
            if found == OLD_FORMAT:
                manifest = _from_old(from_json(values, _OldManifest))
                _check_root(folder, manifest)
                return manifest
            if found != FORMAT_VERSION:
                raise IndexUnusableError(
                    f"{folder} has index format {found!r}, which ztcir {__version__} does not "
                    "know; update ztcir, or index the collection again."
                )
            if isinstance(values, dict):
                _check_checksum(values)
            manifest = from_json(values, cls)
            _check_sizes(manifest)
            _check_root(folder, manifest)
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
        values["checksum"] = _checksum(values)
        write_whole(folder / MANIFEST, json.dumps(values, indent=2) + "\n")
        flush_folder(folder)


class _OldManifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One committed state of an index in the old format."""

    dim: PositiveNumber
    items: NaturalNumber
    image_tower: str
    precision: str
    root: str
    generation: NaturalNumber
    first_label: NaturalNumber
    rows: NaturalNumber
    vectors: FileRecord
    table: FileRecord
    graph: FileRecord | None
    graph_rows: NaturalNumber
    updated: str
    ztcir: str
    rules: CollectionRules = CollectionRules()
    metadata: MetadataRecord | None = None
    metric: Literal["cosine"] = "cosine"
    format_version: int = OLD_FORMAT


def _from_old(old: _OldManifest) -> Manifest:
    graph = None
    if old.graph is not None:
        if old.graph_rows > old.rows:
            raise EntryError.wrong("graph_rows", old.graph_rows, f"at most the {old.rows} rows")
        graph = GraphRecord(
            file=old.graph.file,
            bytes=old.graph.bytes,
            sha256=old.graph.sha256,
            rows=old.graph_rows,
            # How ztcir 0.1 built and searched every graph.
            m=32,
            ef_construction=200,
            ef=800,
            recall=None,
        )
    same = {
        name: getattr(old, name)
        for name in old.__struct_fields__
        if name not in ("vectors", "graph", "graph_rows")
    }
    manifest = Manifest(**same, vectors=(old.vectors,), versions=0, storage="f32", graph=graph)
    _check_sizes(manifest)
    return manifest


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_checksum(values: dict[str, Any]) -> None:
    """Take the checksum out of the values of a manifest, and compare it.

    Raises:
        EntryError: it differs.
    """
    written = values.pop("checksum", None)
    if written != _checksum(values):
        raise EntryError("checksum", "differs from that of the other entries")


def _check_sizes(manifest: Manifest) -> None:
    """Check the sizes against each other.

    Raises:
        EntryError: entries contradict each other.
    """
    widths = row_bytes(manifest.storage, manifest.dim)
    expected = [manifest.rows * width for width in widths]
    if [record.bytes for record in manifest.vectors] != expected:
        raise EntryError("vectors", f"do not have the bytes of {manifest.rows} rows")
    if (problem := _root_problem(manifest.root)) is not None:
        raise EntryError("root", problem)
    if manifest.dim > MAX_DIMENSIONS:
        raise EntryError.wrong("dim", manifest.dim, f"at most {MAX_DIMENSIONS}")
    if manifest.items > manifest.rows:
        raise EntryError.wrong("items", manifest.items, f"at most the {manifest.rows} rows")
    if manifest.graph is not None and manifest.graph.rows > manifest.rows:
        raise EntryError.wrong(
            "graph.rows", manifest.graph.rows, f"at most the {manifest.rows} rows"
        )


def _root_problem(root: str) -> str | None:
    """Return what is wrong with a manifest's root; None if nothing is.

    It is written relative to the index, but where the two are on different drives.
    """
    if "\0" in root:
        return "has a null character"
    if root.startswith(("/", "\\")) and not re.match(r"[A-Za-z]:", root):
        return f"is the absolute path {root!r}, which ztcir never writes"
    return None


def _check_root(folder: Path, manifest: Manifest) -> None:
    """Refuse a root that holds every file of the machine.

    Raises:
        EntryError: it does.
    """
    if is_whole_machine(root_of(folder, manifest.root)):
        raise EntryError("root", f"{manifest.root!r} leads to /, which holds every file")


def root_of(folder: Path, root: str) -> Path:
    """Return the folder that the manifest of an index in `folder` calls its root."""
    return Path(os.path.normpath(folder.resolve() / root))


def remove_unlisted(folder: Path, listed: set[str]) -> None:
    """Remove files that a killed writer left or that only older states need."""
    for entry in list(folder.iterdir()):
        # A journal belongs to its file of items: SQLite needs it after a kill.
        name = entry.name.removesuffix(_JOURNAL)
        if name not in listed and INDEX_FILE.fullmatch(entry.name):
            # Windows cannot remove open files; the next writer tries again.
            with contextlib.suppress(PermissionError):
                entry.unlink(missing_ok=True)


def old_colours(manifest: Manifest) -> list[str]:
    """Return a sentence about an index whose first images were encoded without their profiles."""
    if manifest.colour is not None:
        return []
    return [
        "This index was begun by a version that ignored colour profiles: if it has images in "
        "Display P3, Adobe RGB or another wide space, delete it and index again to use theirs."
    ]


def corrupt(folder: Path, file: str, why: str) -> IndexUnusableError:
    """Return the error of a damaged file."""
    return IndexUnusableError(
        f"{file} of the index {folder} is corrupt ({why}); "
        "delete the index and index the collection again."
    )


def relative_root(root: Path, folder: Path) -> str:
    """Return a collection's root relative to the folder of its index.

    Raises:
        UsageError: the root is ``/``.
    """
    root, folder = root.resolve(), folder.resolve()
    if is_whole_machine(root):
        raise UsageError(f"The root of an index cannot be {root}: name the folder of the images.")
    try:
        return Path(os.path.relpath(root, folder)).as_posix()
    except ValueError:  # on another drive there is no relative path
        return root.as_posix()
