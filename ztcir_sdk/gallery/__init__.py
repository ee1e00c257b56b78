"""A collection of images -> decoded batches -> vectors -> an index, which can be updated."""

from __future__ import annotations

from ztcir_sdk.gallery.build import ImageEncoder, build_index
from ztcir_sdk.gallery.embedding import EmbedReport, Shard, embed_images
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
