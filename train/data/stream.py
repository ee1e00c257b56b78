"""Webdataset shards as a stream, for collections that are too large to list or on a network."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener

from train.data.image import BytesPicture, TrainingImage, check_picture
from train.data.item import ONE_HELD_OUT_OF, DataError, is_held_out
from train.data.report import NAMED_SAMPLES, ReadReport, caption_notes, print_notes
from train.data.shards import (
    IMAGE_EXTENSIONS,
    SAMPLE_ERRORS,
    TEXT_EXTENSIONS,
    has_end_mark,
    is_complete,
    parse_item,
)
from train.data.source import expand_sources
from ztcir_sdk.files import write_whole
from ztcir_sdk.names import is_tar


def stream_shards(patterns: Sequence[str]) -> list[str]:
    """Return the shards that ``--data`` names: files, ``https://...`` and ``pipe:...``.

    Raises:
        DataError: a file is missing, or is not a shard.
    """
    shards: list[str] = []
    for pattern in patterns:
        if not _is_file(pattern):
            shards += expand_urls(pattern)
            continue
        for path in expand_sources([pattern]):
            if not is_tar(path.name) or path.is_dir():
                raise DataError(f"{path} is not a shard (.tar); only shards can be streamed.")
            if not path.is_file():
                raise DataError(f"The shard {path} does not exist.")
            shards.append(str(path))
    return shards


def _is_file(shard: str) -> bool:
    """Return whether a shard is a path, not a command (``pipe:``) or an address."""
    return not shard.startswith("pipe:") and "://" not in shard


def shards_fingerprint(shards: Sequence[str]) -> dict[str, Any]:
    """Return the number of shards, and a checksum of their names and of the files' sizes."""
    sizes = [Path(one).stat().st_size if _is_file(one) else 0 for one in shards]
    named = [(one.rsplit("/", 1)[-1], size) for one, size in zip(shards, sizes, strict=True)]
    return {"shards": len(shards), "sha256": hashlib.sha256(json.dumps(named).encode()).hexdigest()}


def read_held_out(shards: Sequence[str], limit: int) -> list[TrainingImage]:
    """Return the first ``limit`` held-out images of some shards, or all if there are fewer.

    Notes about their captions are printed on standard error; they hold for all images.

    Raises:
        DataError: there are fewer than two.
    """
    stream = ShardStream(shards, shuffle=False)
    found = list(islice((image for image in stream if is_held_out(image.item)), limit))
    print_notes(caption_notes(image.item.caption for image in found), "Held-out images: ")
    if len(found) < 2:
        raise DataError(
            f"{stream.report.read} samples are too few to hold out one in {ONE_HELD_OUT_OF} for "
            "selecting the best checkpoint; add shards."
        )
    return found


def endless(stream: ShardStream, start: int, length: Path) -> Iterator[TrainingImage]:
    """Yield the training images of one epoch after another, from image number ``start`` on.

    Args:
        stream: epochs are numbered 0, 1, ...
        start: number of images to leave out at the beginning.
        length: file that keeps the number of images per epoch of this process's shards, so that
            resuming in a late epoch does not read the earlier epochs again.

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
    """Return the images per epoch, or 0 if they were not counted for these shards."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = record["shards"] == shards_fingerprint(stream.own)
        return int(record["images"]) if same else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_length(path: Path, stream: ShardStream, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"images": count, "shards": shards_fingerprint(stream.own)}))


