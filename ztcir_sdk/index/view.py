"""One committed state of an index. Opening it reads its manifest and the sizes of its files."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.errors import reason_of, whole_number
from ztcir_sdk.files import open_ordinary
from ztcir_sdk.index import nearest
from ztcir_sdk.index.filtered import KnownRows, RowFilters, Selection
from ztcir_sdk.index.graph import Graph, GraphBudget, can_use_graphs
from ztcir_sdk.index.items import Item, ItemTable
from ztcir_sdk.index.manifest import (
    MANIFEST,
    FileRecord,
    GraphRecord,
    IndexUnusableError,
    Manifest,
    corrupt,
    root_of,
)
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.rows import Rows, as_rows
from ztcir_sdk.index.selective import Selected, search_selected

if TYPE_CHECKING:
    from ztcir_sdk.filters import Filter

__all__ = ["IndexView", "map_rows", "open_view"]

_NO_ROWS = np.empty(0, dtype=np.int64)


class IndexView:
    """One committed state of an index, which never changes.

    Keep the same `Index.view` for calls that must agree while another thread updates the index.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open a state.

        Raises:
            IndexUnusableError: a file is missing or too short.
        """
        self.manifest = manifest
        self._folder = folder
        self._lock = threading.Lock()
        self._graph_in_memory: Graph | None = None
        self._budget = GraphBudget()
        self._last_selected: tuple[object, Selected] | None = None
        if manifest.graph is not None:
            _open(folder, manifest.graph).close()
        self._items = ItemTable(folder, manifest)
        # Mapped once: what a newer state removes stays readable.
        self._rows = map_rows(folder, manifest)

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

    @cached_property
    def root(self) -> Path:
        """Folder that item paths are relative to."""
        return root_of(self._folder, self.manifest.root)

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

    def items_at(self, labels: Sequence[int]) -> list[Item]:
        """Return the items of labels, in their order.

        Raises:
            KeyError: this state has no such label.
        """
        return self._items.by_labels(labels)

    def by_path(self, path: str) -> Item | None:
        """Return the item at a path relative to the root, or None."""
        return self._items.by_path(path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item whose file has this SHA-256 (hex), ordered by path."""
        return self._items.by_hash(content_hash)

    def sql(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return the rows of an SQL query, which can only read.

        Its table `items` has the items of this state: `label`, `path`, `hash`, `size`, `mtime_ns`,
        and `metadata`, a JSON object or NULL.
        """
        return self._items.sql(query, values)

    def labels_where(self, where: Filter) -> NDArray[np.int64]:
        """Return the labels (n,) of the items that satisfy a filter, ascending.

        Raises:
            FilterError: the filter does not fit the items.
        """
        return self._filters.rows(where).labels()

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return the vectors (n, D) of `count` items or fewer, the same ones at each call."""
        alive = np.arange(self.manifest.rows)
        alive = np.delete(alive, self._gallery.dead)
        if len(alive) > count:
            alive = np.sort(np.random.default_rng(0).choice(alive, count, replace=False))
        return self._rows.take(alive)

    @cached_property
    def _filters(self) -> RowFilters:
        return RowFilters(self._items.sql, self.manifest.first_label, self.manifest.rows)

    def blocks(self) -> list[tuple[int, int, str]]:
        """Return first row, number of rows and SHA-256 (hex) of each run of rows."""
        return self._items.blocks()

    def search_state_is_broken(self) -> bool:
        """Return whether the items do not account for every row."""
        try:
            return self._gallery.alive != len(self)
        except IndexUnusableError:
            return True

    def vectors(self, labels: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return the vectors (n, D) float32 of labels (n,); by default of all items, by path.

        Raises:
            KeyError: this state has no such label.
        """
        if labels is None:
            rows = self._items.labels_by_path() - self.manifest.first_label
        else:
            rows = self._rows_of(np.asarray(labels, dtype=np.int64).ravel())
        return self._rows.take(rows)

    def _rows_of(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = labels - self.manifest.first_label
        known = (rows >= 0) & (rows < self.manifest.rows)
        known &= ~np.isin(rows, self._gallery.dead)
        if not known.all():
            raise KeyError(int(labels[~known][0]))
        return rows

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exclude_labels: Sequence[Collection[int]] | None = None,
        exclude_hashes: Sequence[Collection[str]] | None = None,
        exact: bool | None = None,
        among: NDArray[np.int64] | None = None,
        where: Filter | None = None,
    ) -> list[Neighbours]:
        """Find the nearest items to each query.

        Args:
            queries: (B, D) float32, of any length but zero.
            k: maximum number of items per query.
            exclude_labels: for each query, labels to exclude.
            exclude_hashes: for each query, SHA-256 (hex) of contents to exclude.
            exact: True compares with every vector, False searches the graph if there is one. By
                default every vector is compared until that has taken as long as loading the graph.
                Where few items may be found, these are compared in any case.
            among: the labels (n,) that may be found; all by default.
            where: a filter that what is found satisfies: what an exact search finds whose other
                items are left out, at the recall of the graph where that is searched.

        Returns:
            For each query, labels (n,) int64 and cosine similarities (n,) float32 in [-1, 1],
            nearest first, equal ones by path; n <= k.

        Raises:
            UsageError: `k` is below 1.
            FilterError: the filter does not fit the items.
            ValueError: `queries` has another shape, a zero row, or values that are not finite.
            KeyError: `among` has a label that this state has not.
        """
        whole_number("k", k, least=1)
        queries = nearest.unit_queries(queries, self.dim)
        excluded = self._excluded(len(queries), exclude_labels, exclude_hashes)
        if len(queries) == 0 or len(self) == 0:
            nothing = (_NO_ROWS, np.empty(0, dtype=np.float32))
            return [nothing for _ in queries]
        record = None if exact is True else self.manifest.graph
        if among is not None or where is not None:
            found = search_selected(
                self._selected(among, where),
                queries,
                k,
                excluded,
                record,
                lambda: self._graph_for(len(queries), exact),
            )
        else:
            graph = self._graph_for(len(queries), exact)
            if graph is None:
                found = nearest.exact_search(self._gallery, queries, k, excluded)
            else:
                found = nearest.graph_search(self._gallery, graph, queries, k, excluded)
        return [(rows + self.manifest.first_label, scores) for rows, scores in found]

    def _selected(self, among: NDArray[np.int64] | None, where: Filter | None) -> Selected:
        """Return the rows that may be found; those of the last call are remembered."""
        filtered = None if where is None else self._filters.rows(where)
        if among is not None and filtered is not None:
            among, filtered = np.intersect1d(among, filtered.labels()), None
        key = among if filtered is None else filtered
        with self._lock:
            known = self._last_selected
        if known is not None and known[0] is key:
            return known[1]
        selection: Selection
        if filtered is not None:
            selection = filtered
        else:
            rows = self._rows_of(np.unique(np.asarray(among, dtype=np.int64)))
            selection = KnownRows(rows, self.manifest.rows)
        selected = Selected(selection, self._gallery)
        with self._lock:
            self._last_selected = key, selected
        return selected

    def _excluded(
        self,
        count: int,
        labels: Sequence[Collection[int]] | None,
        hashes: Sequence[Collection[str]] | None,
    ) -> list[NDArray[np.int64]]:
        """Return the rows to exclude for each query, ascending."""
        for given in (labels, hashes):
            if given is not None and len(given) != count:
                raise ValueError(f"exclusions are given for {len(given)} queries, not {count}")
        if labels is None and hashes is None:
            return [_NO_ROWS] * count
        excluded: list[NDArray[np.int64]] = []
        for i in range(count):
            out = set() if labels is None else {int(label) for label in labels[i]}
            for content_hash in () if hashes is None else hashes[i]:
                out.update(self._items.labels_of_hash(content_hash))
            if not out:
                excluded.append(_NO_ROWS)
                continue
            rows = np.fromiter(sorted(out), dtype=np.int64, count=len(out))
            rows -= self.manifest.first_label
            excluded.append(rows[(rows >= 0) & (rows < self.manifest.rows)])
        return excluded

    @cached_property
    def _gallery(self) -> nearest.Gallery:
        first = self.manifest.first_label
        dead = nearest.ascending(self._items.dead_labels()) - first
        inside = len(dead) == 0 or (dead[0] >= 0 and dead[-1] < self.manifest.rows)
        if not inside or self.manifest.rows - len(dead) != len(self):
            raise corrupt(self._folder, MANIFEST, "it does not match its files")
        items = self._items  # not self: a cycle would keep an old state's files open for long
        return nearest.Gallery(self._rows, dead, lambda rows: items.order(rows + first))

    def _graph_for(self, queries: int, exact: bool | None) -> Graph | None:
        """Return the graph if a search of so many queries uses it."""
        record = self.manifest.graph
        if record is None or exact is True:
            return None
        if self._graph_in_memory is not None:
            return self._graph_in_memory
        with self._lock:  # load it once
            if self._graph_in_memory is None:
                wanted = exact is False or self._budget.is_worth_loading(
                    queries, self.manifest, record
                )
                if wanted and can_use_graphs():
                    self._graph_in_memory = self._load(record)
            return self._graph_in_memory

    def _load(self, record: GraphRecord) -> Graph | None:
        file = self._folder / record.file
        try:
            return Graph.load(file, self.dim, record)
        except (OSError, RuntimeError) as error:
            if file.exists():
                raise corrupt(self._folder, record.file, str(error)) from error
            return None  # a newer state removed it; search without it
        except ValueError as error:
            raise corrupt(self._folder, record.file, str(error)) from error


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


def map_rows(folder: Path, manifest: Manifest) -> Rows:
    """Map the rows of a state, read-only."""
    buffers: list[Any] = []
    for record in manifest.vectors:
        with _open(folder, record) as stream:
            if record.bytes == 0:  # an empty file cannot be mapped
                buffers.append(b"")
                continue
            try:
                buffers.append(mmap.mmap(stream.fileno(), record.bytes, access=mmap.ACCESS_READ))
            except (OSError, ValueError) as error:
                raise corrupt(folder, record.file, str(error)) from error
    return as_rows(manifest.storage, manifest.dim, buffers)


def _open(folder: Path, record: FileRecord | GraphRecord) -> IO[bytes]:
    """Open a file that has the bytes of its record; it may have more."""
    try:
        stream = open_ordinary(folder / record.file)
    except OSError as error:
        raise corrupt(folder, record.file, reason_of(error)) from error
    size = os.fstat(stream.fileno()).st_size
    if size < record.bytes:
        stream.close()
        raise corrupt(folder, record.file, f"it has {size} of its {record.bytes} bytes")
    return stream
