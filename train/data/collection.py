"""What a stage trains on: a collection of images with code-drawn pictures, in batches."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from train.data.image import DRAWING_PREFIX, TrainingImage
from train.data.item import DataError, Item, split_development
from train.data.report import ReadReport, caption_notes
from train.data.shards import read_shard_list
from train.data.source import read_sources
from train.data.stream import is_held_out
from ztcir_sdk.drawings.drawings import draw, training_drawings

__all__ = [
    "drawn_images",
    "read_collection",
    "read_shards",
]


def read_shards(paths: Sequence[Path]) -> list[TrainingImage]:
    """List the images of webdataset shards, each decoded once to see that it can be.

    A sample without a usable picture, or whose JSON is broken, is counted, named on standard error
    and skipped; so is what a shard lacks that was cut short.

    Raises:
        DataError: a shard is missing, or none of them holds a usable sample.
    """
    report = ReadReport()
    images = read_shard_list(paths, report)
    _tell(report.sentences())
    if not images:
        raise DataError(f"No usable sample in {', '.join(map(str, paths))}.")
    return images


def _tell(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(sentence, file=sys.stderr)


def drawn_images(count: int, seed: int) -> list[TrainingImage]:
    """Code-drawn pictures; never a combination, a seed or a wording that the demo shows."""
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
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Everything a stage trains on, and the photos that only select its best checkpoint.

    What cannot be used is counted, named on standard error and skipped.

    Args:
        data: webdataset shards, folders of pictures, and CSV, TSV or Parquet files of paths and
            captions; each a path, a brace pattern such as ``data/train-{0000..0007}.tar``, or a
            pattern with ``*``.
        drawings: how many code-drawn pictures to add to the training part.
        development: share of the photos held out, whole products (equal captions) at a time; the
            same in each stage, so that no stage has seen what selects another's best checkpoint.
        columns: field -> column of the tables, where it has no usual name; see `read_table`.
        streamed: hold out, in place of ``development``, what a stream does, by the caption alone;
            for what goes on from a Stage I that was trained on one.

    Raises:
        DataError: a source is missing, or there are too few usable photos.
        UsageError: a table lacks a column.
    """
    photos, report = read_sources(data, columns=columns)
    _tell(report.sentences())
    if not photos:
        raise DataError(f"No usable sample in {', '.join(data)}.")
    _tell(caption_notes(photo.item.caption for photo in photos))
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
            f"{len(photos)} photos are too few to hold {development:.0%} of the products out for "
            "selecting the best checkpoint; add shards."
        )
    return training + drawn_images(drawings, seed=0), selecting
