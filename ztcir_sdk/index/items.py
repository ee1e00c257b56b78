"""The items of an index: one SQLite file per committed state, which never changes.

SQLite provides the file format and look-ups, but its journal is not used: a writer changes a
private copy, and a manifest that names this copy commits it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Item", "ItemTable"]

SCHEMA = """
CREATE TABLE items (
    label    INTEGER PRIMARY KEY,
    path     TEXT NOT NULL UNIQUE,
    hash     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    metadata TEXT
);
CREATE INDEX items_by_hash ON items (hash);
"""
COLUMNS = "label, path, hash, size, mtime_ns, metadata"


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


class ItemTable:
    """An SQLite file of items, with one connection and a lock, so threads may share it."""

    def __init__(self, file: Path, *, writable: bool = False, create: bool = False) -> None:
        uri = file.absolute().as_uri()
        # `immutable`: committed files never change, so SQLite needs no lock files and the folder
        # may be read-only.
        mode = "?mode=rwc" if create else "?mode=rw" if writable else "?mode=ro&immutable=1"
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            uri + mode, uri=True, check_same_thread=False, isolation_level=None
        )
        self._finalizer = weakref.finalize(self, self._connection.close)
        if create or writable:
            # Nobody reads this copy before the manifest names it, and the writer flushes it first.
            self._connection.execute("PRAGMA journal_mode = MEMORY")
            self._connection.execute("PRAGMA synchronous = OFF")
        if create:
            self._connection.executescript(SCHEMA)
        if create or writable:
            self._connection.execute("BEGIN")

    def close(self, *, commit: bool = False) -> None:
        """Close the file; `commit` first writes the changes to it."""
        with self._lock:
            if commit:
                self._connection.execute("COMMIT")
            self._finalizer()  # closes the connection, once

    def __len__(self) -> int:
        [(count,)] = self._rows("SELECT count(*) FROM items")
        return int(count)

    def __iter__(self) -> Iterator[Item]:
        """Yield every item, ordered by path; no lock is held between pages of 1000."""
        after = ""
        while page := self._rows(
            f"SELECT {COLUMNS} FROM items WHERE path > ? ORDER BY path LIMIT 1000", (after,)
        ):
            yield from map(_item, page)
            after = page[-1][1]

    def by_label(self, label: int) -> Item | None:
        """Return the item of a label, or None."""
        return self._one("label", int(label))

    def by_path(self, path: str) -> Item | None:
        """Return the item at a path, or None."""
        return self._one("path", path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item with this content, ordered by path."""
        rows = self._rows(
            f"SELECT {COLUMNS} FROM items WHERE hash = ? ORDER BY path", (content_hash,)
        )
        return [_item(row) for row in rows]

    def labels_within(self, first: int, end: int) -> bool:
        """Return whether every label is at least `first` and below `end`."""
        [(least, most)] = self._rows("SELECT min(label), max(label) FROM items")
        return least is None or bool(first <= least and most < end)

    def times(self) -> dict[str, tuple[int, int]]:
        """Return path -> (size, mtime_ns)."""
        rows = self._rows("SELECT path, size, mtime_ns FROM items")
        return {path: (size, mtime_ns) for path, size, mtime_ns in rows}

    def labels_by_path(self) -> NDArray[np.int64]:
        """Return every label (n,), in the order of the paths."""
        rows = self._rows("SELECT label FROM items ORDER BY path")
        return np.fromiter((label for (label,) in rows), dtype=np.int64, count=len(rows))

    def put(self, item: Item) -> None:
        """Add an item; replace the one at its path, if there is one."""
        self._change(
            f"INSERT OR REPLACE INTO items ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            (
                item.label,
                item.path,
                item.content_hash,
                item.size,
                item.mtime_ns,
                None if item.metadata is None else json.dumps(item.metadata),
            ),
        )

    def remove(self, label: int) -> None:
        """Remove the item of a label."""
        self._change("DELETE FROM items WHERE label = ?", (label,))

    def relabel(self, old_and_new: Iterable[tuple[int, int]]) -> None:
        """Give items new labels, which must not be in use."""
        with self._lock:
            self._connection.executemany(
                "UPDATE items SET label = ?2 WHERE label = ?1", old_and_new
            )

    def _one(self, column: str, value: int | str) -> Item | None:
        rows = self._rows(f"SELECT {COLUMNS} FROM items WHERE {column} = ?", (value,))
        return _item(rows[0]) if rows else None

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._lock:
            self._connection.execute(statement, values)


def _item(row: tuple[Any, ...]) -> Item:
    label, path, content_hash, size, mtime_ns, metadata = row
    return Item(
        label=label,
        path=path,
        content_hash=content_hash,
        size=size,
        mtime_ns=mtime_ns,
        # Older versions wrote NaN and Infinity, which are no JSON.
        metadata=None if metadata is None else json.loads(metadata, parse_constant=_null),
    )


def _null(_: str) -> None:
    return None
