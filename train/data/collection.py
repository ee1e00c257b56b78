"""The collection that a stage trains on: photos, and images drawn by code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from train.data.image import DRAWING_PREFIX, TrainingImage
from train.data.item import DataError, Item, is_held_out, split_development
from train.data.report import caption_notes, print_notes
from train.data.source import read_sources
from ztcir_sdk.drawings.drawings import draw, training_drawings


def drawn_images(count: int, seed: int) -> list[TrainingImage]:
    """Return images drawn by code, none with a combination, a seed or a wording of the demo."""
    return [
        TrainingImage(
            Item(
                id=f"{DRAWING_PREFIX}{number}",
                gender="",
                type=drawing.type,
                colour=drawing.colour,
                pattern=drawing.pattern,
                caption=drawing.caption,
            ),
            partial(draw, drawing),
        )
        for number, drawing in enumerate(training_drawings(count, seed))
    ]


def read_collection(
    data: Sequence[str],
    *,
    drawings: int = 0,
    development: float = 0.05,
    columns: Mapping[str, str] | None = None,
    streamed: bool = False,
    cache: Path | None = None,
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Read the images that a stage trains on, and the development images that select a checkpoint.

    Unusable images are reported on standard error and skipped.

    Args:
        data: webdataset shards, folders of images, and CSV, TSV or Parquet files of paths and
            captions; each is a path, a brace pattern such as ``data/train-{0000..0007}.tar``, or a
            pattern with ``*``.
        drawings: number of code-drawn images to add to the training images.
        development: share of the products (equal captions) that is held out. All stages hold out
            the same products: none has trained on what selects another's checkpoint.
        columns: field -> column of the tables, for columns without a usual name; see `read_table`.
        streamed: hold out what a stream holds out, and ignore ``development``; for runs that
            continue from a Stage I trained on a stream.
        cache: folder of lists of shards, so that they are read once; see `read_shard_list`.

    Raises:
        DataError: a source is missing, or there are too few usable photos.
        UsageError: a table does not have a column.
    """
    photos, report = read_sources(data, columns=columns, cache=cache)
    is_main = os.environ.get("RANK", "0") == "0"
    print_notes(report.sentences() if is_main else [])
    if not photos:
        raise DataError(f"No usable sample in {', '.join(data)}.")
    if is_main:
        print_notes(caption_notes(photo.item.caption for photo in photos))
    items = [photo.item for photo in photos]
    if streamed:
        held_out = [item for item in items if is_held_out(item)]
    else:
        _, held_out = split_development(items, development, seed=0)
    held_out_ids = {item.id for item in held_out}
    training = [photo for photo in photos if photo.item.id not in held_out_ids]
    selecting = [photo for photo in photos if photo.item.id in held_out_ids]
    if not training or not selecting:
        raise DataError(
            f"{len(photos)} photos are too few to hold out {development:.0%} of the products for "
            "selecting the best checkpoint; add more photos."
        )
    return training + drawn_images(drawings, seed=0), selecting
