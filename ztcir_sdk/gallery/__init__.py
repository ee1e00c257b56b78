"""A collection of images -> decoded batches -> vectors -> an index, which can be updated."""

from __future__ import annotations

from ztcir_sdk.gallery.build import ImageEncoder, build_index
from ztcir_sdk.gallery.relocation import (
    missing_folder,
    move_folder,
    parse_move,
    relocate_index,
)
from ztcir_sdk.gallery.report import IndexReport
from ztcir_sdk.gallery.settings import IndexOptions

__all__ = [
    "ImageEncoder",
    "IndexOptions",
    "IndexReport",
    "build_index",
    "missing_folder",
    "move_folder",
    "parse_move",
    "relocate_index",
]
