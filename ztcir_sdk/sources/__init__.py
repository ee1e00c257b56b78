"""The images of a collection: in folders, in tar archives, in videos, and single files.

An image is identified by its path relative to the collection's root, which is ``shard.tar/key.jpg``
in an archive and ``clip.mp4@12.0s`` in a video. In an archive ``key.json`` is its metadata, as in
webdataset. Archives are read in place, never unpacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztcir_sdk.lazy_names import lazy_names
from ztcir_sdk.sources.listing import Failure, Listing, Source, SourceFile, printable
from ztcir_sdk.sources.reading import SourceReader, container_of, image_exists, read_image
from ztcir_sdk.sources.rules import CollectionRules

if TYPE_CHECKING:
    from ztcir_sdk.sources.collection import list_images
    from ztcir_sdk.sources.tables import MetadataTable

__all__ = [
    "CollectionRules",
    "Failure",
    "Listing",
    "MetadataTable",
    "Source",
    "SourceFile",
    "SourceReader",
    "container_of",
    "image_exists",
    "list_images",
    "printable",
    "read_image",
]

_MODULES = {"MetadataTable": "tables", "list_images": "collection"}
"""What only those need who read a whole collection: imported on first use."""

__getattr__ = lazy_names(__name__, _MODULES)
