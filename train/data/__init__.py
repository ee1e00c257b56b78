"""Training data: items and their catalogue, collections of images, streams, and batches.

A collection is read from webdataset shards, folders, CSV and Parquet files into a list of
`TrainingImage`. Only a stream needs torch and webdataset, so both are imported with it.
"""

from typing import TYPE_CHECKING

from train.data.batches import Batches
from train.data.catalogue import DEFAULT_COLUMNS, read_catalogue
from train.data.collection import drawn_images, read_collection
from train.data.csv_parquet import check_fields, choose_columns, open_table
from train.data.image import TrainingImage
from train.data.item import DataError, Item, is_held_out, split_development
from train.data.report import ReadReport, caption_notes, main_script, print_notes
from train.data.source import read_sources
from train.data.table import pair_id, pair_picture_columns
from ztcir_sdk.lazy_names import lazy_names

if TYPE_CHECKING:
    from train.data.stream import (
        ShardStream,
        endless,
        read_held_out,
        shards_fingerprint,
        stream_shards,
    )

__all__ = [
    "DEFAULT_COLUMNS",
    "Batches",
    "DataError",
    "Item",
    "ReadReport",
    "ShardStream",
    "TrainingImage",
    "caption_notes",
    "check_fields",
    "choose_columns",
    "drawn_images",
    "endless",
    "is_held_out",
    "main_script",
    "open_table",
    "pair_id",
    "pair_picture_columns",
    "print_notes",
    "read_catalogue",
    "read_collection",
    "read_held_out",
    "read_sources",
    "shards_fingerprint",
    "split_development",
    "stream_shards",
]

_STREAMED = ("ShardStream", "endless", "read_held_out", "shards_fingerprint", "stream_shards")

__getattr__ = lazy_names(__name__, dict.fromkeys(_STREAMED, "stream"))
