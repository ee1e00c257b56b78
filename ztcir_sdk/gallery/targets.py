"""What a collection is indexed to: a folder ``NAME.ztcir``, or a collection of Milvus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ztcir_sdk.errors import IndexMismatchError
from ztcir_sdk.index import DEFAULT_STORAGE, Index
from ztcir_sdk.index.manifest import MANIFEST, relative_root
from ztcir_sdk.names import is_milvus_address

if TYPE_CHECKING:
    from ztcir_sdk.index import IndexWriter
    from ztcir_sdk.milvus import MilvusIndex
    from ztcir_sdk.milvus.writer import MilvusWriter

__all__ = ["AnyIndex", "AnyWriter", "Target", "open_any"]

AnyIndex: TypeAlias = "Index | MilvusIndex"
AnyWriter: TypeAlias = "IndexWriter | MilvusWriter"


def open_any(name: str | os.PathLike[str], *, image_tower: str | None) -> AnyIndex:
    """Open an index by its folder, or by its address in Milvus.

    Raises:
        IndexMismatchError: it was made by another image tower than `image_tower`.
        ZtcirError: there is no index, or it cannot be read.
    """
    if is_milvus_address(name):
        from ztcir_sdk.milvus import MilvusIndex

        return MilvusIndex.open(str(name), image_tower=image_tower)
    return Index.open(name, image_tower=image_tower)


class Target:
    """Where an index is, or will be."""

    def __init__(self, name: str | os.PathLike[str]) -> None:
        """Name a folder or an address; nothing is opened."""
        self.address = str(name) if is_milvus_address(name) else None
        self.folder = None if is_milvus_address(name) else Path(name).absolute()

    def __str__(self) -> str:
        return str(self.folder) if self.address is None else self.address

    def open(self, image_tower: str, dim: int) -> AnyIndex | None:
        """Open the index, if there is one.

        Raises:
            IndexMismatchError: it was made by another image tower.
            ZtcirError: it cannot be read.
        """
        if self.folder is not None and not (self.folder / MANIFEST).exists():
            return None
        if self.address is not None:
            from ztcir_sdk.milvus import MilvusIndex

            if not MilvusIndex.exists(self.address):
                return None
        try:
            index = open_any(self.address or str(self.folder), image_tower=image_tower)
            same = index.dim == dim
        except IndexMismatchError:
            same = False
        if not same:
            raise IndexMismatchError(
                f"The index {self} was made by another image tower: pass another --to, or delete "
                "it to index the collection again."
            )
        return index

    def create(
        self,
        *,
        dim: int,
        image_tower: str,
        precision: str,
        root: Path,
        storage: str = DEFAULT_STORAGE,
    ) -> AnyIndex:
        """Create an empty index.

        Raises:
            ZtcirError: it cannot be created there.
        """
        options: Any = {"dim": dim, "image_tower": image_tower, "precision": precision}
        if self.address is not None:
            from ztcir_sdk.milvus import MilvusIndex

            return MilvusIndex.create(self.address, root=root, **options)
        return Index.create(str(self.folder), root=root, storage=storage, **options)

    def discard(self, index: AnyIndex) -> None:
        """Delete an index that was just created and holds nothing."""
        if isinstance(index, Index):
            import shutil

            shutil.rmtree(index.path)
        else:
            index.drop()

    def recorded(self, path: Path) -> str:
        """Return a path as the index records it: relative to its folder, if it has one."""
        return str(path.absolute()) if self.folder is None else relative_root(path, self.folder)

    @property
    def beside(self) -> Path:
        """Folder that recorded paths are relative to."""
        return Path.cwd() if self.folder is None else self.folder
