"""A collection of images -> decoded batches -> vectors -> an index, which can be updated."""

from __future__ import annotations

from ztcir_sdk.gallery.build import ImageEncoder, build_index
from ztcir_sdk.gallery.relocation import relocate_index
from ztcir_sdk.gallery.report import IndexReport
from ztcir_sdk.gallery.settings import IndexOptions

__all__ = ["ImageEncoder", "IndexOptions", "IndexReport", "build_index", "relocate_index"]
