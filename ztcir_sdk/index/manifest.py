"""``index.json``: what an index is, which files hold it, and their checksums.

Replacing this one file commits a state of the index; files it does not name do not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import flush_folder, hash_file, write_whole
from ztcir_sdk.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "FileRecord",
    "IndexUnusableError",
    "Manifest",
    "record_of",
    "relative_root",
    "remove_unnamed",
]

FORMAT_VERSION = 1
MANIFEST = "index.json"
METRIC = "cosine"
OUR_FILES = re.compile(
    r"(vectors-\d+\.f32|items-\d+\.sqlite|graph-\d+\.hnsw|index\.json\.new|\.index\.json\.\w+\.new)"
)
"""Names of the files in an index that may be removed when the manifest does not name them."""


class IndexUnusableError(ZtcirError):
    """An index is missing, incomplete, altered, locked, or of an unknown format."""


@dataclass(frozen=True)
class FileRecord:
    """A file of the index; its first `bytes` bytes count, and have this checksum."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One committed state of an index."""

    dim: int
    """Width of the vectors."""
    items: int
    """Number of items."""
    image_tower: str
    """Fingerprint (hex) of what made the vectors: image-tower weights and preprocessing."""
    precision: str
    """Precision of the graphs that made them, joined by "+" where several did; never checked."""
    root: str
    """Folder that item paths are relative to; relative to the index, so that both can be moved."""
    generation: int
    """Counts the commits."""
    first_label: int
    """Label of the first row; grows when the rows are rewritten, so no label is used twice."""
    rows: int
    """Rows in the file of vectors, those of removed items included."""
    vectors: FileRecord
    """(rows, dim) little-endian float32, L2-normalised, without a header."""
    table: FileRecord
    """SQLite file of the items."""
    graph: FileRecord | None
    """hnswlib graph over the first `graph_rows` rows, where the collection is large."""
    graph_rows: int
    updated: str
    """When this state was made: UTC, ISO 8601."""
    ztcir: str
    """Version that made it."""
    metric: str = METRIC
    format_version: int = FORMAT_VERSION

    @property
    def files(self) -> set[str]:
        """Names of the files that hold this state."""
        records = (self.vectors, self.table, self.graph)
        return {record.file for record in records if record is not None}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Raises:
            IndexUnusableError: there is no index, or none that this version can read.
        """
        advice = "make one with `ztcir index FOLDER`"
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            if not folder.exists():
                raise IndexUnusableError(f"There is no index {folder}; {advice}.") from None
            raise IndexUnusableError(
                f"{folder} is not an index, since it has no {MANIFEST}; {advice}."
            ) from None
        except NotADirectoryError:
            raise IndexUnusableError(f"{folder} is a file, not an index; {advice}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise IndexUnusableError(
                f"The manifest {folder / MANIFEST} cannot be read ({error}); "
                "index the collection again."
            ) from error
        try:
            return _parse(json.loads(text))
        except _UnknownFormatError as error:
            raise IndexUnusableError(
                f"{folder} has index format {error}, which ztcir {__version__} does not know; "
                "update ztcir, or index the collection again."
            ) from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise IndexUnusableError(
                f"The manifest {folder / MANIFEST} is damaged ({error}); "
                "delete the index and index the collection again."
            ) from error

    def write(self, folder: Path) -> None:
        """Make this the committed state; a crash leaves either the old one or this."""
        flush_folder(folder)  # the files it names are there before it is
        write_whole(folder / MANIFEST, json.dumps(asdict(self), indent=2) + "\n")
        flush_folder(folder)


class _UnknownFormatError(Exception):
    pass


def _parse(value: Any) -> Manifest:
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    if value.get("format_version") != FORMAT_VERSION:
        raise _UnknownFormatError(repr(value.get("format_version")))
    fields = dict(value)
    for name in ("vectors", "table", "graph"):
        if fields[name] is not None or name != "graph":
            fields[name] = _record(fields[name])
    manifest = Manifest(**fields)
    for name in ("dim", "items", "generation", "first_label", "rows", "graph_rows"):
        _natural(name, getattr(manifest, name))
    for name in ("image_tower", "precision", "root", "updated", "ztcir"):
        if not isinstance(getattr(manifest, name), str):
            raise TypeError(f"{name} is not a text")
    if manifest.metric != METRIC:
        raise ValueError(f"metric {manifest.metric!r} is unknown")
    if manifest.vectors.bytes != 4 * manifest.rows * manifest.dim or manifest.dim < 1:
        raise ValueError("size of the vectors is not rows times dim")
    if manifest.items > manifest.rows or manifest.graph_rows > manifest.rows:
        raise ValueError("there are more items than vectors")
    return manifest


def _record(value: Any) -> FileRecord:
    record = FileRecord(**value)
    # A name from the outside, which will be opened: it must stay in this folder.
    if not isinstance(record.file, str) or not OUR_FILES.fullmatch(record.file):
        raise ValueError(f"file name {record.file!r} is not an index's")
    if not isinstance(record.sha256, str):
        raise TypeError("sha256 is not a text")
    _natural("bytes", record.bytes)
    return record


def _natural(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"{name} is {value!r}")


def remove_unnamed(folder: Path, named: set[str]) -> None:
    """Remove what a killed writer left, and what only older states need."""
    for entry in list(folder.iterdir()):
        if entry.name not in named and OUR_FILES.fullmatch(entry.name):
            # Where a reader still has it open, Windows refuses; the next writer tries again.
            with contextlib.suppress(PermissionError):
                entry.unlink(missing_ok=True)


def record_of(file: Path) -> FileRecord:
    """Return the record of a file that counts as a whole."""
    return FileRecord(file.name, file.stat().st_size, hash_file(file))


def relative_root(root: Path, folder: Path) -> str:
    """Return how a collection's root is found from its index's folder."""
    root, folder = root.resolve(), folder.resolve()
    try:
        return Path(os.path.relpath(root, folder)).as_posix()
    except ValueError:  # on another drive, where no relative path leads
        return root.as_posix()
