"""Change an index: add to its files, then commit what was added by replacing the manifest."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace as replace_item
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ztcir_sdk.environment import now
from ztcir_sdk.files import flush_file
from ztcir_sdk.index import graph, tuning
from ztcir_sdk.index.item_writer import ItemWriter, new_table
from ztcir_sdk.index.items import Item, ItemTable
from ztcir_sdk.index.manifest import (
    FileRecord,
    IndexUnusableError,
    Manifest,
    MetadataRecord,
    relative_root,
    remove_unlisted,
)
from ztcir_sdk.index.row_writer import RowWriter, write_rows
from ztcir_sdk.index.rows import unit_vector
from ztcir_sdk.index.upgrade import upgraded
from ztcir_sdk.index.view import IndexView, map_rows
from ztcir_sdk.sources import CollectionRules
from ztcir_sdk.version import __version__

__all__ = ["IndexWriter"]

NEWER_THAN_GRAPH = 10_000
"""Maximum rows outside the graph, which are searched exactly; a commit of more adds them."""
COMPACT_FROM = 1_000
"""Minimum of dead rows for rewriting the vectors; a quarter of all rows must be dead, too."""


class IndexWriter:
    """Changes an index; returned by `Index.edit`, for one thread at a time.

    The writer's own look-ups see changes at once; the index sees them after a commit.
    """

    def __init__(
        self, folder: Path, view: IndexView, committed: Callable[[IndexView], None]
    ) -> None:
        """Start from `view`, the newest state; `committed` is called with each new one."""
        self._folder = folder
        self._before = view
        self._committed = committed
        self._state = view.manifest
        self._changed = False
        self._closed = False
        self._opened: tuple[ItemWriter, RowWriter] | None = None

    def _open(self) -> tuple[ItemWriter, RowWriter]:
        """Return the writers of the files, opened on first use."""
        if self._closed:
            raise RuntimeError("this writer is closed")
        if self._opened is None:
            with self._writing():
                before = self._state.format_version
                self._state = upgraded(self._folder, self._state)
                self._changed |= self._state.format_version != before
                items = ItemWriter(self._folder, self._state)
                try:
                    self._opened = items, RowWriter(self._folder, self._state)
                except BaseException:
                    items.close()
                    raise
                self._items_left = self._state.items
        return self._opened

    @property
    def _table(self) -> ItemWriter:
        return self._open()[0]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            self._closed = True  # what is in memory may differ from what is on disk
            raise IndexUnusableError(
                f"The index {self._folder} cannot be written ({error}); "
                "its last committed state is unchanged."
            ) from error

    def __len__(self) -> int:
        return self._state.items if self._opened is None else self._items_left

    def items(self) -> Iterator[Item]:
        """Yield every item, ordered by path."""
        return iter(self._table)

    def times(self) -> dict[str, tuple[int, int]]:
        """Return path -> (size in bytes, mtime_ns), to find changed files."""
        return self._table.times()

    def paths_with_metadata(self) -> set[str]:
        """Return the paths of the items that have metadata."""
        return self._table.paths_with_metadata()

    def get(self, path: str) -> Item | None:
        """Return the item at a path, or None."""
        return self._table.by_path(path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item with this content, ordered by path."""
        return self._table.by_hash(content_hash)

    def sql(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return the rows of an SQL query; see `IndexView.sql`. Changes count already."""
        return self._table.sql(query, values)

    def vector_of(self, content_hash: str) -> NDArray[np.float32] | None:
        """Return the vector (D,) of this content, or None.

        Items that were replaced or removed since `Index.edit` are included.
        """
        table, rows = self._open()
        if labels := table.labels_of_hash(content_hash):
            return rows.read(labels[0] - self._state.first_label)
        replaced = self._before.by_hash(content_hash)
        return self._before.vectors([replaced[0].label])[0] if replaced else None

    def put(
        self,
        path: str,
        vector: NDArray[np.float32],
        *,
        content_hash: str,
        size: int,
        mtime_ns: int,
        metadata: Mapping[str, Any] | None = None,
    ) -> Item:
        """Add an item; replace the one at its path, if there is one.

        Args:
            path: relative to the root, with forward slashes.
            vector: (D,) float32, L2-normalised.
            content_hash: SHA-256 (hex) of the file's bytes.
            size: size of the file, in bytes.
            mtime_ns: modification time, in nanoseconds since 1970.
            metadata: the image's metadata, a JSON object.

        Raises:
            ValueError: the vector has another shape or is not normalised, or the path is empty.
        """
        vector = unit_vector(path, vector, self._state.dim, self._state.storage)
        if not path:
            raise ValueError("an item needs a path")
        table, rows = self._open()
        self._changed = True
        with self._writing():
            self._drop(path)
            label = self._state.first_label + rows.append(vector)
            table.cover(self._state.first_label, rows.rows)
            item = Item(label, path, content_hash, size, mtime_ns, metadata)
            table.add(item)
            self._items_left += 1
        return item

    def _drop(self, path: str) -> bool:
        """Remove the item at a path, if there is one."""
        table = self._table
        present = table.sql("SELECT label FROM items WHERE path = ?", (path,))
        for (label,) in present:
            table.remove(label)
            self._items_left -= 1
        return bool(present)

    def amend(self, item: Item) -> None:
        """Change the path, size, time or metadata of an item that keeps its vector.

        An item at the new path is replaced.

        Raises:
            KeyError: there is no such label.
        """
        table = self._table
        present = table.by_label(item.label)
        if present is None:
            raise KeyError(item.label)
        self._changed = True
        with self._writing():
            if present.path != item.path:
                self._drop(item.path)
            table.amend(item)

    def remove(self, path: str) -> None:
        """Remove the item at a path.

        Raises:
            KeyError: there is no item at the path.
        """
        self._open()
        with self._writing():
            if not self._drop(path):
                raise KeyError(path)
        self._changed = True

    def set_origin(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        precision: str | None = None,
        rules: CollectionRules | None = None,
        metadata: MetadataRecord | None = None,
        no_metadata: bool = False,
    ) -> None:
        """Record the collection's folder and rules, or the precision of the next vectors."""
        before = self._state
        if metadata is not None or no_metadata:
            self._state = replace(self._state, metadata=metadata)
        if rules is not None:
            self._state = replace(self._state, rules=rules)
        if root is not None:
            self._state = replace(self._state, root=relative_root(Path(root), self._folder))
        if precision is not None and precision not in self._state.precision.split("+"):
            self._state = replace(self._state, precision=f"{self._state.precision}+{precision}")
        self._changed |= self._state != before

    def commit(
        self,
        *,
        build_graph: bool | None = None,
        compact: bool | None = None,
        storage: str | None = None,
    ) -> None:
        """Commit all changes so far, and continue from there.

        Args:
            build_graph: whether to build or extend the graph. By default, and dead rows are then
                dropped, if it is worth it. False does neither, so that the commit costs only as
                much as the changes; True builds the graph at any size.
            compact: whether to drop dead rows and old versions of items; by default if it is worth
                it, and `build_graph` is not False.
            storage: how to store the vectors from now on, of `STORAGES`; this compacts.
        """
        if self._closed:
            raise RuntimeError("this writer is closed")
        convert = storage is not None and storage != self._state.storage
        compact = convert or (
            self._is_worn() if compact is None and build_graph is not False else bool(compact)
        )
        if compact or build_graph or (build_graph is None and self._wants_graph(compact=False)):
            self._open()
        link = build_graph is True or (build_graph is None and self._wants_graph(compact=compact))
        link = link and graph.can_use_graphs() and self._rows_outside(compact=compact) > 0
        if self._changed or compact or link:
            try:
                with self._writing():
                    self._commit(compact=compact, link=link, storage=storage or self._state.storage)
            except BaseException:
                self._closed = True
                raise

    def _row_count(self) -> int:
        return self._state.rows if self._opened is None else self._opened[1].rows

    def _is_worn(self) -> bool:
        """Return whether so much is dead that copying the rest is worth it."""
        rows = self._row_count()
        dead = rows - len(self)
        if dead > max(COMPACT_FROM, rows // 4):
            return True
        versions = self._state.versions if self._opened is None else self._table.count_versions()
        return versions - rows > max(2 * COMPACT_FROM, rows)

    def _rows_outside(self, *, compact: bool) -> int:
        """Return the rows that are not in the graph."""
        present = self._state.graph
        inside = 0 if present is None or compact else present.rows
        return (len(self) if compact else self._row_count()) - inside

    def _wants_graph(self, *, compact: bool) -> bool:
        return (
            len(self) > graph.GRAPH_FROM and self._rows_outside(compact=compact) > NEWER_THAN_GRAPH
        )

    def _commit(self, *, compact: bool, link: bool, storage: str) -> None:
        table, rows = self._open()
        state = replace(
            self._state,
            generation=self._state.generation + 1,
            items=len(self),
            updated=now(),
            ztcir=__version__,
        )
        block = rows.flush()
        if block is not None:
            table.add_block(*block)
        state = replace(state, rows=rows.rows, vectors=rows.records())
        if compact:
            state = self._compact(state, table, storage)
        else:
            versions = table.commit()
            record = FileRecord.of(self._folder, state.table.file)
            state = replace(state, versions=versions, table=record)
        if link:
            state = self._link(state)
        state.write(self._folder)

        moved = state.vectors[0].file != self._state.vectors[0].file
        self._state, self._changed = state, False
        if moved:
            self._close_files()
        else:
            table.begin(state, rows.rows)
        self._committed(IndexView(self._folder, state))
        remove_unlisted(self._folder, state.files)

    def _compact(self, state: Manifest, table: ItemWriter, storage: str) -> Manifest:
        """Copy the items and their rows to new files, with new labels."""
        old = map_rows(self._folder, state)
        labels = np.sort(table.labels_by_path())
        records, blocks = write_rows(self._folder, state, old, labels - state.first_label, storage)
        first_label = state.first_label + state.rows
        state = replace(
            state,
            rows=len(labels),
            first_label=first_label,
            storage=storage,
            vectors=records,
            versions=0,
            table=new_table(self._folder),
            graph=None,
        )
        fresh = ItemWriter(self._folder, replace(state, rows=0), create=True)
        try:
            # The new labels are in the order of the old ones.
            fresh.add_all(
                replace_item(item, label=first_label + int(np.searchsorted(labels, item.label)))
                for item in table
            )
            for block in blocks:
                fresh.add_block(*block)
            versions = fresh.commit()
        finally:
            fresh.close()
        record = FileRecord.of(self._folder, state.table.file)
        return replace(state, versions=versions, table=record)

    def _link(self, state: Manifest) -> Manifest:
        """Build the graph of all rows, or extend the existing one; measure its recall."""
        file = self._folder / f"graph-{state.generation}.hnsw"
        dead = self._dead_rows(state)
        record = tuning.build_graph(self._folder, file, map_rows(self._folder, state), state, dead)
        flush_file(file)
        return replace(state, graph=record)

    def _dead_rows(self, state: Manifest) -> NDArray[np.int64]:
        table = ItemTable(self._folder, state)
        try:
            return np.unique(table.dead_labels()) - state.first_label
        finally:
            table.close()

    def _close_files(self) -> None:
        if self._opened is not None:
            table, rows = self._opened
            self._opened = None
            try:
                rows.close()
            finally:
                table.close()

    def discard(self) -> None:
        """Drop uncommitted changes and close the files; for `Index.edit`."""
        self._closed = True
        self._close_files()
