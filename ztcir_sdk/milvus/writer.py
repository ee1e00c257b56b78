"""Change an index in Milvus: bulk upserts and deletes, keyed by the path."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace as replace_item
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.filters.milvus import FIELDS, filter_columns, text_literal
from ztcir_sdk.index import DEFAULT_STORAGE, Item
from ztcir_sdk.index.items import ITEM_COLUMNS
from ztcir_sdk.index.manifest import MetadataRecord
from ztcir_sdk.index.rows import unit_vector
from ztcir_sdk.milvus.connection import MAX_BYTES, Connection, State, item_of
from ztcir_sdk.sources import CollectionRules
from ztcir_sdk.sources.identity import path_id

__all__ = ["MilvusWriter"]

ROWS_AT_ONCE = 1000
"""Rows of one upsert, at most,"""
BYTES_AT_ONCE = 16 << 20
"""and their bytes; a message has 64 MB at most."""

Known = tuple[int, int, str]
"""Size, modification time and content hash of an item."""


class _New(NamedTuple):
    """An item to write."""

    item: Item
    columns: dict[str, Any]
    """What filters compare; see `filter_columns`."""
    vector: NDArray[np.float32]


class _Amended(NamedTuple):
    """An item to write again with the vector that is in Milvus under its old path."""

    item: Item
    columns: dict[str, Any]
    origin: str
    """The old path."""


class MilvusWriter:
    """Changes a collection; returned by `MilvusIndex.edit`, for one thread.

    It knows the path, size, time and hash of every item; vectors and metadata stay in Milvus.
    """

    def __init__(
        self, connection: Connection, state: State, committed: Callable[[State], None]
    ) -> None:
        """Read what is there; `committed` is called with the state of each commit."""
        self._connection, self._state, self._committed = connection, state, committed
        self._written_state = state
        self._known: dict[str, Known] = {}
        self._by_hash: dict[str, set[str]] = defaultdict(set)
        self._put: dict[str, _New] = {}
        self._bytes = 0
        self._amended: dict[str, _Amended] = {}  # by its new path
        self._removed: set[str] = set()
        for rows in connection.scan(["path", "size", "mtime_ns", "hash"], batch=8000):
            for row in rows:
                self._enter(row["path"], (int(row["size"]), int(row["mtime_ns"]), row["hash"]))

    def __len__(self) -> int:
        return len(self._known)

    def items(self) -> Iterator[Item]:
        """Yield every item, with the changes so far."""
        self.flush()
        for rows in self._connection.scan(ITEM_COLUMNS):
            for row in rows:
                yield item_of(row)

    def times(self) -> dict[str, tuple[int, int]]:
        """Return path -> (size in bytes, mtime_ns), to find changed files."""
        return {path: (size, mtime_ns) for path, (size, mtime_ns, _) in self._known.items()}

    def paths_with_metadata(self) -> set[str]:
        """Return the paths of items that have metadata."""
        self.flush()
        return {
            row["path"]
            for rows in self._connection.scan(["path", "metadata"])
            for row in rows
            if row["metadata"] is not None
        }

    def get(self, path: str) -> Item | None:
        """Return the item at a path, or None."""
        if path not in self._known:
            return None
        if path in self._put:
            return self._put[path].item
        if path in self._amended:
            return self._amended[path].item
        rows = self._connection.query(f"label == {path_id(path)}", ITEM_COLUMNS, limit=1)
        return item_of(rows[0]) if rows else None

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item with this content, ordered by path."""
        found = (self.get(path) for path in sorted(self._by_hash.get(content_hash, ())))
        return [item for item in found if item is not None]

    def vector_of(self, content_hash: str) -> NDArray[np.float32] | None:
        """Return the vector (D,) of this content, or None."""
        for path in sorted(self._by_hash.get(content_hash, ())):
            if path in self._put:
                return self._put[path].vector
        if content_hash not in self._by_hash:
            return None
        rows = self._connection.query(f"hash == {text_literal(content_hash)}", ["vector"], limit=1)
        return np.asarray(rows[0]["vector"], dtype=np.float32) if rows else None

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
            ZtcirError: the path or the metadata is too long for Milvus, or it cannot be reached.
        """
        vector = unit_vector(path, vector, self._state.dim)
        if not path:
            raise ValueError("an item needs a path")
        item = Item(path_id(path), path, content_hash, size, mtime_ns, metadata)
        columns = filter_columns(metadata)
        self._bytes += vector.nbytes + _require_room(item, columns)
        self._put[path] = _New(item, columns, vector)
        self._amended.pop(path, None)
        self._removed.discard(path)
        self._enter(path, (size, mtime_ns, content_hash))
        if len(self._put) >= ROWS_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
            self.flush()
        return item

    def amend(self, item: Item) -> None:
        """Change the path, size, time or metadata of an item that keeps its vector."""
        old = next(
            (
                path
                for path in self._by_hash.get(item.content_hash, ())
                if path_id(path) == item.label
            ),
            None,
        )
        if old is None:
            raise KeyError(item.label)
        moved = replace_item(item, label=path_id(item.path))
        columns = filter_columns(item.metadata)
        _require_room(moved, columns)
        if old in self._put:
            self._put[item.path] = _New(moved, columns, self._put.pop(old).vector)
        else:
            origin = self._amended.pop(old).origin if old in self._amended else old
            self._amended[item.path] = _Amended(moved, columns, origin)
        if old != item.path:
            self._forget(old)
            self._removed.add(old)
        self._removed.discard(item.path)
        self._enter(item.path, (item.size, item.mtime_ns, item.content_hash))
        if len(self._amended) >= ROWS_AT_ONCE:
            self.flush()

    def remove(self, path: str) -> None:
        """Remove the item at a path.

        Raises:
            KeyError: there is no item at the path.
        """
        self._forget(path)
        self._put.pop(path, None)
        self._amended.pop(path, None)
        self._removed.add(path)

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
            self._state = replace(self._state, metadata=metadata)
        if rules is not None:
            self._state = replace(self._state, rules=rules)
        if root is not None and self._connection.address.root is None:
            self._state = replace(self._state, root=str(root))
        if precision is not None and precision not in self._state.precision.split("+"):
            self._state = replace(self._state, precision=f"{self._state.precision}+{precision}")

    def commit(
        self,
        *,
        build_graph: bool | None = None,
        compact: bool = False,
        storage: str | None = None,
    ) -> None:
        """Write all changes so far; Milvus itself builds graphs and drops what was removed.

        Raises:
            UsageError: another storage than float32 is asked for.
            ZtcirError: Milvus cannot be reached; the same changes again complete it.
        """
        if storage not in (None, DEFAULT_STORAGE):
            raise UsageError(
                f"Milvus stores vectors as {DEFAULT_STORAGE}: for a smaller index, create the "
                "collection with ?type=IVF_SQ8 at the end of its address."
            )
        self.flush()
        client, collection = self._connection.client, self._connection.collection
        if self._state != self._written_state:
            self._connection.write_state(self._state)
            self._written_state = self._state
        with self._connection.sentences("cannot be written"):
            if build_graph is not False:
                client.flush(collection)
            if compact:
                client.compact(collection)
        self._committed(self._state)

    def flush(self) -> None:
        """Send the changes so far: new rows first, so that a renamed image is never missing."""
        rows = [_row(new.item, new.columns, new.vector) for new in self._put.values()]
        rows += self._amended_rows()
        client, collection = self._connection.client, self._connection.collection
        with self._connection.sentences("cannot be written"):
            for start in range(0, len(rows), ROWS_AT_ONCE):
                client.upsert(collection, rows[start : start + ROWS_AT_ONCE])
            gone = sorted(path_id(path) for path in self._removed)
            for start in range(0, len(gone), ROWS_AT_ONCE):
                client.delete(collection, ids=gone[start : start + ROWS_AT_ONCE])
        self._put, self._amended, self._bytes = {}, {}, 0
        self._removed = set()

    def _amended_rows(self) -> list[dict[str, Any]]:
        if not self._amended:
            return []
        labels = sorted({path_id(one.origin) for one in self._amended.values()})
        vectors = {
            int(row["label"]): np.asarray(row["vector"], dtype=np.float32)
            for row in self._connection.query(f"label in {labels}", ["label", "vector"])
        }
        return [
            _row(one.item, one.columns, vectors[path_id(one.origin)])
            for one in self._amended.values()
        ]

    def _enter(self, path: str, known: Known) -> None:
        if path in self._known:
            self._forget(path)
        self._known[path] = known
        self._by_hash[known[2]].add(path)

    def _forget(self, path: str) -> None:
        content_hash = self._known.pop(path)[2]
        self._by_hash[content_hash].discard(path)
        if not self._by_hash[content_hash]:
            del self._by_hash[content_hash]


def _row(item: Item, columns: dict[str, Any], vector: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "label": item.label,
        "path": item.path,
        "hash": item.content_hash,
        "size": item.size,
        "mtime_ns": item.mtime_ns,
        "metadata": None if item.metadata is None else dict(item.metadata),
        FIELDS: columns,
        "vector": vector.tolist(),
    }


def _require_room(item: Item, columns: dict[str, Any]) -> int:
    """Check that Milvus can hold an item, and return about its bytes.

    Raises:
        ZtcirError: its path or its metadata is too long.
    """
    sizes = {
        "path": len(item.path.encode()),
        "metadata": len(json.dumps(item.metadata and dict(item.metadata))),
        FIELDS: len(json.dumps(columns)),
    }
    for name, size in sizes.items():
        if size > MAX_BYTES[name]:
            what = "path" if name == "path" else "metadata"
            raise ZtcirError(
                f"The {what} of {item.path[:80]} is too long for Milvus, which holds "
                f"{MAX_BYTES[name]:,} bytes: shorten it, or leave the image out with --exclude."
            )
    return sum(sizes.values())
