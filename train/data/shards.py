"""Webdataset shards as a list of images: memory holds where each image is, not its pixels.

A sample is ``KEY.jpg`` + ``KEY.txt`` + ``KEY.json`` as img2dataset writes them (CC3M and similar
data sets), or ``KEY.jpg`` + ``KEY.json`` of a catalogue with attributes.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from train.data.image import BytesPicture, Picture, SlicePicture, TrainingImage, checked
from train.data.item import DataError, Item
from train.data.listing import list_shards, read_listing
from train.data.report import ReadReport
from ztcir_sdk.errors import ImageError
from ztcir_sdk.names import CATALOGUE_COLUMNS
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.sources.listing import tar_errors
from ztcir_sdk.sources.metadata import MAX_METADATA_BYTES
from ztcir_sdk.sources.reading import MAX_FILE_BYTES
from ztcir_sdk.sources.tar_reader import open_tar

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Suffixes of images, lower case; a sample with several uses the first in this order."""

TEXT_EXTENSIONS = ("txt", "json")

SAMPLE_ERRORS = (KeyError, ValueError, TypeError, RecursionError, ImageError)
"""What reading a broken sample raises."""

_MEMBER_NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")  # key and extension, as in webdataset
_CHUNK = 512  # samples that threads decode at a time


@dataclass
class _Sample:
    key: str
    pictures: dict[str, Picture] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    @property
    def extensions(self) -> set[str]:
        return {*self.pictures, *self.texts}

    def picture(self) -> Picture:
        for extension in IMAGE_EXTENSIONS:
            if extension in self.pictures:
                return self.pictures[extension]
        raise ImageError("no image")


def parse_item(key: str, texts: Mapping[str, bytes]) -> Item:
    """Return the item that a sample's ``txt`` and ``json`` describe.

    JSON that has ``articleType`` or ``baseColour`` belongs to a catalogue: it has its own id, and
    all attributes are required. Any other sample has its key as id; its caption is the text, or
    ``caption`` of the JSON, or empty.

    Raises:
        KeyError, ValueError: the JSON or the text is broken, or an attribute is missing.
    """
    for text in texts.values():
        bounded_text(text)
    fields = json.loads(texts["json"]) if "json" in texts else {}
    if not isinstance(fields, dict):
        raise ValueError("the JSON is not an object")
    if not fields.keys().isdisjoint((CATALOGUE_COLUMNS["type"], CATALOGUE_COLUMNS["colour"])):
        attributes = {name: str(fields[column]) for name, column in CATALOGUE_COLUMNS.items()}
        return Item(
            id=str(fields["id"]), pattern=None, caption=str(fields["caption"]), **attributes
        )
    caption = texts["txt"].decode() if "txt" in texts else fields.get("caption") or ""
    if not isinstance(caption, str):
        raise ValueError("the caption is not a text")
    caption = " ".join(caption.split())
    return Item(id=key, gender="", type="", colour="", pattern=None, caption=caption)


def bounded_text(text: bytes) -> bytes:
    """Return a text or JSON beside an image.

    Raises:
        ValueError: it has over 1 MB.
    """
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"its text has over {MAX_METADATA_BYTES // 1_000_000} MB")
    return text


