"""Composed image retrieval on a device: search images by an image and a text.

Start with ``from ztcir_sdk import Retriever``. Names are imported on first use, so ``import
ztcir_sdk`` alone costs nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ztcir_sdk.lazy_names import lazy_names
from ztcir_sdk.version import __version__

if TYPE_CHECKING:
    from ztcir_sdk.answers import SearchOptions
    from ztcir_sdk.bundle import Bundle
    from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
    from ztcir_sdk.gallery import EmbedReport, IndexOptions, IndexReport, Shard, embed_images
    from ztcir_sdk.index import Index
    from ztcir_sdk.index.hit import Hit
    from ztcir_sdk.modification import UnknownWord
    from ztcir_sdk.query import Query
    from ztcir_sdk.query.batch import BatchQuery, read_batch
    from ztcir_sdk.retriever import Reference, Retriever
    from ztcir_sdk.runtime import RuntimeSettings

__all__ = [
    "BatchQuery",
    "Bundle",
    "EmbedReport",
    "Hit",
    "ImageError",
    "Index",
    "IndexOptions",
    "IndexReport",
    "Query",
    "Reference",
    "Retriever",
    "RuntimeSettings",
    "SearchOptions",
    "Shard",
    "UnknownWord",
    "UsageError",
    "ZtcirError",
    "__version__",
    "embed_images",
    "read_batch",
]

_MODULES = {
    "BatchQuery": "query.batch",
    "Bundle": "bundle",
    "EmbedReport": "gallery",
    "Hit": "index.hit",
    "ImageError": "errors",
    "Index": "index",
    "IndexOptions": "gallery",
    "IndexReport": "gallery",
    "Query": "query",
    "Reference": "retriever",
    "Retriever": "retriever",
    "RuntimeSettings": "runtime",
    "Shard": "gallery",
    "SearchOptions": "answers",
    "UnknownWord": "modification",
    "UsageError": "errors",
    "ZtcirError": "errors",
    "embed_images": "gallery",
    "read_batch": "query.batch",
}

# ONNX Runtime from 1.32 on writes an identifier of the machine into the user's cache and reports
# its use to its maker, unless this is set before it is imported; 0 allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
