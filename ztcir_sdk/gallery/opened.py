"""Indexes that a retriever has opened: each once, at its newest state, and made by its tower."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

from ztcir_sdk.errors import ZtcirError, image_tower_error
from ztcir_sdk.gallery.targets import AnyIndex, open_any
from ztcir_sdk.index.protocol import GalleryIndex, IndexSource
from ztcir_sdk.names import is_milvus_address

__all__ = ["OpenIndexes"]

LOGGER = logging.getLogger("ztcir.index")


class OpenIndexes:
    """The indexes of one image tower. Threads may share one.

    Attributes:
        default: the index that is searched where none is named.
    """

    def __init__(self, image_tower: str, dim: int) -> None:
        """Accept indexes of this image tower (hex), with vectors of width `dim`."""
        self.default: GalleryIndex | None = None
        self._image_tower = image_tower
        self._dim = dim
        self._opened: dict[Path | str, AnyIndex] = {}
        self._lock = threading.Lock()

    def open(self, path: str | os.PathLike[str]) -> AnyIndex:
        """Return the newest state of an index, opened before or now.

        Raises:
            IndexMismatchError: it was made by another image tower.
            ZtcirError: there is no index, or it is corrupt.
        """
        name = str(path) if is_milvus_address(path) else Path(path).absolute()
        with self._lock:
            if (index := self._opened.get(name)) is not None:
                with contextlib.suppress(ZtcirError):  # deleted or replaced: open it below
                    index.refresh()
                    return index
            start = time.perf_counter()
            index = open_any(name, image_tower=self._image_tower)
            spent = 1000 * (time.perf_counter() - start)
            shown = name if isinstance(name, str) else name.name
            LOGGER.debug("opened %s with %d images in %.0f ms", shown, len(index), spent)
            self._opened[name] = index
            return index

    def resolve(self, index: IndexSource | None) -> GalleryIndex:
        """Return the index to search, open; None is the default one.

        Raises:
            IndexMismatchError: it was made by another image tower.
            ZtcirError: there is no index, or it is corrupt.
        """
        gallery = self.default if index is None else index
        if gallery is None:
            raise ZtcirError(
                "There is no index to search: build one with "
                'Retriever.index("photos/", to="photos.ztcir") or `ztcir index photos/`, '
                "or open one with Retriever.open_index."
            )
        if isinstance(gallery, (str, os.PathLike)):
            gallery = self.open(gallery)
        if gallery.image_tower != self._image_tower or gallery.dim != self._dim:
            name = getattr(gallery, "path", type(gallery).__name__)
            raise image_tower_error(name, gallery.image_tower, self._image_tower)
        return gallery
