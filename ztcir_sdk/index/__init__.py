"""A collection's index: vectors, items and a manifest, in one folder ``NAME.ztcir``.

`Index` is the built-in index; `GalleryIndex` is the interface of any other. Names are imported on
first use: a search needs none of what writes an index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztcir_sdk.lazy_names import lazy_names

if TYPE_CHECKING:
    from ztcir_sdk.index.items import Item
    from ztcir_sdk.index.manifest import IndexUnusableError, Manifest
    from ztcir_sdk.index.protocol import GalleryIndex, Neighbours
    from ztcir_sdk.index.store import DEFAULT_STORAGE, Index
    from ztcir_sdk.index.view import IndexView
    from ztcir_sdk.index.writer import IndexWriter

__all__ = [
    "DEFAULT_STORAGE",
    "GalleryIndex",
    "Index",
    "IndexUnusableError",
    "IndexView",
    "IndexWriter",
    "Item",
    "Manifest",
    "Neighbours",
]

_MODULES = {
    "DEFAULT_STORAGE": "store",
    "GalleryIndex": "protocol",
    "Index": "store",
    "IndexUnusableError": "manifest",
    "IndexView": "view",
    "IndexWriter": "writer",
    "Item": "items",
    "Manifest": "manifest",
    "Neighbours": "protocol",
}

__getattr__ = lazy_names(__name__, _MODULES)