def read_shard_list(
    paths: Sequence[Path], report: ReadReport, cache: Path | None = None
) -> list[TrainingImage]:
    """List the images of shards, in order; each is decoded once to check it.

    If an earlier shard has the same key, the image's id is ``SHARD/KEY``.

    Args:
        paths: tar archives, compressed or not.
        report: receives samples whose image, text or JSON is broken, and shards that are cut short.
        cache: folder of lists of uncompressed shards: a shard is decoded once for all processes
            and runs that share the folder, and processes divide the shards.

    Raises:
        DataError: a shard is missing.
    """
    from train.progress import progress_bar

    for path in paths:
        if not path.is_file():
            raise DataError(f"The shard {path} does not exist.")
    images: list[TrainingImage] = []
    seen: set[str] = set()
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with ThreadPoolExecutor(max(1, available_cores() // together)) as pool:
        read = partial(_read_shard, pool=pool)
        if cache is not None:
            list_shards([path for path in paths if path.suffix == ".tar"], cache, read)
        quiet = True if os.environ.get("RANK", "0") != "0" else None
        for path in progress_bar(paths, what="reading shards", unit="shard", disable=quiet):
            listed = None if cache is None else read_listing(path, cache)
            fresh, own = listed or read(path)
            report.add(own)
            images += (
                _renamed(image, path.stem) if _is_taken(image, seen) else image for image in fresh
            )
            seen.update(image.item.id for image in fresh)
    report.read += len(images)
    return images


def _read_shard(path: Path, pool: ThreadPoolExecutor) -> tuple[list[TrainingImage], ReadReport]:
    """Return the usable images of a shard, and what happened while it was read."""
    report = ReadReport()
    pending: list[tuple[_Sample, Item]] = []
    fresh: list[TrainingImage] = []
    for sample in _samples(path, report):
        try:
            pending.append((sample, parse_item(sample.key, sample.texts)))
        except SAMPLE_ERRORS as error:
            report.skip(sample.key, error)
        if len(pending) == _CHUNK:
            fresh += _decodable(pending, pool, report)
            pending = []
    fresh += _decodable(pending, pool, report)
    return _without_lost_json(fresh, report), report


def _without_lost_json(images: list[TrainingImage], report: ReadReport) -> list[TrainingImage]:
    """Leave out samples without attributes, if others in the shard have them."""
    if not any(image.item.type for image in images):
        return images
    for image in images:
        if not image.item.type:
            report.skip(image.item.id, KeyError("json"))
    return [image for image in images if image.item.type]


def _is_taken(image: TrainingImage, seen: set[str]) -> bool:
    # in a catalogue an id that occurs twice is an error, which `synthesise` reports
    return not image.item.type and image.item.id in seen


def _renamed(image: TrainingImage, shard: str) -> TrainingImage:
    return replace(image, item=replace(image.item, id=f"{shard}/{image.item.id}"))


def _decodable(
    pending: Sequence[tuple[_Sample, Item]], pool: ThreadPoolExecutor, report: ReadReport
) -> Iterator[TrainingImage]:
    results = pool.map(_checked_picture, [sample for sample, _ in pending])
    for (sample, item), result in zip(pending, results, strict=True):
        if isinstance(result, Exception):
            report.skip(sample.key, result)
        else:
            yield TrainingImage(item, replace(result, name=item.id))


def _checked_picture(sample: _Sample) -> Picture | Exception:
    try:
        return checked(sample.picture())
    except SAMPLE_ERRORS as error:
        return error


def _samples(path: Path, report: ReadReport) -> Iterator[_Sample]:
    """Yield the samples of a shard, in order, up to where it is cut short."""
    count, problem = 0, ""
    sample: _Sample | None = None
    usual: set[str] = set()
    plain = path.suffix == ".tar"
    try:
        with open_tar(path) as archive:
            for member in archive:
                named = _MEMBER_NAME.fullmatch(member.name)
                if not member.isreg() or named is None or Path(member.name).name.startswith("."):
                    continue
                key, extension = named.groups()
                if sample is None or key != sample.key:
                    if sample is not None:
                        count += 1
                        usual = sample.extensions
                        yield sample
                    sample = _Sample(key)
                _add(sample, extension.lower(), member, archive, path, plain=plain)
    except tar_errors() as error:
        problem = str(error)
    if not problem and plain and not has_end_mark(path):
        problem = "it has no end mark"  # cut between two files, which tarfile takes for the end
    if sample is not None and problem and not is_complete(sample.extensions, usual):
        report.skip(sample.key, "the shard ends inside it")
    elif sample is not None:
        count += 1
        yield sample
    if problem:
        report.notes.append(
            f"The shard {path} is damaged or cut short ({problem}); only its first {count} samples "
            "are read."
        )


def is_complete(extensions: set[str], usual: set[str]) -> bool:
    """Return whether the last sample before a cut has all its files.

    Args:
        extensions: files of the sample.
        usual: files of the sample before it; without one, an image and a text are required.
    """
    if usual:
        return usual <= extensions
    return not any(map(extensions.isdisjoint, (IMAGE_EXTENSIONS, TEXT_EXTENSIONS)))


def _add(
    sample: _Sample,
    extension: str,
    member: tarfile.TarInfo,
    archive: tarfile.TarFile,
    path: Path,
    *,
    plain: bool,
) -> None:
    if extension in IMAGE_EXTENSIONS and plain:
        picture = SlicePicture(sample.key, str(path), member.offset_data, member.size)
        sample.pictures[extension] = picture
    elif extension in (*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS):
        stream = archive.extractfile(member)
        limit = MAX_FILE_BYTES if extension in IMAGE_EXTENSIONS else MAX_METADATA_BYTES
        data = b"" if stream is None else stream.read(limit + 1)
        if len(data) < min(member.size, limit + 1):
            raise EOFError("unexpected end of data")
        if extension in IMAGE_EXTENSIONS:
            sample.pictures[extension] = BytesPicture(sample.key, data)
        else:
            sample.texts[extension] = data


def has_end_mark(path: Path) -> bool:
    """Return whether a tar file ends with the two empty blocks that close it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        return file.read() == bytes(1024)
