"""Changes to the items of an index: new versions, which count once the manifest names them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ztcir_sdk.files import flush_file
from ztcir_sdk.index.items import (
    BUSY_SECONDS,
    COLUMNS,
    HASH_INDEX,
    Item,
    Query,
    hash_terms,
    item_values,
    version_checksum,
)
from ztcir_sdk.index.manifest import FileRecord, Manifest

__all__ = ["ItemWriter", "new_table"]

SCHEMA = f"""
BEGIN;
CREATE TABLE versions (
    id       INTEGER PRIMARY KEY,
    label    INTEGER NOT NULL,
    path     TEXT NOT NULL,
    hash     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    metadata TEXT,
    checksum INTEGER NOT NULL,          -- of the columns before it
    died     INTEGER,                   -- generation that replaced or removed this version
    amended  INTEGER NOT NULL DEFAULT 0 -- 1: replaced by a version with the same label
);
CREATE INDEX versions_by_label ON versions (label);
CREATE INDEX versions_by_path ON versions (path);
CREATE INDEX versions_by_hash ON versions ({HASH_INDEX});
CREATE INDEX versions_dead ON versions (died, label, amended) WHERE died IS NOT NULL;
CREATE TABLE blocks (
    first  INTEGER PRIMARY KEY,         -- row
    rows   INTEGER NOT NULL,
    sha256 TEXT NOT NULL                -- of these rows in each file of vectors, one after another
);
COMMIT;
"""
_ADD = f"INSERT INTO versions ({COLUMNS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
_ADD_DEAD = f"INSERT INTO versions ({COLUMNS}, checksum, died) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def new_table(folder: Path) -> FileRecord:
    """Return the record of a table to create, whose name no other one ever had.

    SQLite finds a journal by its name: readers of a file that was deleted must not find another's.
    """
    import secrets

    while (folder / (name := f"items-{secrets.randbelow(10**12)}.sqlite")).exists():
        pass
    return FileRecord(name, 0)


class ItemWriter(Query):
    """The newest state of the items, with the changes that are not committed yet."""

    def __init__(self, folder: Path, manifest: Manifest, *, create: bool = False) -> None:
        """Open the table of a state, or create it; drop what another writer did not commit."""
        file = folder / manifest.table.file
        connection = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
            timeout=BUSY_SECONDS,
        )
        super().__init__(folder, file.name, connection)
        self._base = manifest
        self._first_label, self._rows = manifest.first_label, manifest.rows
        self._open = False
        execute = connection.execute
        self._fresh = folder / file if create else None
        if create:  # nobody reads it before a manifest names it, and `commit` flushes it first
            execute("PRAGMA journal_mode = OFF")
            execute("PRAGMA synchronous = OFF")
            connection.executescript(SCHEMA)
        else:
            execute("PRAGMA journal_mode = DELETE")
            execute("PRAGMA synchronous = FULL")
        execute("PRAGMA cache_spill = OFF")  # else a large change locks readers out meanwhile
        execute("PRAGMA temp_store = MEMORY")
        execute(f"CREATE TEMP VIEW items AS SELECT {COLUMNS} FROM versions WHERE died IS NULL")
        self._roll_back()

    def _roll_back(self) -> None:
        """Remove the versions of a commit whose manifest was never written."""
        generation, last = self._base.generation, self._base.versions
        [(newest,)] = self.sql("SELECT max(id) FROM versions")
        changed = self.sql("SELECT 1 FROM versions WHERE died > ? LIMIT 1", (generation,))
        if changed or (newest or 0) > last:
            self._change("DELETE FROM versions WHERE id > ?", (last,))
            self._change(
                "UPDATE versions SET died = NULL, amended = 0 WHERE died > ?", (generation,)
            )
            self._change("DELETE FROM blocks WHERE first >= ?", (self._base.rows,))
            self._connection.execute("COMMIT")
            self._open = False

    def begin(self, state: Manifest, rows: int) -> None:
        """Continue from a committed state."""
        self._base = state
        self.cover(state.first_label, rows)

    def cover(self, first_label: int, rows: int) -> None:
        """Let look-ups by hash know which labels there are."""
        self._first_label, self._rows = first_label, rows

    def _hash_terms(self) -> str:
        return hash_terms(self._first_label, self._rows)

    def add(self, item: Item) -> None:
        """Add an item with a new label."""
        values = item_values(item)
        self._change(_ADD, (*values, version_checksum(values)))

    def add_all(self, items: Iterable[Item]) -> None:
        """Add many items with new labels."""
        self._change_many(
            _ADD,
            ((*values, version_checksum(values)) for values in map(item_values, items)),
        )

    def add_dead(self, labels: Iterable[int], generation: int) -> None:
        """Record that rows have no items since a generation."""
        nothing = [(label, "", "", 0, 0, None) for label in labels]
        self._change_many(
            _ADD_DEAD, ((*values, version_checksum(values), generation) for values in nothing)
        )

    def amend(self, item: Item) -> None:
        """Give a label other values."""
        values = item_values(item)
        if self._sees(item.label):
            self._change(
                "UPDATE versions SET died = ?, amended = 1 WHERE label = ? AND died IS NULL",
                (self._base.generation + 1, item.label),
            )
            self._change(_ADD, (*values, version_checksum(values)))
        else:  # no reader has seen this version
            self._change(
                "UPDATE versions SET path = ?, hash = ?, size = ?, mtime_ns = ?, metadata = ?, "
                "checksum = ? WHERE label = ? AND died IS NULL",
                (*values[1:], version_checksum(values), item.label),
            )

    def _sees(self, label: int) -> bool:
        """Return whether a reader sees the present version of a label."""
        query = "SELECT id FROM versions WHERE label = ? AND died IS NULL"
        return bool(self.sql(query, (label,))[0][0] <= self._base.versions)

    def remove(self, label: int) -> None:
        """Remove the item of a label."""
        self._change(
            "UPDATE versions SET died = ? WHERE label = ? AND died IS NULL",
            (self._base.generation + 1, label),
        )

    def add_block(self, first: int, rows: int, sha256: str) -> None:
        """Record the checksum of new rows."""
        self._change("INSERT INTO blocks VALUES (?, ?, ?)", (first, rows, sha256))

    def count_versions(self) -> int:
        """Return the number of versions in the file, visible or not."""
        [(count,)] = self.sql("SELECT max(id) FROM versions")
        return int(count or 0)

    def commit(self) -> int:
        """Write the changes to disk; return the number of the last version."""
        last = self.count_versions()
        with self._lock:
            if self._open:
                self._connection.execute("COMMIT")
                self._open = False
        if self._fresh is not None:
            flush_file(self._fresh)
        return last

    def _change(self, statement: str, values: Sequence[Any]) -> None:
        self._in_transaction(lambda: self._connection.execute(statement, values))

    def _change_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        self._in_transaction(lambda: self._connection.executemany(statement, values))

    def _in_transaction(self, change: Callable[[], object]) -> None:
        with self._lock:
            if not self._open:
                self._connection.execute("BEGIN IMMEDIATE")
                self._open = True
            change()
