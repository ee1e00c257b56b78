"""The items of an index, in SQLite: each commit adds versions of items to one file.

A version is visible from the commit that added it until the commit that replaced or removed it.
The manifest says which commit counts, so readers of any state see exactly that state while a writer
adds to the file, and what a killed writer added is invisible. SQLite's rollback journal keeps the
file itself whole. It needs no shared memory, unlike a write-ahead log, so an index may be on a
network disk, on read-only media, or in a folder of another user.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.errors import reason_of
from ztcir_sdk.files import open_ordinary
from ztcir_sdk.index.manifest import OLD_FORMAT, IndexUnusableError, Manifest, corrupt
from ztcir_sdk.sources.listing import is_relative_path
from ztcir_sdk.sources.metadata import stored_metadata

__all__ = [
    "BUSY_SECONDS",
    "COLUMNS",
    "HASH_INDEX",
    "ITEM_COLUMNS",
    "Item",
    "ItemTable",
    "Query",
    "item_values",
    "version_checksum",
]

ITEM_COLUMNS = ("label", "path", "hash", "size", "mtime_ns", "metadata")
COLUMNS = ", ".join(ITEM_COLUMNS)
BUSY_SECONDS = 60.0
"""How long a reader waits for a commit, and a commit for readers; each takes milliseconds."""

LABELS_IN_A_BUCKET = 13
"""Logarithm of the labels that lie together in the index of hashes. New items change only the last
part of it, so that a commit's cost does not grow with the index."""
HASH_INDEX = f"label >> {LABELS_IN_A_BUCKET}, substr(hash, 1, 12)"
MAX_VARIABLES = 500
TRIES = 5


QUERY_SECONDS = 600.0
"""Longest time of one query."""
MAX_VALUE = 64_000_000
"""Bytes of a text or a row."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "items": ITEM_COLUMNS,
    "versions": ("id", *ITEM_COLUMNS, "checksum", "died", "amended"),
    "blocks": ("first", "rows", "sha256"),
}
"""Table -> its columns, in order."""


@dataclass(frozen=True)
class Item:
    """One image of a collection."""

    label: int
    """Number in this index. No other item ever gets it; a new vector gets a new label."""
    path: str
    """Relative to the collection's root, with forward slashes: ``shard.tar/key.jpg`` in a tar."""
    content_hash: str
    """SHA-256 (hex) of the file's bytes; most CPUs compute it faster than BLAKE2b."""
    size: int
    """Size of the file, in bytes."""
    mtime_ns: int
    """Modification time of the file, or of its archive: nanoseconds since 1970."""
    metadata: Mapping[str, Any] | None = None
    """The image's metadata, a JSON object."""


