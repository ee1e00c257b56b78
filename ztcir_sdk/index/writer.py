"""Change an index: write new files, then commit them by replacing the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ztcir_sdk.environment import now
from ztcir_sdk.files import flush_file
from ztcir_sdk.index import vectors as nearest
from ztcir_sdk.index.items import Item, ItemTable
from ztcir_sdk.index.manifest import (
    FileRecord,
    IndexUnusableError,
    Manifest,
    MetadataRecord,
    file_record,
    relative_root,
    remove_unlisted,
)
from ztcir_sdk.index.view import FLOAT, IndexView, map_vectors, rows_in_a_block
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
        self._start(view)

    def _start(self, view: IndexView) -> None:
        folder = self._folder
        self._state = view.manifest
        self._items: ItemTable | None = None
        self._hash = view.vectors_hash.copy()
        self._rows = self._state.rows
        self._changed = False
        self._new_table = folder / f"items-{self._state.generation + 1}.sqlite"
        self._stream = (folder / self._state.vectors.file).open("rb+")
        if self._stream.seek(0, os.SEEK_END) > self._state.vectors.bytes:
            self._stream.truncate(self._state.vectors.bytes)  # left by a killed writer

    def __len__(self) -> int:
        return self._state.items if self._items is None else len(self._items)

    @property
    def _table(self) -> ItemTable:
        """The private copy of the items, made on first use."""
        if self._stream.closed:
            raise RuntimeError("this writer is closed")
        if self._items is None:
            with self._writing():
                shutil.copyfile(self._folder / self._state.table.file, self._new_table)
                self._items = ItemTable(self._new_table, writable=True)
        return self._items

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise IndexUnusableError(
                f"The index {self._folder} cannot be written ({error}); "
                "its last committed state is unchanged."
            ) from error

    def items(self) -> Iterator[Item]:
        """Yield every item, ordered by path."""
        return iter(self._table)

    def times(self) -> dict[str, tuple[int, int]]:
        """Return path -> (size in bytes, mtime_ns), to find changed files."""
        return self._table.times()

    def get(self, path: str) -> Item | None:
        """Return the item at a path, or None."""
        return self._table.by_path(path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item with this content, ordered by path."""
        return self._table.by_hash(content_hash)

    def vector_of(self, content_hash: str) -> NDArray[np.float32] | None:
        """Return the vector (D,) of this content, or None.

        Items that were replaced or removed since `Index.edit` are included.
        """
        if items := self._table.by_hash(content_hash):
            row = items[0].label - self._state.first_label
            self._stream.seek(4 * self._state.dim * row)
            data = self._stream.read(4 * self._state.dim)
            vector: NDArray[np.float32] = np.frombuffer(data, dtype=FLOAT)
            return vector
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
        vector = np.asarray(vector, dtype=FLOAT)
        if vector.shape != (self._state.dim,):
            raise ValueError(f"vector of {path} has shape {vector.shape}, not ({self._state.dim},)")
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        if not abs(norm - 1) < 1e-2:  # false for NaN as well; fp16 encoders are off by up to 1e-3
            raise ValueError(f"vector of {path} has length {norm}, not 1")
        if not path:
            raise ValueError("an item needs a path")
        if abs(norm - 1) > nearest.UNIT:  # else keep the bits, so that copies stay equal
            vector = (vector / norm).astype(FLOAT)
        data = vector.tobytes()
        label = self._state.first_label + self._rows
        item = Item(label, path, content_hash, size, mtime_ns, metadata)
        self._changed = True
        with self._writing():
            self._stream.seek(4 * self._state.dim * self._rows)
            self._stream.write(data)
            self._hash.update(data)
            self._rows += 1
            self._table.put(item)
        return item

    def amend(self, item: Item) -> None:
        """Change the path, size, time or metadata of an item that keeps its vector.

        An item at the new path is replaced.

        Raises:
            KeyError: there is no such label.
        """
        if self._table.by_label(item.label) is None:
            raise KeyError(item.label)
        self._changed = True
        with self._writing():
            self._table.put(item)

    def remove(self, path: str) -> None:
        """Remove the item at a path.

        Raises:
            KeyError: there is no item at the path.
        """
        item = self._table.by_path(path)
        if item is None:
            raise KeyError(path)
        self._changed = True
        with self._writing():
            self._table.remove(item.label)

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
        if metadata is not None or no_metadata:
            self._changed |= metadata != self._state.metadata
            self._state = replace(self._state, metadata=metadata)
        if rules is not None:
            self._changed |= rules != self._state.rules
            self._state = replace(self._state, rules=rules)
        if root is not None:
            relative = relative_root(Path(root), self._folder)
            self._changed |= relative != self._state.root
            self._state = replace(self._state, root=relative)
        if precision is not None and precision not in self._state.precision.split("+"):
            self._changed = True
            self._state = replace(self._state, precision=f"{self._state.precision}+{precision}")

    def commit(self, *, build_graph: bool | None = None) -> None:
        """Commit all changes so far, and continue from there.

        Args:
            build_graph: whether to build or extend the graph. By default, and dead rows are then
                dropped, if it is worth it. False does neither, so that the commit costs only as
                much as the changes; True builds the graph at any size.
        """
        count = len(self)
        dead = self._rows - count
        compact = build_graph is not False and dead > max(COMPACT_FROM, self._rows // 4)
        newer = count if compact else self._rows - self._state.graph_rows
        link = build_graph is not False and count > nearest.EXACT_LIMIT and newer > NEWER_THAN_GRAPH
        link |= build_graph is True and newer > 0
        if self._changed or compact or link:
            with self._writing():
                self._commit(compact=compact, link=link)

    def _commit(self, *, compact: bool, link: bool) -> None:
        table = self._table
        state = replace(
            self._state,
            generation=self._state.generation + 1,
            items=len(table),
            updated=now(),
            ztcir=__version__,
        )
        self._stream.flush()
        if compact:
            state = self._compact(state, table)
        else:
            os.fsync(self._stream.fileno())
            size = 4 * state.dim * self._rows
            record = FileRecord(state.vectors.file, size, self._hash.hexdigest())
            state = replace(state, rows=self._rows, vectors=record)
        self._stream.close()
        table.close(commit=True)
        flush_file(self._new_table)
        state = replace(state, table=file_record(self._new_table))
        if link:
            state = self._link(state)
        state.write(self._folder)

        view = IndexView(self._folder, state, checked=self._hash)
        self._committed(view)
        remove_unlisted(self._folder, state.files)
        self._start(view)

    def _compact(self, state: Manifest, table: ItemTable) -> Manifest:
        """Copy the alive rows to a new file, with new labels."""
        file = self._folder / f"vectors-{state.generation}.f32"
        rows = np.sort(table.labels_by_path()) - state.first_label
        first_label = state.first_label + self._rows
        old = map_vectors(self._folder, replace(state, rows=self._rows))
        self._hash = hashlib.sha256()
        with file.open("wb") as stream:
            for start in range(0, len(rows), step := rows_in_a_block(state.dim)):
                part = old[rows[start : start + step]].tobytes()
                self._hash.update(part)
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        table.relabel((state.first_label + int(row), first_label + i) for i, row in enumerate(rows))
        return replace(
            state,
            rows=len(rows),
            first_label=first_label,
            vectors=FileRecord(file.name, 4 * state.dim * len(rows), self._hash.hexdigest()),
            graph=None,
            graph_rows=0,
        )

    def _link(self, state: Manifest) -> Manifest:
        """Build the graph of all rows, or extend the existing one."""
        folder = self._folder
        vectors = map_vectors(folder, state)
        if state.graph is None:
            graph = nearest.Graph.build(vectors)
        else:
            graph = nearest.Graph.load(folder / state.graph.file, state.dim, state.graph_rows)
            graph.extend(vectors)
        file = folder / f"graph-{state.generation}.hnsw"
        graph.save(file)
        flush_file(file)
        return replace(state, graph=file_record(file), graph_rows=state.rows)

    def discard(self) -> None:
        """Drop uncommitted changes and close the files; for `Index.edit`."""
        try:
            self._stream.close()
        finally:
            if self._items is not None:
                self._items.close()
