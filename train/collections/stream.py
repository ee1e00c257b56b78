"""Webdataset shards as a stream: for collections too large to list, or that come over a network."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset
from webdataset.shardlists import expand_urls

from train.collections.image import BytesPicture, DataError, TrainingImage, check_picture
from train.collections.report import ReadReport
from train.collections.shards import BROKEN, PICTURES, SHARD_SUFFIXES, is_closed, item_of
from train.collections.source import expand
from train.triplets import Item, product_name

__all__ = ["ShardStream", "endless", "is_held_out", "read_held_out", "stream_shards"]

_HELD_OUT = 20  # of so many product names one is held out


def stream_shards(patterns: Sequence[str]) -> list[str]:
    """What ``--data`` names, as webdataset opens it: files, ``https://...``, ``pipe:...``.

    Raises:
        DataError: a file is missing, or is no shard.
    """
    shards: list[str] = []
    for pattern in patterns:
        if pattern.startswith("pipe:") or "://" in pattern:
            shards += expand_urls(pattern)
            continue
        for path in expand([pattern]):
            if not path.name.lower().endswith(SHARD_SUFFIXES) or path.is_dir():
                raise DataError(f"{path} is no shard (.tar), and only shards can be streamed.")
            if not path.is_file():
                raise DataError(f"The shard {path} does not exist.")
            shards.append(str(path))
    return shards


def is_held_out(item: Item) -> bool:
    """Whether an image is kept out of training, by its caption alone: no list is at hand."""
    digest = hashlib.sha256(product_name(item).encode()).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT == 0


def read_held_out(shards: Sequence[str], limit: int) -> list[TrainingImage]:
    """The first ``limit`` images of some shards that are held out, or as many as there are.

    Raises:
        DataError: fewer than two.
    """
    stream = ShardStream(shards, shuffle=False)
    found = list(islice((image for image in stream if is_held_out(image.item)), limit))
    if len(found) < 2:
        raise DataError(
            f"{stream.report.read} samples of the shards are too few to hold one in {_HELD_OUT} "
            "out for selecting the best checkpoint; add shards."
        )
    return found


def endless(stream: ShardStream, start: int, length: Path) -> Iterator[TrainingImage]:
    """The training images of epoch after epoch, from the one with the number ``start`` on.

    Args:
        stream: its epochs are 0, 1, ...
        length: file that remembers how many images an epoch has, so that going on in a late epoch
            does not read the earlier ones again.

    Raises:
        DataError: an epoch has no usable image.
    """
    epoch = 0
    if length.is_file():
        epoch, start = divmod(start, int(length.read_text(encoding="ascii")))
    while True:
        stream.set_epoch(epoch)
        count = 0
        for image in stream:
            if is_held_out(image.item):
                continue
            count += 1
            if count > start:
                yield image
        if not count:
            raise DataError(f"No usable sample in {', '.join(stream.shards[:3])}, ...")
        if not length.is_file():
            length.parent.mkdir(parents=True, exist_ok=True)
            fresh = length.with_name(f".{length.name}.new")
            fresh.write_text(str(count), encoding="ascii")
            fresh.replace(length)
        epoch, start = epoch + 1, max(0, start - count)


class ShardStream(IterableDataset[TrainingImage]):
    """Each image of some shards once an epoch, in an order drawn from the seed and the epoch.

    Whole shards are dealt out, to the ranks of a distributed run and then to the workers of a
    ``DataLoader``, in the epoch's order; within one of them a buffer shuffles. Pictures stay
    encoded. What cannot be used is told on standard error when it is first met, and counted in
    `report`, by the process that reads it.

    Args:
        shards: paths, or anything else that webdataset opens (``pipe:...``, ``https://...``).
        seed: of the order.
        buffer: images among which the next one is drawn; 0 leaves each shard's order.
        shuffle: whether the shards' order is drawn, and a buffer filled; false for their own order.
        rank, world: this process's place in a distributed run, and its size.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        seed: int = 0,
        buffer: int = 2000,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards, self.seed, self.shuffle = tuple(shards), seed, shuffle
        self.buffer = buffer if shuffle else 0
        self.rank, self.world = rank, world
        self.epoch = 0
        self.report = ReadReport()
        self._told: set[str] = set()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: an equal seed and epoch give an equal one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[TrainingImage]:
        """Read this process's part of the epoch."""
        order = np.arange(len(self.shards))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        mine = [self.shards[place] for place in order[self.rank :: self.world]]
        self.report = report = ReadReport()
        damaged: dict[str, str] = {}

        def note(error: Exception) -> bool:
            shard, why = _cause(error)
            damaged.setdefault(shard, why)
            return True

        def look(shards: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
            for shard in shards:
                path = Path(shard["url"])
                # cut where a file begins, which tarfile takes for the end
                if path.suffix == ".tar" and path.is_file() and not is_closed(path):
                    damaged[shard["url"]] = "it has no end mark"
                yield shard

        stages = [
            wds.SimpleShardList(mine),
            wds.split_by_worker,
            look,
            wds.tarfile_to_samples(handler=note),
        ]
        if self.buffer > 1:
            seed = hash((self.seed, self.epoch, self.rank))
            stages.append(wds.detshuffle(self.buffer, self.buffer // 2, seed=seed))
        for sample in wds.DataPipeline(*stages):
            try:
                picture = next(sample[suffix] for suffix in PICTURES if suffix in sample)
                item = item_of(sample["__key__"], sample)
                check_picture(picture)
            except StopIteration:
                report.skip(sample["__key__"], "no picture")
            except BROKEN as error:
                report.skip(sample["__key__"], error)
            else:
                report.read += 1
                yield TrainingImage(item, BytesPicture(item.id, picture))
        report.notes += [
            f"The shard {shard} is damaged or cut short ({why}); what follows there is lost."
            for shard, why in damaged.items()
        ]
        for sentence in report.sentences():
            if sentence not in self._told:
                self._told.add(sentence)
                print(sentence, file=sys.stderr)


def _cause(error: Exception) -> tuple[str, str]:
    """The shard's name, which webdataset adds to an error's arguments, and what is wrong."""
    shard = next((part for part in reversed(error.args[1:]) if isinstance(part, str)), "?")
    why = str(error.args[0]).split(" @ <")[0] if error.args else type(error).__name__
    return shard, why
