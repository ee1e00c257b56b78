"""The index on disk: create, open, search and change a folder ``NAME.ztcir``.

A process may be killed at any moment, because what is committed never changes. New vectors are
appended after the bytes that belong to the index, and items are added to SQLite as versions that do
not count yet. Then one step replaces the manifest, which says what counts. So a commit costs as
much as its changes. The next writer removes what does not count. An open reader keeps the state
that it opened.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.environment import now
from ztcir_sdk.errors import (
    check_choice,
    image_tower_error,
    recreated_error,
)
from ztcir_sdk.files import flush_file
from ztcir_sdk.index.items import Item
from ztcir_sdk.index.manifest import (
    INDEX_FILE,
    MANIFEST,
    FileRecord,
    IndexUnusableError,
    Manifest,
    relative_root,
    remove_unlisted,
)
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.rows import STORAGES, storage_files
from ztcir_sdk.index.view import IndexView, open_view
from ztcir_sdk.version import __version__

if TYPE_CHECKING:
    from ztcir_sdk.filters import Filter
    from ztcir_sdk.index.writer import IndexWriter

__all__ = ["DEFAULT_STORAGE", "Index"]

LOCK = "lock"
DEFAULT_STORAGE = "f32"


class Index:
    """A collection's vectors and items, in a folder. Any number of threads may search one.

    An `Index` searches one committed state. Its own `edit`, and `refresh`, move it to a newer one;
    writers in other processes do not affect it.
    """

    def __init__(self, path: Path, view: IndexView) -> None:
        """Use `Index.create` or `Index.open`."""
        self.path = path
        self._view = view

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        image_tower: str,
        precision: str,
        root: str | os.PathLike[str],
        storage: str = DEFAULT_STORAGE,
    ) -> Index:
        """Create an empty index in a folder that is new, empty, or left by a killed `create`.

        Args:
            path: folder of the index, usually ``NAME.ztcir``.
            dim: width D of the vectors.
            image_tower: fingerprint (hex) of image-tower weights and preprocessing.
            precision: precision of the image encoder; only recorded.
            root: folder that item paths are relative to.
            storage: how vectors are stored: "f32" keeps every bit; "f16" and "i8" take half the
                space, and "i8" is searched fastest.

        Raises:
            UsageError: there is no such storage, or the root is the whole machine.
            IndexUnusableError: the folder has other contents, or cannot be written to.
        """
        from ztcir_sdk.index.item_writer import ItemWriter, new_table

        check_choice("storage", storage, STORAGES)
        folder = Path(path).absolute()
        relative_root(Path(root), folder)  # checked before anything is written
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in folder.iterdir()}
        except OSError as error:
            raise IndexUnusableError(
                f"The index {folder} cannot be created ({error.strerror}); choose another folder."
            ) from error
        foreign = sorted(name for name in names if name != LOCK and not INDEX_FILE.fullmatch(name))
        if MANIFEST in names:
            raise IndexUnusableError(f"{folder} is already an index; open it, or delete it first.")
        if foreign:
            raise IndexUnusableError(
                f"{folder} is not an index and has other files, such as {foreign[0]}; "
                "choose another folder for the index."
            )
        with _locked(folder):
            if (folder / MANIFEST).exists():
                raise IndexUnusableError(
                    f"Another process has just created the index {folder}; open it."
                )
            remove_unlisted(folder, set())
            names_of_vectors = storage_files(storage, 1)
            for name in names_of_vectors:
                (folder / name).touch()
                flush_file(folder / name)
            manifest = Manifest(
                dim=dim,
                items=0,
                image_tower=image_tower,
                precision=precision,
                root=relative_root(Path(root), folder),
                generation=1,
                first_label=0,
                rows=0,
                versions=0,
                storage=storage,
                vectors=tuple(FileRecord(name, 0) for name in names_of_vectors),
                table=new_table(folder),
                graph=None,
                updated=now(),
                ztcir=__version__,
                colour="srgb",
            )
            try:
                table = ItemWriter(folder, manifest, create=True)
                table.commit()
                table.close()
            except sqlite3.OperationalError as error:
                raise IndexUnusableError(
                    f"The index {folder} cannot be created ({error}); choose another folder."
                ) from error
            manifest = replace(manifest, table=FileRecord.of(folder, manifest.table.file))
            manifest.write(folder)
        return cls(folder, IndexView(folder, manifest))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, image_tower: str | None) -> Index:
        """Open an index, in a time that does not depend on its size.

        The manifest's checksum and the sizes of the files are checked; see also `verify`.

        Args:
            path: folder of the index.
            image_tower: fingerprint of the image tower of the queries; None to read items only.

        Raises:
            IndexMismatchError: the vectors were made by another image tower.
            IndexUnusableError: there is no index, or it is corrupt or has an unknown format.
        """
        folder = Path(path).absolute()
        view = open_view(folder)
        if image_tower is not None and image_tower != view.image_tower:
            raise image_tower_error(folder, view.image_tower, image_tower)
        return cls(folder, view)

    @property
    def view(self) -> IndexView:
        """The committed state that this index searches."""
        return self._view

    @property
    def manifest(self) -> Manifest:
        """The manifest of that state."""
        return self._view.manifest

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._view.dim

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of the image tower and preprocessing that made the vectors."""
        return self._view.image_tower

    @property
    def precision(self) -> str:
        """Precision of the graphs that made the vectors."""
        return self.manifest.precision

    @property
    def root(self) -> Path:
        """Folder that item paths are relative to."""
        return self._view.root

    def __len__(self) -> int:
        return len(self._view)

    def items(self) -> Iterator[Item]:
        """Yield every item, ordered by path."""
        return self._view.items()

    def item(self, label: int) -> Item:
        """Return the item of a label; see `IndexView.item`."""
        return self._view.item(label)

    def by_path(self, path: str) -> Item | None:
        """Return the item at a path relative to the root, or None."""
        return self._view.by_path(path)

    def by_hash(self, content_hash: str) -> list[Item]:
        """Return every item whose file has this SHA-256 (hex), ordered by path."""
        return self._view.by_hash(content_hash)

    def items_at(self, labels: Sequence[int]) -> list[Item]:
        """Return the items of labels, in their order; see `IndexView.items_at`."""
        return self._view.items_at(labels)

    def sql(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return the rows of an SQL query; see `IndexView.sql`."""
        return self._view.sql(query, values)

    def verify(self) -> list[str]:
        """Check every byte; return a sentence for each damaged part."""
        from ztcir_sdk.index.verify import damage

        return damage(self.path, self._view)

    def vectors(self, labels: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return vectors (n, D) float32; see `IndexView.vectors`."""
        return self._view.vectors(labels)

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
        """Find the nearest items to each of `queries` (B, D); see `IndexView.search`."""
        return self._view.search(
            queries,
            k,
            exclude_labels=exclude_labels,
            exclude_hashes=exclude_hashes,
            exact=exact,
            among=among,
            where=where,
        )

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return the vectors (n, D) of `count` items or fewer; see `IndexView.sample`."""
        return self._view.sample(count)

    def labels_where(self, where: Filter) -> NDArray[np.int64]:
        """Return the labels (n,) of the items that satisfy a filter; see `IndexView`."""
        return self._view.labels_where(where)

    def refresh(self) -> bool:
        """Move to the newest committed state; return whether there was a newer one.

        Raises:
            IndexMismatchError: the index was created again with another image tower.
            IndexUnusableError: the index is missing or corrupt.
        """
        newest = Manifest.read(self.path)
        if newest == self.manifest:
            return False
        if newest.image_tower != self.image_tower:
            raise recreated_error(self.path)
        self._view = open_view(self.path)
        return True

    @contextlib.contextmanager
    def edit(self, *, build_graph: bool | None = None) -> Iterator[IndexWriter]:
        """Change the index: the end of the block commits all changes at once.

        Only one process can write at a time. An exception leaves the last committed state.

        Args:
            build_graph: whether the last commit builds a graph; see `IndexWriter.commit`.

        Raises:
            IndexUnusableError: another process is writing, or the folder cannot be written to.
        """
        from ztcir_sdk.index.writer import IndexWriter

        with _locked(self.path):
            self.refresh()
            remove_unlisted(self.path, self.manifest.files)
            writer = IndexWriter(self.path, self.view, self._move_to)
            try:
                yield writer
                writer.commit(build_graph=build_graph)
            finally:
                writer.discard()
                # Read from disk: a commit may have failed just after it replaced the manifest.
                remove_unlisted(self.path, Manifest.read(self.path).files)

    def _move_to(self, view: IndexView) -> None:
        self._view = view


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the writers' lock; the system releases it when the process ends, even by a kill."""
    import filelock  # a search needs none, so not at import

    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise IndexUnusableError(
            f"Another process is writing to the index {folder}; wait until it has finished."
        ) from None
    except OSError as error:
        raise IndexUnusableError(
            f"The index {folder} cannot be written ({error.strerror}); "
            "change its permissions, or create one in another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
