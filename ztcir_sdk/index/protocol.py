"""The interface of a searchable index, whatever engine holds the vectors."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.index.items import Item

if TYPE_CHECKING:
    from ztcir_sdk.filters import Filter

__all__ = ["GalleryIndex", "IndexSource", "Neighbours"]

Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The hits of one query: labels (n,) and cosine similarities (n,), nearest first."""


IndexSource: TypeAlias = "str | os.PathLike[str] | GalleryIndex"
"""An index's folder, the address of a collection in Milvus, or an open index."""


class GalleryIndex(Protocol):
    """A searchable gallery: `ztcir_sdk.index.Index`, or one that uses another engine."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        ...

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of the image tower and preprocessing that made the vectors."""
        ...

    @property
    def root(self) -> Path:
        """Folder that item paths are relative to."""
        ...

    def __len__(self) -> int:
        """Number of items."""
        ...

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
        """Return the `k` nearest items of each of `queries` (B, D), without the excluded ones.

        Nearest first, equal scores by path; fewer than `k` if fewer items satisfy `where`.
        """
        ...

    def vectors(self, labels: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors (n, D) of labels (n,); only asked for with `unique`."""
        ...

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return the vectors (n, D) of `count` items or fewer; only asked for with `threshold`."""
        ...

    def item(self, label: int) -> Item:
        """Return the item of a label from `search`."""
        ...
