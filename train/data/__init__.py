"""Training data: items and their catalogue, collections of images, streams, and batches.

A collection is read from webdataset shards, folders, CSV and Parquet files into a list of
`TrainingImage`. Only a stream needs torch and webdataset, so both are imported with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from train.data.batches import Batches
from train.data.catalogue import DEFAULT_COLUMNS, read_catalogue
from train.data.collection import drawn_images, read_collection
from train.data.csv_parquet import open_table
from train.data.image import TrainingImage
from train.data.item import DataError, Item, is_held_out, is_known, split_development
from train.data.source import read_sources

if TYPE_CHECKING:
    from train.data.stream import (
        ShardStream,
        endless,
        read_held_out,
        shards_fingerprint,
        stream_shards,
    )
else:

    def __getattr__(name: str) -> Any:
        """Import what reads streams when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("train.data.stream"), name)


__all__ = [
    "DEFAULT_COLUMNS",
    "Batches",
    "DataError",
    "Item",
    "ShardStream",
    "TrainingImage",
    "drawn_images",
    "endless",
    "is_held_out",
    "is_known",
    "open_table",
    "read_catalogue",
    "read_collection",
    "read_held_out",
    "read_sources",
    "shards_fingerprint",
    "split_development",
    "stream_shards",
]
