"""Lists of the images in shards, kept in a folder: a shard is read and decoded once for all.

Processes that start together divide the shards: each claims one after the other by a lock on a
file. A list is used as long as its shard keeps its path, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from sys import intern

from filelock import FileLock, Timeout

from train.data.image import SlicePicture, TrainingImage
from train.data.item import Item
from train.data.report import ReadReport
from ztcir_sdk.files import open_whole

__all__ = ["list_shards", "read_listing"]

_FORMAT = 1

Listing = tuple[list[TrainingImage], ReadReport]


def list_shards(paths: Sequence[Path], cache: Path, read: Callable[[Path], Listing]) -> None:
    """Write the missing lists of shards, together with the other processes that do so.

    Args:
        paths: uncompressed shards.
        cache: folder of the lists.
        read: reads one shard; its pictures are `SlicePicture`.
    """
    folder = cache / "lists"
    folder.mkdir(parents=True, exist_ok=True)
    rank, count = (int(os.environ.get(name, one)) for name, one in _PROCESS)
    begin = rank * len(paths) // count
    order = [*paths[begin:], *paths[:begin]]
    for wait in (False, True):  # first what nobody reads, then wait for what others read
        for path in order:
            file = _list_of(path, folder)
            if file.is_file():
                continue
            try:
                with FileLock(file.with_suffix(".lock"), timeout=-1 if wait else 0):
                    if not file.is_file():
                        _write(file, *read(path))
            except Timeout:
                continue


_PROCESS = (("RANK", "0"), ("WORLD_SIZE", "1"))


def _list_of(path: Path, folder: Path) -> Path:
    status = path.stat()
    identity = f"{_FORMAT} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return folder / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"


def _write(file: Path, images: Sequence[TrainingImage], report: ReadReport) -> None:
    with open_whole(file, "w", encoding="utf-8") as stream:
        head = {"skipped": report.skipped, "notes": report.notes, "images": len(images)}
        stream.write(json.dumps(head) + "\n")
        for image in images:
            picture = image.load
            assert isinstance(picture, SlicePicture)
            place = (picture.offset, picture.size, picture.checksum)
            stream.write(json.dumps([*astuple(image.item), *place], ensure_ascii=False) + "\n")


def read_listing(path: Path, cache: Path) -> Listing | None:
    """Return a shard's list; None if there is none, or if it cannot be used."""
    file = _list_of(path, cache / "lists")
    if not file.is_file():
        return None
    report, images, shard = ReadReport(), [], str(path)
    try:
        with file.open(encoding="utf-8") as stream:
            head = json.loads(next(stream))
            report.skipped = [(str(name), str(why)) for name, why in head["skipped"]]
            report.notes = [str(note) for note in head["notes"]]
            for line in stream:
                name, gender, kind, colour, pattern, caption, *place = json.loads(line)
                offset, size, checksum = map(int, place)
                # millions of images share these, and memory should hold them once
                item = Item(name, intern(gender), intern(kind), intern(colour), pattern, caption)
                picture = SlicePicture(name, shard, offset, size, checksum=checksum)
                images.append(TrainingImage(item, picture))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return (images, report) if len(images) == head["images"] else None
