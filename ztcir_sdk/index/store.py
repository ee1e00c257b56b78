"""The index on disk: create, open, search and change a folder ``NAME.ztcir``.

What makes it safe to kill at any moment: committed files are never changed. Items (and the graph)
are written anew under a new name; new vectors are appended behind the bytes that count; then the
manifest, which names the files and how much of them counts, is replaced in one step. What it does
not name is removed by the next writer. An open reader keeps the state that it opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.environment import now
from ztcir_sdk.errors import IndexMismatchError
from ztcir_sdk.files import flush_file
from ztcir_sdk.index.items import Item, ItemTable
from ztcir_sdk.index.manifest import (
    MANIFEST,
    OUR_FILES,
    FileRecord,
    IndexUnusableError,
    Manifest,
    record_of,
    relative_root,
    remove_unnamed,
)
from ztcir_sdk.index.protocol import Neighbours
from ztcir_sdk.index.view import IndexView, open_view
from ztcir_sdk.index.writer import IndexWriter
from ztcir_sdk.version import __version__

__all__ = ["Index"]

LOCK = "lock"


class Index:
    """A collection's vectors and items, in a folder. Any number of threads may search one.

    An `Index` answers from one committed state, and moves to a newer one after its own `edit` or
    on `refresh`. Writers in other processes never disturb it.
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
    ) -> Index:
        """Make an empty index in a folder that is new, empty, or left by a creation that died.

        Args:
            path: the folder, by custom ``NAME.ztcir``.
            dim: width D of the vectors.
            image_tower: fingerprint (hex) of image-tower weights and preprocessing.
            precision: precision of the image encoder, recorded beside it.
            root: the folder that item paths are relative to.

        Raises:
            IndexUnusableError: the folder holds something, or cannot be written.
        """
        folder = Path(path).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in folder.iterdir()}
        except OSError as error:
            raise IndexUnusableError(
                f"The index {folder} cannot be made ({error.strerror}); choose another place."
            ) from error
        foreign = sorted(name for name in names if name != LOCK and not OUR_FILES.fullmatch(name))
        if MANIFEST in names:
            raise IndexUnusableError(f"{folder} is an index already; open it, or delete it first.")
        if foreign:
            raise IndexUnusableError(
                f"{folder} is no index and holds other files, {foreign[0]} for one; "
                "choose another place for the index."
            )
        with _locked(folder):
            if (folder / MANIFEST).exists():
                raise IndexUnusableError(f"{folder} has just been made an index; open it.")
            remove_unnamed(folder, set())
            (folder / "vectors-1.f32").touch()
            ItemTable(folder / "items-1.sqlite", create=True).close(commit=True)
            flush_file(folder / "vectors-1.f32")
            manifest = Manifest(
                dim=dim,
                items=0,
                image_tower=image_tower,
                precision=precision,
                root=relative_root(Path(root), folder),
                generation=1,
                first_label=0,
                rows=0,
                vectors=FileRecord("vectors-1.f32", 0, hashlib.sha256().hexdigest()),
                table=record_of(folder / "items-1.sqlite"),
                graph=None,
                graph_rows=0,
                updated=now(),
                ztcir=__version__,
            )
            manifest.write(folder)
        return cls(folder, IndexView(folder, manifest))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, image_tower: str | None) -> Index:
        """Open an index; every file is checked against its checksum before it is used.

        Args:
            path: the folder.
            image_tower: fingerprint of the image tower that is going to search, or None to only
                look at items.

        Raises:
            IndexMismatchError: the vectors were made by another image tower.
            IndexUnusableError: there is no index, or it is damaged or of an unknown format.
        """
        folder = Path(path).absolute()
        view = open_view(folder)
        if image_tower is not None and image_tower != view.image_tower:
            raise IndexMismatchError(
                f"The index {folder} was made by another image tower "
                f"({view.image_tower[:12]}, not {image_tower[:12]}); index the collection again, "
                "or use the bundle that made it."
            )
        return cls(folder, view)

    @property
    def view(self) -> IndexView:
        """The committed state that this index answers from."""
        return self._view

    @property
    def manifest(self) -> Manifest:
        """What is recorded of that state."""
        return self._view.manifest

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._view.dim

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of what made the vectors."""
        return self._view.image_tower

    @property
    def precision(self) -> str:
        """Precision of the graphs that made the vectors."""
        return self.manifest.precision

    @property
    def root(self) -> Path:
        """The folder that item paths are relative to."""
        return self._view.root

    def __len__(self) -> int:
        return len(self._view)

    def items(self) -> Iterator[Item]:
        """Every item, ordered by path."""
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
    ) -> list[Neighbours]:
        """Find the nearest items to each of `queries` (B, D); see `IndexView.search`."""
        return self._view.search(
            queries,
            k,
            exclude_labels=exclude_labels,
            exclude_hashes=exclude_hashes,
            exact=exact,
        )

    def refresh(self) -> bool:
        """Move to the newest committed state; return whether there was a newer one.

        Raises:
            IndexMismatchError: the index was made anew, by another image tower.
            IndexUnusableError: it is gone or damaged.
        """
        newest = Manifest.read(self.path)
        if newest == self.manifest:
            return False
        if newest.image_tower != self.image_tower:
            raise IndexMismatchError(
                f"The index {self.path} was made anew by another image tower; open it again."
            )
        self._view = open_view(self.path)
        return True

    @contextlib.contextmanager
    def edit(self) -> Iterator[IndexWriter]:
        """Change the index: what is done in the block is committed at its end, all or nothing.

        One writer at a time, over all processes; an exception leaves the last committed state.

        Raises:
            IndexUnusableError: another process is writing, or the folder cannot be written.
        """
        with _locked(self.path):
            self.refresh()
            remove_unnamed(self.path, self.manifest.files)
            writer = IndexWriter(self.path, self.view, self._move_to)
            try:
                yield writer
                writer.commit()
            finally:
                writer.discard()
                # What counts is on the disk: a commit may have failed just after it was made.
                remove_unnamed(self.path, Manifest.read(self.path).files)

    def _move_to(self, view: IndexView) -> None:
        self._view = view


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only writer. The system lets go of the lock when its process ends, however it does."""
    import filelock  # a search needs none, so not at import

    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise IndexUnusableError(
            f"Another process is writing to the index {folder}; wait until it is done."
        ) from None
    except OSError as error:
        raise IndexUnusableError(
            f"The index {folder} cannot be written ({error.strerror}); "
            "change its permissions, or make one elsewhere."
        ) from error
    try:
        yield
    finally:
        lock.release()
