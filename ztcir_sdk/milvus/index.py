"""An index in Milvus: searched and changed as one in a folder is."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.errors import (
    UsageError,
    image_tower_error,
    recreated_error,
    whole_number,
)
from ztcir_sdk.filters import Filter
from ztcir_sdk.filters.expression import Field
from ztcir_sdk.filters.fields import require_kinds
from ztcir_sdk.filters.milvus import has_expression, milvus_expression, text_literal
from ztcir_sdk.index import Item, Neighbours
from ztcir_sdk.index.items import ITEM_COLUMNS
from ztcir_sdk.index.nearest import unit_queries
from ztcir_sdk.milvus.address import Address
from ztcir_sdk.milvus.connection import Connection, State, item_of
from ztcir_sdk.milvus.writer import MilvusWriter
from ztcir_sdk.sources.identity import path_id

__all__ = ["MAX_HITS", "MilvusIndex"]

MAX_HITS = 16_384
"""Rows that Milvus returns for a query, at most."""
EF = 128
"""Candidates of a search in Milvus's graph, at least."""
REMEMBERED = 4096
"""Items of earlier searches that need not be fetched again."""
A_FEW_MORE = 16
"""Rows that are asked for beside `k`, so that equal scores are ordered by path."""


class MilvusIndex:
    """A collection of Milvus. Threads may share one.

    Scores are computed here, in float64, from the vectors that Milvus returns, so hits are those of
    an index in a folder. Writers need no lock: an item's key is a hash of its path, so the same
    item is never there twice. A search sees what was written before it.

    Attributes:
        address: where it is.
    """

    def __init__(self, connection: Connection, state: State) -> None:
        """Use `MilvusIndex.create` or `MilvusIndex.open`."""
        self.address = connection.address
        self._connection = connection
        self._state = state
        self._lock = threading.Lock()
        self._items: OrderedDict[int, tuple[Item, NDArray[np.float32]]] = OrderedDict()

    @classmethod
    def exists(cls, address: str | Address) -> bool:
        """Return whether there is such a collection.

        Raises:
            ZtcirError: Milvus cannot be reached.
        """
        return Connection(_parsed(address)).exists()

    @classmethod
    def create(
        cls,
        address: str | Address,
        *,
        dim: int,
        image_tower: str,
        precision: str,
        root: str | os.PathLike[str],
    ) -> MilvusIndex:
        """Create an empty collection; see `ztcir_sdk.index.Index.create`.

        Raises:
            ZtcirError: Milvus cannot be reached, or has such a collection.
        """
        connection = Connection(_parsed(address))
        state = State(
            dim, image_tower, precision, str(root), index_type=connection.address.index_type
        )
        connection.create(state)
        return cls(connection, state)

    @classmethod
    def open(cls, address: str | Address, *, image_tower: str | None) -> MilvusIndex:
        """Open a collection.

        Args:
            address: such as ``milvus://host:19530/photos``.
            image_tower: fingerprint of the image tower of the queries; None to read items only.

        Raises:
            IndexMismatchError: the vectors were made by another image tower.
            ZtcirError: Milvus cannot be reached, or has no such collection.
        """
        connection = Connection(_parsed(address))
        state = connection.read_state()
        if image_tower is not None and image_tower != state.image_tower:
            raise image_tower_error(connection.address, state.image_tower, image_tower)
        with connection.sentences():
            connection.client.load_collection(connection.collection)
        return cls(connection, state)

    @property
    def path(self) -> str:
        """The address, as sentences name it."""
        return str(self.address)

    @property
    def manifest(self) -> State:
        """What made the vectors, and where the images are."""
        return self._state

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._state.dim

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of the image tower and preprocessing that made the vectors."""
        return self._state.image_tower

    @property
    def precision(self) -> str:
        """Precisions of the graphs that made the vectors."""
        return self._state.precision

    @property
    def root(self) -> Path:
        """Folder that item paths are relative to: the address's ``root``, else the recorded one."""
        return Path(self.address.root or self._state.root)

    def __len__(self) -> int:
        return self._connection.count()

    def items(self) -> Iterator[Item]:
        """Yield every item, in no order."""
        for rows in self._connection.scan(ITEM_COLUMNS):
            yield from map(item_of, rows)

    def item(self, label: int) -> Item:
        """Return the item of a label.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            if (known := self._items.get(int(label))) is not None:
                return known[0]
        rows = self._connection.query(f"label == {int(label)}", ITEM_COLUMNS)
        if not rows:
            raise KeyError(label)
        return item_of(rows[0])

    def by_path(self, path: str) -> Item | None:
        """Return the item at a path relative to the root, or None."""
        found = self._connection.query(f"path == {text_literal(path)}", ITEM_COLUMNS, limit=1)
        return item_of(found[0]) if found else None

    def vectors(self, labels: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors (n, D) float32 of labels (n,).

        Raises:
            KeyError: there is no such label.
        """
        asked = np.asarray(labels, dtype=np.int64).tolist()
        with self._lock:
            known = {label: self._items[label][1] for label in asked if label in self._items}
        missing = [label for label in asked if label not in known]
        for start in range(0, len(missing), MAX_HITS // 16):
            some = missing[start : start + MAX_HITS // 16]
            for row in self._connection.query(f"label in {some}", ["label", "vector"]):
                known[int(row["label"])] = np.asarray(row["vector"], dtype=np.float32)
        if not asked:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.stack([known[label] for label in asked])

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return the vectors (n, D) of `count` items or fewer.

        Keys are hashes of paths, so those of the lowest keys are a random sample.
        """
        rows = self._connection.query("label >= 0", ["vector"], limit=count)
        return np.array([row["vector"] for row in rows], dtype=np.float32).reshape(-1, self.dim)

    def labels_where(self, where: Filter) -> NDArray[np.int64]:
        """Return the labels (n,) of the items that satisfy a filter, ascending.

        Raises:
            FilterError: the filter does not fit the items.
        """
        expression = self._checked(where)
        found = [
            int(row["label"])
            for rows in self._connection.scan(["label"], expression)
            for row in rows
        ]
        return np.array(sorted(found), dtype=np.int64)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude_labels: Sequence[Collection[int]] | None = None,
        exclude_hashes: Sequence[Collection[str]] | None = None,
        exact: bool | None = None,
        where: Filter | None = None,
    ) -> list[Neighbours]:
        """Find the nearest items to each query; see `ztcir_sdk.index.IndexView.search`.

        Args:
            queries: (B, D) float32, of any length but zero.
            k: maximum number of items per query.
            exclude_labels: for each query, labels to exclude.
            exclude_hashes: for each query, SHA-256 (hex) of contents to exclude.
            exact: True asks Milvus's graph for many more candidates than are needed; a collection
                of ``type=FLAT`` is searched exactly in any case.
            where: only items that satisfy it are found.

        Raises:
            UsageError: `k` is below 1, or more than Milvus can return.
            FilterError: the filter does not fit the items.
            ZtcirError: Milvus cannot be reached.
        """
        whole_number("k", k, least=1)
        units = unit_queries(queries, self.dim)
        expression = "" if where is None else self._checked(where)
        nothing: list[Collection[Any]] = [()] * len(units)
        labels = nothing if exclude_labels is None else exclude_labels
        hashes = nothing if exclude_hashes is None else exclude_hashes
        found: dict[int, Neighbours] = {}
        waiting, count = list(range(len(units))), k + A_FEW_MORE
        while waiting:
            if k > MAX_HITS:
                raise UsageError(
                    f"Milvus returns {MAX_HITS:,} hits at most, and {k:,} are asked for: lower k "
                    "or offset, or narrow the search with a filter."
                )
            count = min(count, MAX_HITS)
            pages = self._nearest(units[waiting], count, expression, exact=exact)
            for i, rows in zip(list(waiting), pages, strict=True):
                out, out_hashes = set(labels[i]), set(hashes[i])
                kept = [
                    row for row in rows if row["label"] not in out and row["hash"] not in out_hashes
                ]
                if len(kept) >= k or len(rows) < count or count == MAX_HITS:
                    found[i] = _ranked(kept, units[i], k)
                    waiting.remove(i)
            count *= 4
        return [found[i] for i in range(len(units))]

    def _nearest(
        self,
        queries: NDArray[np.float32],
        count: int,
        expression: str,
        *,
        exact: bool | None,
    ) -> list[list[dict[str, Any]]]:
        """Return the rows of about the nearest `count` items to each query, and remember them."""
        effort = max(EF, 2 * count) * (8 if exact else 1)
        connection = self._connection
        with connection.sentences():
            pages = connection.client.search(
                connection.collection,
                data=queries.tolist(),
                anns_field="vector",
                limit=count,
                filter=expression,
                output_fields=[*ITEM_COLUMNS, "vector"],
                search_params={
                    "metric_type": "IP",
                    "params": _search_params(self._state.index_type, min(effort, 32_768)),
                },
                consistency_level="Strong",
            )
        found = []
        for page in pages:
            rows = [{"label": hit["label"], **hit["entity"]} for hit in page]
            for row in rows:
                row["vector"] = np.asarray(row["vector"], dtype=np.float32)
                self._remember(row)
            found.append(rows)
        return found

    def _remember(self, row: dict[str, Any]) -> None:
        item = item_of(row)
        with self._lock:
            self._items[item.label] = (item, row["vector"])
            self._items.move_to_end(item.label)
            while len(self._items) > REMEMBERED:
                self._items.popitem(last=False)

    def _checked(self, where: Filter) -> str:
        """Return a filter as an expression, checked against the fields that there are."""
        expression = milvus_expression(where)

        def has(field: Field, kind: type | None) -> bool:
            return bool(self._connection.query(has_expression(field, kind), ["label"], limit=1))

        def example(field: Field) -> Any:
            for kind in (str, float):
                for row in self._connection.query(
                    has_expression(field, kind), ["path", "metadata"], limit=1
                ):
                    return field.of(row["path"], row["metadata"])
            return None

        def names() -> list[str]:
            rows = self._connection.query("label >= 0", ["metadata"], limit=1000)
            return sorted({name for row in rows for name in row["metadata"] or {}})

        require_kinds(where, has, example, names)
        return expression

    def refresh(self) -> bool:
        """Read the collection's state again; return whether it has changed.

        Raises:
            IndexMismatchError: the collection was created again with another image tower.
            ZtcirError: Milvus cannot be reached, or has the collection no longer.
        """
        newest = self._connection.read_state()
        if newest.image_tower != self._state.image_tower:
            raise recreated_error(self.path)
        changed, self._state = newest != self._state, newest
        return changed

    @contextlib.contextmanager
    def edit(self) -> Iterator[MilvusWriter]:
        """Change the index; the end of the block writes what is left to write.

        Changes are written in batches, so after an error those before it are in the collection; the
        same call again goes on from there.

        Raises:
            ZtcirError: Milvus cannot be reached.
        """
        self.refresh()
        writer = MilvusWriter(self._connection, self._state, self._moved)
        yield writer
        writer.commit()

    def _moved(self, state: State) -> None:
        self._state = state
        with self._lock:
            self._items.clear()

    def verify(self) -> list[str]:
        """Return a sentence for each thing that is wrong with the collection, [] if nothing is.

        Milvus checks its own files; this looks at every item's key and vector.
        """
        problems = []
        for rows in self._connection.scan(["label", "path", "vector"], batch=500):
            vectors = np.array([row["vector"] for row in rows], dtype=np.float64)
            lengths = np.sqrt((vectors * vectors).sum(axis=1))
            for row, length in zip(rows, lengths, strict=True):
                if int(row["label"]) != path_id(row["path"]):
                    problems.append(f"The item {row['path']} has the key of another path.")
                if not abs(length - 1) < 1e-3:
                    problems.append(f"The vector of {row['path']} has length {length:.3g}, not 1.")
        return problems

    def drop(self) -> None:
        """Delete the collection and everything in it."""
        with self._connection.sentences("cannot be written"):
            self._connection.client.drop_collection(self._connection.collection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.client.close()


def _parsed(address: str | Address) -> Address:
    return address if isinstance(address, Address) else Address.parse(address)


def _ranked(rows: list[dict[str, Any]], query: NDArray[np.float32], k: int) -> Neighbours:
    """Return the best `k` rows by cosine similarity, then by path."""
    if not rows:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    vectors = np.stack([row["vector"] for row in rows]).astype(np.float64)
    exact = query.astype(np.float64)
    exact /= np.linalg.norm(exact)
    # Not a matrix product: NumPy sums each row separately, in a fixed order.
    norms = np.sqrt((vectors * vectors).sum(axis=1))
    scores = ((vectors * exact).sum(axis=1) / norms).astype(np.float32)
    order = sorted(range(len(rows)), key=lambda i: (-scores[i], rows[i]["path"]))[:k]
    return np.array([rows[i]["label"] for i in order], dtype=np.int64), scores[order]


def _search_params(kind: str, effort: int) -> dict[str, int]:
    if kind == "HNSW":
        return {"ef": effort}
    if kind == "DISKANN":
        return {"search_list": effort}
    return {"nprobe": 64} if kind.startswith("IVF") else {}
