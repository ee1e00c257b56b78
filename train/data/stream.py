"""Webdataset shards as a stream: for collections too large to list, or that come over a network."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset
from webdataset.shardlists import expand_urls

from train.data.image import BytesPicture, TrainingImage, check_picture
from train.data.item import DataError, Item, product_name
from train.data.report import ReadReport, caption_notes
from train.data.shards import (
    BROKEN,
    PICTURES,
    is_closed,
    is_whole,
    item_of,
)
from train.data.source import expand
from ztcir_sdk.files import write_whole
from ztcir_sdk.names import is_tar

__all__ = [
    "ShardStream",
    "endless",
    "is_held_out",
    "read_held_out",
    "shards_fingerprint",
    "stream_shards",
]

_HELD_OUT = 20  # of so many product names one is held out
_NAMED = 10  # broken samples that a process names; further ones it counts


def stream_shards(patterns: Sequence[str]) -> list[str]:
    """What ``--data`` names, as webdataset opens it: files, ``https://...``, ``pipe:...``.

    Raises:
        DataError: a file is missing, or is no shard.
    """
    shards: list[str] = []
    for pattern in patterns:
        if not _is_file(pattern):
            shards += expand_urls(pattern)
            continue
        for path in expand([pattern]):
            if not is_tar(path.name) or path.is_dir():
                raise DataError(f"{path} is no shard (.tar), and only shards can be streamed.")
            if not path.is_file():
                raise DataError(f"The shard {path} does not exist.")
            shards.append(str(path))
    return shards


def _is_file(shard: str) -> bool:
    """Whether a shard is a path, and not a command (``pipe:``) or an address."""
    return not shard.startswith("pipe:") and "://" not in shard


def shards_fingerprint(shards: Sequence[str]) -> dict[str, Any]:
    """What a stream is: how many shards, and a checksum of their names and, of files, sizes."""
    sizes = [Path(one).stat().st_size if _is_file(one) else 0 for one in shards]
    named = [(one.rsplit("/", 1)[-1], size) for one, size in zip(shards, sizes, strict=True)]
    return {"shards": len(shards), "sha256": hashlib.sha256(json.dumps(named).encode()).hexdigest()}


def is_held_out(item: Item) -> bool:
    """Whether an image is kept out of training, by its caption alone: no list is at hand."""
    digest = hashlib.sha256(product_name(item).encode()).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT == 0


def read_held_out(shards: Sequence[str], limit: int) -> list[TrainingImage]:
    """The first ``limit`` images of some shards that are held out, or as many as there are.

    What there is to say of their captions, as of all others', is told on standard error.

    Raises:
        DataError: fewer than two.
    """
    stream = ShardStream(shards, shuffle=False)
    found = list(islice((image for image in stream if is_held_out(image.item)), limit))
    for sentence in caption_notes(image.item.caption for image in found):
        print(f"Of the images that are held out: {sentence}", file=sys.stderr)
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
        length: file that remembers how many images an epoch of this process's shards has, so that
            going on in a late epoch does not read the earlier ones again.

    Raises:
        DataError: an epoch has no usable image.
    """
    epoch = 0
    known = _read_length(length, stream)
    if known:
        epoch, start = divmod(start, known)
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
        if not known:
            known = count
            _write_length(length, stream, count)
        epoch, start = epoch + 1, max(0, start - count)


def _read_length(path: Path, stream: ShardStream) -> int:
    """Images an epoch, or 0 where nobody has counted those of these shards."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return int(told["images"]) if told["shards"] == shards_fingerprint(stream.own) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_length(path: Path, stream: ShardStream, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"images": count, "shards": shards_fingerprint(stream.own)}))


class ShardStream(IterableDataset[TrainingImage]):
    """Each image of some shards once an epoch, in an order drawn from the seed and the epoch.

    Whole shards are dealt out to the ranks of a distributed run, once and for all, so that no two
    of them see an image at once and an epoch of one has always as many; then, in the epoch's order,
    to the workers of a ``DataLoader``. A buffer shuffles within. Pictures stay encoded. What cannot
    be used is told on standard error when it is first met, and counted in `report`, by the process
    that reads it.

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

    @property
    def own(self) -> tuple[str, ...]:
        """The shards of this rank."""
        return self.shards[self.rank :: self.world]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: an equal seed and epoch give an equal one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[TrainingImage]:
        """Read this process's part of the epoch."""
        own = self.own
        order = np.arange(len(own))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch, self.rank]).shuffle(order)
        self.report = report = ReadReport()
        damaged: set[str] = set()

        def spoil(shard: str, why: str) -> None:
            if shard not in damaged:
                damaged.add(shard)
                report.notes.append(
                    f"The shard {shard} is damaged or cut short ({why}); what follows there is "
                    "lost."
                )
                self._tell(shard, report.notes[-1])

        def note(error: Exception) -> bool:
            spoil(*_cause(error))
            return True

        def look(shards: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
            for shard in shards:
                path = Path(shard["url"])
                # cut where a file begins, which tarfile takes for the end
                if _is_file(shard["url"]) and path.suffix == ".tar" and not is_closed(path):
                    spoil(shard["url"], "it has no end mark")
                yield shard

        def skip(name: str, why: object) -> None:
            report.skip(name, why)
            if len(self._told) < _NAMED:
                self._tell(name, f"Skipped a broken sample: {name} ({report.skipped[-1][1]})")

        stages = [
            wds.SimpleShardList([own[place] for place in order]),
            wds.split_by_worker,
            look,
            wds.tarfile_to_samples(handler=note),
            partial(_whole, damaged=damaged, skip=skip),
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
                skip(sample["__key__"], "no picture")
            except BROKEN as error:
                skip(sample["__key__"], error)
            else:
                report.read += 1
                yield TrainingImage(item, BytesPicture(item.id, picture))
        if len(report.skipped) > _NAMED:
            self._tell("more", report.sentences()[-1])

    def _tell(self, what: str, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            print(sentence, file=sys.stderr, flush=True)


def _whole(
    samples: Iterable[dict[str, Any]],
    *,
    damaged: Container[str],
    skip: Callable[[str, object], None],
) -> Iterator[dict[str, Any]]:
    """All samples but what a cut shard has lost a part of: its last one, if that lacks a file."""
    last: dict[str, Any] | None = None
    usual: set[str] = set()

    def usable(sample: dict[str, Any]) -> bool:
        if sample["__url__"] not in damaged or is_whole(_suffixes(sample), usual):
            return True
        skip(sample["__key__"], "the shard ends within it")
        return False

    for sample in samples:
        if last is not None and last["__url__"] == sample["__url__"]:
            usual = _suffixes(last)
            yield last
        elif last is not None:
            if usable(last):
                yield last
            usual = set()
        last = sample
    if last is not None and usable(last):
        yield last


def _suffixes(sample: Mapping[str, Any]) -> set[str]:
    return {name for name in sample if name in (*PICTURES, "txt", "json")}


def _cause(error: Exception) -> tuple[str, str]:
    """The shard's name, which webdataset adds to an error's arguments, and what is wrong."""
    shard = next((part for part in reversed(error.args[1:]) if isinstance(part, str)), "?")
    why = str(error.args[0]).split(" @ <")[0] if error.args else type(error).__name__
    return shard, why
