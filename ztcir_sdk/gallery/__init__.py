"""A collection of images -> decoded batches -> vectors -> an index, which can be updated.

Names are imported on first use: a search opens an index and needs none of what builds one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztcir_sdk.lazy_names import lazy_names

if TYPE_CHECKING:
    from ztcir_sdk.gallery.build import build_index
    from ztcir_sdk.gallery.embedding import EmbedReport, Shard, embed_images
    from ztcir_sdk.gallery.encoding import ImageEncoder
    from ztcir_sdk.gallery.relocation import (
        missing_folder,
        move_folder,
        parse_move,
        relocate_index,
    )
    from ztcir_sdk.gallery.removal import remove_images
    from ztcir_sdk.gallery.report import IndexReport
    from ztcir_sdk.gallery.settings import IndexOptions
    from ztcir_sdk.gallery.targets import AnyIndex, open_any
    from ztcir_sdk.gallery.transfer import export_vectors, import_vectors

__all__ = [
    "AnyIndex",
    "EmbedReport",
    "ImageEncoder",
    "IndexOptions",
    "IndexReport",
    "Shard",
    "build_index",
    "embed_images",
    "export_vectors",
    "import_vectors",
    "missing_folder",
    "move_folder",
    "open_any",
    "parse_move",
    "relocate_index",
    "remove_images",
]

_MODULES = {
    "AnyIndex": "targets",
    "EmbedReport": "embedding",
    "ImageEncoder": "encoding",
    "IndexOptions": "settings",
    "IndexReport": "report",
    "Shard": "embedding",
    "build_index": "build",
    "embed_images": "embedding",
    "export_vectors": "transfer",
    "import_vectors": "transfer",
    "missing_folder": "relocation",
    "move_folder": "relocation",
    "open_any": "targets",
    "parse_move": "relocation",
    "relocate_index": "relocation",
    "remove_images": "removal",
}

__getattr__ = lazy_names(__name__, _MODULES)