class _Deadline:
    """Ends a query that runs for too long; SQLite asks it now and then.

    Attributes:
        at: when, by `time.monotonic`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.at = 0.0
        connection.set_progress_handler(self._is_over, 1_000_000)

    def start(self) -> None:
        """Count from now."""
        self.at = time.monotonic() + QUERY_SECONDS

    def _is_over(self) -> int:
        return int(self.at > 0 and time.monotonic() > self.at)


class Query:
    """Look-ups in the table `items` of a connection, which threads may share."""

    def __init__(self, folder: Path, file: str, connection: sqlite3.Connection) -> None:
        self._folder = folder
        self._file = file
        self._connection = connection
        self._lock = threading.Lock()
        self._deadline = _Deadline(connection)
        self._finalizer = weakref.finalize(self, connection.close)

    def close(self) -> None:
        """Close the connection, without committing."""
        with self._lock:
            self._finalizer()  # closes it once

    def sql(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return the rows of a query in which `items` has the items of this state.

        Raises:
            IndexUnusableError: the file is damaged, or another process holds it.
        """
        with self._lock:
            self._deadline.start()
            try:
                return self._fetch(query, values)
            except sqlite3.OperationalError as error:
                raise self._unreadable(error) from error
            except sqlite3.DatabaseError as error:
                if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError)):
                    raise
                raise corrupt(self._folder, self._file, str(error)) from error

    def _fetch(self, query: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """Run a query; again if SQLite met a journal of a file that was removed meanwhile.

        A reader may look for the journal just when a writer ends its last commit to the file and
        removes both. SQLite calls that an input error, and finds no journal the next time.
        """
        for _ in range(TRIES - 1):
            with contextlib.suppress(sqlite3.OperationalError):
                return self._connection.execute(query, values).fetchall()
            if (self._folder / self._file).exists():
                break
        return self._connection.execute(query, values).fetchall()

    def _unreadable(self, error: sqlite3.OperationalError) -> Exception:
        if "syntax" in str(error) or "no such" in str(error):
            return error  # the query's fault
        return IndexUnusableError(
            f"{self._file} of the index {self._folder} cannot be read ({error}); try again, and "
            "check the disk if it fails again."
        )

    def __iter__(self) -> Iterator[Item]:
        """Yield every item, ordered by path; no lock is held between pages of 1000."""
        after = ""
        while page := self.sql(
            f"SELECT {COLUMNS} FROM items WHERE path > ? ORDER BY path LIMIT 1000", (after,)
        ):
            yield from map(_item, page)
            after = page[-1][1]

    def by_label(self, label: int) -> Item | None:
        """Return the item of a label, or None."""
        return self._one("label", int(label))

    def by_labels(self, labels: Sequence[int]) -> list[Item]:
        """Return the items of labels, in their order.

        Raises:
            KeyError: there is no such label.
        """
        found: dict[int, Item] = {}
        for start in range(0, len(labels), MAX_VARIABLES):
            part = [int(label) for label in labels[start : start + MAX_VARIABLES]]
            marks = ", ".join("?" * len(part))
            rows = self.sql(f"SELECT {COLUMNS} FROM items WHERE label IN ({marks})", part)
            found.update((row[0], _item(row)) for row in rows)
        return [found[int(label)] for label in labels]

    def by_path(self, path: str) -> Item | None:
        """Return the item at a path, or None."""
        return self._one("path", path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item with this content, ordered by path."""
        query = f"SELECT {COLUMNS} FROM items WHERE {self._hash_terms()} ORDER BY path"
        return [_item(row) for row in self.sql(query, {"hash": content_hash})]

    def labels_of_hash(self, content_hash: str) -> list[int]:
        """Return the label of every item with this content."""
        query = f"SELECT label FROM items WHERE {self._hash_terms()}"
        return [label for (label,) in self.sql(query, {"hash": content_hash})]

    def _hash_terms(self) -> str:
        return "hash = :hash"

    def times(self) -> dict[str, tuple[int, int]]:
        """Return path -> (size, mtime_ns)."""
        rows = self.sql("SELECT path, size, mtime_ns FROM items")
        for path, size, mtime_ns in rows:
            if not (is_relative_path(path) and isinstance(size, int) and isinstance(mtime_ns, int)):
                raise _damaged_item(path, "its path leads out of the collection, or is none")
        return {path: (size, mtime_ns) for path, size, mtime_ns in rows}

    def paths_with_metadata(self) -> set[str]:
        """Return the paths of the items that have metadata."""
        return {path for (path,) in self.sql("SELECT path FROM items WHERE metadata NOT NULL")}

    def labels_by_path(self) -> NDArray[np.int64]:
        """Return every label (n,), in the order of the paths."""
        return _labels(self.sql("SELECT label FROM items ORDER BY path"))

    def order(self, labels: ArrayLike) -> NDArray[np.int64]:
        """Return for each of a few labels (n,) its rank among them by path."""
        labels = np.asarray(labels, dtype=np.int64)
        paths = [item.path for item in self.by_labels(labels.tolist())]
        ranks = np.empty(len(labels), dtype=np.int64)
        ranks[sorted(range(len(paths)), key=paths.__getitem__)] = np.arange(len(labels))
        return ranks

    def _one(self, column: str, value: int | str) -> Item | None:
        rows = self.sql(f"SELECT {COLUMNS} FROM items WHERE {column} = ?", (value,))
        return _item(rows[0]) if rows else None


class ItemTable(Query):
    """The items of one committed state."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the table of a state; raises `IndexUnusableError` if it is missing or damaged."""
        file = manifest.table.file
        self._manifest = manifest
        self._old = manifest.format_version == OLD_FORMAT
        try:
            with open_ordinary(folder / file) as stream:
                size = os.fstat(stream.fileno()).st_size
            if size < manifest.table.bytes:
                raise ValueError(f"it has {size} of its {manifest.table.bytes} bytes")
            connection = _connect(folder / file, old=self._old)
            _prepare(connection, old=self._old)
        except (sqlite3.Error, OSError, ValueError) as error:
            raise corrupt(folder, file, reason_of(error)) from error
        super().__init__(folder, file, connection)
        if not self._old:
            self.sql(
                f"CREATE TEMP VIEW items AS SELECT {COLUMNS} FROM versions "
                f"WHERE id <= {manifest.versions} "
                f"AND coalesce(died, {manifest.generation + 1}) > {manifest.generation}"
            )
        self.sql("PRAGMA query_only = ON")

    def dead_labels(self) -> NDArray[np.int64]:
        """Return the labels of rows that no item has any more, in no order."""
        state = self._manifest
        if self._old:
            alive = np.zeros(state.rows, dtype=np.bool_)
            alive[self.labels_by_path() - state.first_label] = True
            return np.flatnonzero(~alive) + state.first_label
        return _labels(
            self.sql(
                f"SELECT label FROM versions WHERE died <= {state.generation} "
                f"AND amended = 0 AND id <= {state.versions}"
            )
        )

    def blocks(self) -> list[tuple[int, int, str]]:
        """Return first row, number of rows and SHA-256 (hex) of each run of rows."""
        if self._old:
            return []
        rows = self._manifest.rows
        found = self.sql(
            "SELECT first, rows, sha256 FROM blocks WHERE first < ? ORDER BY 1", (rows,)
        )
        return [(first, count, sha256) for first, count, sha256 in found]

    def _hash_terms(self) -> str:
        if self._old:
            return super()._hash_terms()
        return hash_terms(self._manifest.first_label, self._manifest.rows)


def hash_terms(first_label: int, rows: int) -> str:
    """Return SQL that finds ``:hash`` by `HASH_INDEX` among the labels of some rows."""
    first = first_label >> LABELS_IN_A_BUCKET
    end = ((first_label + rows) >> LABELS_IN_A_BUCKET) + 1
    buckets = ", ".join(map(str, range(first, end)))
    # With a plain `hash`, SQLite puts :hash in its place in the other term too, which then is no
    # longer the index's: it would read every hash.
    return (
        f"label >> {LABELS_IN_A_BUCKET} IN ({buckets}) "
        "AND substr(hash, 1, 12) = substr(:hash, 1, 12) AND +hash = :hash"
    )


def item_values(item: Item) -> tuple[Any, ...]:
    """Return the values of `COLUMNS`."""
    metadata = None if item.metadata is None else json.dumps(item.metadata)
    return item.label, item.path, item.content_hash, item.size, item.mtime_ns, metadata


def version_checksum(values: Iterable[Any]) -> int:
    """Return the checksum of an item's values."""
    return zlib.crc32(repr(tuple(values)).encode("utf-8", "surrogatepass"))


def _connect(file: Path, *, old: bool) -> sqlite3.Connection:
    """Connect to a file that may only be read.

    A file of the old format never changes. Of today's, SQLite first undoes what a killed writer
    left half done; where the folder cannot be written to, it does so in a copy.
    """
    uri = file.absolute().as_uri()
    if old:
        return _connection(f"{uri}?mode=ro&immutable=1")
    try:
        connection = _connection(f"{uri}?mode=rw")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        journal = file.with_name(f"{file.name}-journal")
        if not file.exists() or not journal.exists():
            raise
        return _connect_copy(file, journal)
    return connection


def _connect_copy(file: Path, journal: Path) -> sqlite3.Connection:
    """Connect to a copy in memory of a file that its journal must be applied to."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ztcir-items-") as folder:
        copy = Path(folder) / file.name
        shutil.copyfile(file, copy)
        shutil.copyfile(journal, copy.with_name(journal.name))
        connection = _connection(":memory:", uri=False)
        with contextlib.closing(_connection(f"{copy.absolute().as_uri()}?mode=rw")) as source:
            source.backup(connection)
    return connection


def _connection(name: str, *, uri: bool = True) -> sqlite3.Connection:
    connection = sqlite3.connect(
        name, uri=uri, check_same_thread=False, isolation_level=None, timeout=BUSY_SECONDS
    )
    _restrict(connection)
    return connection


def _restrict(connection: sqlite3.Connection) -> None:
    """Bound what a foreign file can make SQLite do."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    if hasattr(connection, "setlimit"):  # Python 3.11
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)


def _prepare(connection: sqlite3.Connection, *, old: bool) -> None:
    """Require the tables as ztcir writes them, and nothing that runs by itself.

    Raises:
        ValueError: they are others, in words without a subject.
        sqlite3.Error: the file is damaged.
    """
    tables = ("items",) if old else ("versions", "blocks")
    found = connection.execute("SELECT type, name, tbl_name FROM main.sqlite_master").fetchmany(100)
    kinds = {(kind, name) for kind, name, _ in found if kind != "index"}
    if kinds != {("table", name) for name in tables}:
        raise ValueError(f"it has other tables than {' and '.join(tables)}")
    for table in tables:
        columns = connection.execute(f"PRAGMA main.table_xinfo({table})").fetchall()
        if tuple(column[1] for column in columns) != _COLUMNS[table]:
            raise ValueError(f"its table {table} has other columns")
        if any(column[6] for column in columns):  # hidden, or computed by an expression
            raise ValueError(f"its table {table} has computed columns")


def _labels(rows: list[tuple[int]]) -> NDArray[np.int64]:
    try:
        return np.fromiter((label for (label,) in rows), dtype=np.int64, count=len(rows))
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged_item("of a row", "its label is not a number") from error


def _item(row: tuple[Any, ...]) -> Item:
    label, path, content_hash, size, mtime_ns, metadata = row
    try:
        if not is_relative_path(path):
            raise ValueError("its path leads out of the collection")
        if not isinstance(content_hash, str) or not all(
            isinstance(number, int) for number in (label, size, mtime_ns)
        ):
            raise ValueError("its values have other types")
        values = stored_metadata(metadata)
    except ValueError as error:
        raise _damaged_item(path, error) from error
    return Item(label, path, content_hash, size, mtime_ns, values)


def _damaged_item(path: Any, why: object) -> IndexUnusableError:
    return IndexUnusableError(
        f"The item {str(path)[:200]!r} of the index is damaged or hostile ({why}); delete the "
        "index and index the collection again."
    )
