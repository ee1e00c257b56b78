"""One committed state of an index: its checksums are verified once, then it is only read."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.errors import UsageError
from ztcir_sdk.files import hash_file
from ztcir_sdk.index import vectors as nearest
from ztcir_sdk.index.items import Item, ItemTable
from ztcir_sdk.index.manifest import MANIFEST, FileRecord, IndexUnusableError, Manifest
from ztcir_sdk.index.protocol import Neighbours

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["FLOAT", "IndexView", "map_vectors", "open_view", "rows_in_a_block"]

FLOAT = np.dtype("<f4")
BLOCK_BYTES = 1 << 24


class IndexView:
    """One committed state of an index, which never changes.

    Keep the same `Index.view` for calls that must agree while another thread updates the index.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, checked: _Hash | None = None) -> None:
        """Open a state; `checked` is the hash of its vectors if they need no check."""
        self.manifest = manifest
        self._folder = folder
        self._lock = threading.Lock()
        self._loaded_graph: nearest.Graph | None = None
        if checked is None:
            _verify(folder, manifest.table)
            if manifest.graph is not None:
                _verify(folder, manifest.graph)
        try:
            self._items = ItemTable(folder / manifest.table.file)
        except sqlite3.Error as error:
            raise _corrupt(folder, manifest.table.file, str(error)) from error
        # Mapped once, then hashed and searched: the checked bytes are the ones that are used.
        self._vectors = map_vectors(folder, manifest)
        if checked is None:
            checked = hashlib.sha256()
            for start in range(0, manifest.rows, step := rows_in_a_block(manifest.dim)):
                checked.update(self._vectors[start : start + step].data)
            if checked.hexdigest() != manifest.vectors.sha256:
                raise _corrupt(folder, manifest.vectors.file, "its checksum differs")
            first, end = manifest.first_label, manifest.first_label + manifest.rows
            if len(self._items) != manifest.items or not self._items.labels_within(first, end):
                raise _corrupt(folder, MANIFEST, "it does not match its files")
        self.vectors_hash = checked

    def __len__(self) -> int:
        return self.manifest.items

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.manifest.dim

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of the image tower and preprocessing that made the vectors."""
        return self.manifest.image_tower

    @property
    def root(self) -> Path:
        """Folder that item paths are relative to."""
        return Path(os.path.normpath(self._folder.resolve() / self.manifest.root))

    def items(self) -> Iterator[Item]:
        """Yield every item, ordered by path."""
        return iter(self._items)

    def item(self, label: int) -> Item:
        """Return the item of a label.

        Raises:
            KeyError: this state has no such label.
        """
        item = self._items.by_label(label)
        if item is None:
            raise KeyError(label)
        return item

    def by_path(self, path: str) -> Item | None:
        """Return the item at a path relative to the root, or None."""
        return self._items.by_path(path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item whose file has this SHA-256 (hex), ordered by path."""
        return self._items.by_hash(content_hash)

    def vectors(self, labels: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return the vectors (n, D) float32 of labels (n,); by default of all items, by path.

        Raises:
            KeyError: this state has no such label.
        """
        if labels is None:
            labels = self._labels_by_path
        rows = np.asarray(labels, dtype=np.int64) - self.manifest.first_label
        known = (rows >= 0) & (rows < self.manifest.rows)
        known[known] = self._gallery.alive[rows[known]]
        if not known.all():
            raise KeyError(int(rows[~known][0]) + self.manifest.first_label)
        found: NDArray[np.float32] = self._vectors[rows]
        return found

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude_labels: Sequence[Collection[int]] | None = None,
        exclude_hashes: Sequence[Collection[str]] | None = None,
        exact: bool | None = None,
    ) -> list[Neighbours]:
        """Find the nearest items to each query.

        Args:
            queries: (B, D) float32, of any length but zero.
            k: maximum number of items per query.
            exclude_labels: for each query, labels to exclude.
            exclude_hashes: for each query, SHA-256 (hex) of contents to exclude.
            exact: True compares with every vector, False searches the graph if there is one; by
                default the graph is searched only if there are over `EXACT_LIMIT` items.

        Returns:
            For each query, labels (n,) int64 and cosine similarities (n,) float32 in [-1, 1],
            nearest first, equal ones by path; n <= k.

        Raises:
            UsageError: `k` is below 1.
            ValueError: `queries` has another shape, a zero row, or values that are not finite.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}.")
        queries = self._normalised(queries)
        excluded = self._excluded(len(queries), exclude_labels, exclude_hashes)
        if len(queries) == 0 or len(self) == 0:
            nothing = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
            return [nothing for _ in queries]
        gallery = self._gallery
        if exact is None:
            exact = len(self) <= nearest.EXACT_LIMIT
        graph = None if exact else self._graph
        if graph is None:
            found = nearest.exact_search(gallery, queries, k, excluded)
        else:
            found = nearest.graph_search(gallery, graph, queries, k, excluded)
        return [(rows + self.manifest.first_label, scores) for rows, scores in found]

    def _normalised(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        queries = np.ascontiguousarray(queries, dtype=np.float64)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries have shape {queries.shape}, not (B, {self.dim})")
        norms = np.sqrt((queries * queries).sum(axis=1, keepdims=True))
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise ValueError("a query is zero or not finite")
        unit: NDArray[np.float32] = (queries / norms).astype(np.float32)
        return unit

    def _excluded(
        self,
        count: int,
        labels: Sequence[Collection[int]] | None,
        hashes: Sequence[Collection[str]] | None,
    ) -> list[NDArray[np.int64]]:
        """Return the rows to exclude for each query."""
        for given in (labels, hashes):
            if given is not None and len(given) != count:
                raise ValueError(f"exclusions are given for {len(given)} queries, not {count}")
        excluded: list[NDArray[np.int64]] = []
        for i in range(count):
            out = set() if labels is None else {int(label) for label in labels[i]}
            for content_hash in () if hashes is None else hashes[i]:
                out.update(item.label for item in self.by_hash(content_hash))
            rows = np.fromiter(sorted(out), dtype=np.int64, count=len(out))
            rows -= self.manifest.first_label
            excluded.append(rows[(rows >= 0) & (rows < self.manifest.rows)])
        return excluded

    @cached_property
    def _labels_by_path(self) -> NDArray[np.int64]:
        return self._items.labels_by_path()

    @cached_property
    def _gallery(self) -> nearest.Gallery:
        rows = self._labels_by_path - self.manifest.first_label
        alive = np.zeros(self.manifest.rows, dtype=np.bool_)
        alive[rows] = True
        order = np.zeros(self.manifest.rows, dtype=np.int64)
        order[rows] = np.arange(len(rows))
        return nearest.Gallery(self._vectors, alive, order)

    @property
    def _graph(self) -> nearest.Graph | None:
        record = self.manifest.graph
        if record is None:
            return None
        file = self._folder / record.file
        with self._lock:  # load it once
            if self._loaded_graph is None:
                try:
                    self._loaded_graph = nearest.Graph.load(
                        file, self.dim, self.manifest.graph_rows
                    )
                except RuntimeError:
                    if file.exists():
                        raise
                    return None  # a newer state removed it; search without it
            return self._loaded_graph


def open_view(folder: Path) -> IndexView:
    """Open the newest state; try again if a writer replaces it meanwhile."""
    manifest = Manifest.read(folder)
    while True:
        try:
            return IndexView(folder, manifest)
        except IndexUnusableError:
            newest = Manifest.read(folder)
            if newest == manifest:
                raise
            manifest = newest


def map_vectors(folder: Path, manifest: Manifest) -> NDArray[np.float32]:
    """Map the rows of the index (rows, dim), read-only."""
    shape = (manifest.rows, manifest.dim)
    if manifest.rows == 0:  # an empty file cannot be mapped
        return np.empty(shape, dtype=FLOAT)
    try:
        file = folder / manifest.vectors.file
        return np.memmap(file, dtype=FLOAT, mode="r", shape=shape).view(np.ndarray)
    except (OSError, ValueError) as error:  # ValueError: the file is too short
        raise _corrupt(folder, manifest.vectors.file, str(error)) from error


def rows_in_a_block(dim: int) -> int:
    """Return the number of vectors to process at once."""
    return max(1, BLOCK_BYTES // (4 * dim))


def _verify(folder: Path, record: FileRecord) -> None:
    try:
        matches = hash_file(folder / record.file) == record.sha256
    except OSError as error:
        raise _corrupt(folder, record.file, error.strerror or str(error)) from error
    if not matches:
        raise _corrupt(folder, record.file, "its checksum differs")


def _corrupt(folder: Path, file: str, why: str) -> IndexUnusableError:
    return IndexUnusableError(
        f"{file} of the index {folder} is corrupt ({why}); "
        "delete the index and index the collection again."
    )
