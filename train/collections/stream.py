"""Webdataset shards as a stream: for collections that are read once, in a shuffled order."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset

from train.collections.image import BytesPicture, TrainingImage, check_picture
from train.collections.report import ReadReport
from train.collections.shards import BROKEN, PICTURES, is_closed, item_of

__all__ = ["ShardStream"]


class ShardStream(IterableDataset[TrainingImage]):
    """Each image of some shards once an epoch, in an order drawn from the seed and the epoch.

    Whole shards are dealt out, to the ranks of a distributed run and then to the workers of a
    ``DataLoader``, in the epoch's order; within one of them a buffer shuffles. Pictures stay
    encoded. What cannot be used is told on standard error, and counted in `report`, by the process
    that reads it.

    Args:
        shards: paths, or anything else that webdataset opens (``pipe:...``, ``https://...``).
        seed: of the order.
        buffer: images among which the next one is drawn; 0 leaves each shard's order.
        rank, world: this process's place in a distributed run, and its size.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        seed: int = 0,
        buffer: int = 2000,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards, self.seed, self.buffer = tuple(shards), seed, buffer
        self.rank, self.world = rank, world
        self.epoch = 0
        self.report = ReadReport()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: an equal seed and epoch give an equal one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[TrainingImage]:
        """Read this process's part of the epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.shards))
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
            print(sentence, file=sys.stderr)


def _cause(error: Exception) -> tuple[str, str]:
    """The shard's name, which webdataset adds to an error's arguments, and what is wrong."""
    shard = next((part for part in reversed(error.args[1:]) if isinstance(part, str)), "?")
    why = str(error.args[0]).split(" @ <")[0] if error.args else type(error).__name__
    return shard, why