class ShardStream(IterableDataset[TrainingImage]):
    """Every image of some shards once per epoch, in an order that seed and epoch determine.

    Each rank of a distributed run has its own shards, always the same: no two ranks see the same
    image, and all epochs of a rank are equally long. Each worker of a ``DataLoader`` reads some of
    the rank's shards. Images stay encoded. The process that reads an unusable sample reports it on
    standard error the first time, and counts it in `report`.

    Args:
        shards: paths, or anything else that webdataset opens (``pipe:...``, ``https://...``).
        seed: random seed of the order.
        buffer: number of images from which the next one is drawn; 0 keeps the order in a shard.
        shuffle: whether to shuffle the shards and the images; False keeps the order of both.
        rank: number of this process in a distributed run.
        world: number of processes.
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
        self._reported: set[str] = set()

    @property
    def own(self) -> tuple[str, ...]:
        """This rank's shards."""
        return self.shards[self.rank :: self.world]

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch, which determines the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[TrainingImage]:
        """Yield the images of this process's part of the epoch."""
        own = self.own
        order = np.arange(len(own))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch, self.rank]).shuffle(order)
        self.report = report = ReadReport()
        damaged: set[str] = set()

        def note_damage(shard: str, why: str) -> None:
            if shard not in damaged:
                damaged.add(shard)
                report.notes.append(
                    f"The shard {shard} is damaged or cut short ({why}); what follows there is "
                    "lost."
                )
                self._report_once(shard, report.notes[-1])

        def handle_error(error: Exception) -> bool:
            note_damage(*_shard_and_reason(error))
            return True

        def check_ends(shards: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
            for shard in shards:
                path = Path(shard["url"])
                # cut between two files, which tarfile takes for the end
                if _is_file(shard["url"]) and path.suffix == ".tar" and not has_end_mark(path):
                    note_damage(shard["url"], "it has no end mark")
                yield shard

        def skip(name: str, why: object) -> None:
            report.skip(name, why)
            if len(self._reported) < NAMED_SAMPLES:
                self._report_once(
                    name, f"Skipped a broken sample: {name} ({report.skipped[-1][1]})"
                )

        stages = [
            wds.SimpleShardList([own[place] for place in order]),
            wds.split_by_worker,
            check_ends,
            partial(url_opener, handler=handle_error),
            _closed_after_reading,
            partial(tar_file_expander, handler=handle_error),
            partial(group_by_keys, handler=handle_error),
            partial(_complete_samples, damaged=damaged, skip=skip),
        ]
        if self.buffer > 1:
            seed = hash((self.seed, self.epoch, self.rank))
            stages.append(wds.detshuffle(self.buffer, self.buffer // 2, seed=seed))
        for sample in wds.DataPipeline(*stages):
            try:
                picture = next(sample[name] for name in IMAGE_EXTENSIONS if name in sample)
                item = parse_item(sample["__key__"], sample)
                check_picture(picture)
            except StopIteration:
                skip(sample["__key__"], "no image")
            except SAMPLE_ERRORS as error:
                skip(sample["__key__"], error)
            else:
                report.read += 1
                yield TrainingImage(item, BytesPicture(item.id, picture))
        if len(report.skipped) > NAMED_SAMPLES:
            self._report_once("more", report.sentences()[-1])

    def _report_once(self, name: str, sentence: str) -> None:
        if name not in self._reported:
            self._reported.add(name)
            print_notes([sentence])


def _closed_after_reading(shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        try:
            yield shard
        finally:
            if isinstance(shard["stream"], io.IOBase):  # not a pipe, whose process may still write
                shard["stream"].close()


def _complete_samples(
    samples: Iterable[dict[str, Any]],
    *,
    damaged: Container[str],
    skip: Callable[[str, object], None],
) -> Iterator[dict[str, Any]]:
    """Yield the samples; leave out the last one of a damaged shard if a file of it is missing."""
    last: dict[str, Any] | None = None
    usual: set[str] = set()

    def usable(sample: dict[str, Any]) -> bool:
        if sample["__url__"] not in damaged or is_complete(_extensions(sample), usual):
            return True
        skip(sample["__key__"], "the shard ends inside it")
        return False

    for sample in samples:
        if last is not None and last["__url__"] == sample["__url__"]:
            usual = _extensions(last)
            yield last
        elif last is not None:
            if usable(last):
                yield last
            usual = set()
        last = sample
    if last is not None and usable(last):
        yield last


def _extensions(sample: Mapping[str, Any]) -> set[str]:
    return sample.keys() & {*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS}


def _shard_and_reason(error: Exception) -> tuple[str, str]:
    """Return the shard, which webdataset adds to an error's arguments, and what is wrong."""
    shard = next((part for part in reversed(error.args[1:]) if isinstance(part, str)), "?")
    why = str(error.args[0]).split(" @ <")[0] if error.args else type(error).__name__
    return shard, why
