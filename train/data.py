"""Training images: photos of webdataset shards and code-drawn pictures, as one collection."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from PIL import Image

from train.triplets import Item, split_development
from ztcir_sdk.drawings import draw, training_drawings
from ztcir_sdk.errors import ImageError, ZtcirError
from ztcir_sdk.preprocess import load_image

__all__ = [
    "Batches",
    "DataError",
    "TrainingImage",
    "drawn_images",
    "read_collection",
    "read_shards",
]

DRAWING_PREFIX = "drawing-"
_BROKEN = (KeyError, ValueError, TypeError, RecursionError, ImageError)  # what a bad sample raises


@dataclass(frozen=True)
class TrainingImage:
    """One image with what is known of it, decoded only when asked."""

    item: Item
    load: Callable[[], Image.Image]

    @property
    def is_drawing(self) -> bool:
        """Whether it was drawn by code."""
        return self.item.id.startswith(DRAWING_PREFIX)


class DataError(ZtcirError):
    """A shard or a folder of training data cannot be used."""


def read_shards(paths: Sequence[Path]) -> list[TrainingImage]:
    """Read webdataset shards of ``<id>.jpg`` + ``<id>.json`` into memory, still encoded.

    A sample without a usable picture, or whose JSON is broken, is counted, named on standard error
    and skipped; so is what a shard lacks that was cut short.

    Raises:
        DataError: a shard is missing, or none of them holds a usable sample.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"The shard {path} does not exist.")
    images: list[TrainingImage] = []
    skipped: list[str] = []
    for path in paths:
        for sample in _samples(path):
            try:
                images.append(_training_image(sample))
            except _BROKEN as error:
                skipped.append(f"{sample['__key__']} ({error})")
    if skipped:
        print(f"Skipped {len(skipped)} broken samples: {', '.join(skipped[:10])}", file=sys.stderr)
    if not images:
        raise DataError(f"No usable sample in {', '.join(map(str, paths))}.")
    return images


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of one shard, in its order, up to where it breaks off."""
    problems: list[str] = []

    def note(error: Exception) -> bool:
        problems.append(f"{error.args[0] if error.args else error}".split(" @ <")[0])
        return True  # go on with what else can be read

    # resampling and shuffling stay off: the order is the run's own, drawn from its seed
    shard = wds.WebDataset([str(path)], handler=note, shardshuffle=False, empty_check=False)
    count = 0
    for count, sample in enumerate(shard, start=1):  # noqa: B007
        yield sample
    if not problems and path.suffix == ".tar" and not _is_closed(path):
        problems.append("it has no end mark")  # cut between two files, which tarfile takes for one
    if problems:
        print(
            f"The shard {path} is damaged or cut short ({problems[0]}); "
            f"what follows its first {count} samples is lost.",
            file=sys.stderr,
        )


def _is_closed(path: Path) -> bool:
    """Whether a tar file ends with the two empty blocks that close it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        return file.read() == bytes(1024)


def _training_image(sample: Mapping[str, Any]) -> TrainingImage:
    fields = json.loads(sample["json"])
    item = Item(
        id=str(fields["id"]),
        gender=str(fields["gender"]),
        type=str(fields["articleType"]),
        colour=str(fields["baseColour"]),
        pattern=None,
        caption=str(fields["caption"]),
    )
    encoded = _Encoded(sample["jpg"], item.id)
    encoded()  # decoded once now, so that no broken picture ends a run that has begun
    return TrainingImage(item, encoded)


@dataclass(frozen=True)
class _Encoded:
    data: bytes
    name: str

    def __call__(self) -> Image.Image:
        try:
            return load_image(io.BytesIO(self.data))
        except ImageError as error:
            raise ImageError(f"The picture of item {self.name} cannot be used: {error}") from error


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


class Batches:
    """Batches of positions by step number: a fresh permutation an epoch, its short rest dropped.

    Args:
        count: images to draw from.
        size: images a batch; no more than ``count``.
        seed: of the permutations.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, min(size, count), seed
        self.per_epoch = max(1, count // self.size)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, step: int) -> np.ndarray:
        """Positions (size,) int64 of the batch of ``step``."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.count)
        return self._order[number * self.size : (number + 1) * self.size]


def read_collection(
    shards: Sequence[str], *, drawings: int = 0, development: float = 0.05
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Everything a stage trains on, and the photos that only select its best checkpoint.

    Args:
        shards: paths, or brace patterns such as ``data/train-{0000..0007}.tar``.
        drawings: how many code-drawn pictures to add to the training part.
        development: share of the photos held out, whole products at a time; the same in each
            stage, so that no stage has seen what selects another one's best checkpoint.

    Raises:
        DataError: a shard is missing, or there are too few usable photos.
    """
    paths = [Path(path) for pattern in shards for path in wds.shardlists.expand_urls(pattern)]
    photos = read_shards(paths)
    _, held_out = split_development([photo.item for photo in photos], development, seed=0)
    held_out_ids = {item.id for item in held_out}
    training = [photo for photo in photos if photo.item.id not in held_out_ids]
    selecting = [photo for photo in photos if photo.item.id in held_out_ids]
    if not training or not selecting:
        raise DataError(
            f"{len(photos)} photos are too few to hold {development:.0%} of the products out for "
            "selecting the best checkpoint; add shards."
        )
    return training + drawn_images(drawings, seed=0), selecting
