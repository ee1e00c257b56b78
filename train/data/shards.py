"""Webdataset shards as a list of images, of which only the place in the shard is kept in memory.

Read are ``KEY.jpg`` + ``KEY.txt`` + ``KEY.json`` as img2dataset writes them (CC3M and the like),
and ``KEY.jpg`` + ``KEY.json`` of a catalogue with attributes.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm
from webdataset.tariterators import base_plus_ext

from train.data.image import BytesPicture, SlicePicture, TrainingImage, checked
from train.data.item import DataError, Item
from train.data.report import ReadReport
from ztcir_sdk.errors import ImageError
from ztcir_sdk.names import CATALOGUE_COLUMNS
from ztcir_sdk.runtime.cores import available_cores

__all__ = [
    "BROKEN",
    "PICTURES",
    "is_closed",
    "is_whole",
    "item_of",
    "read_shard_list",
]

PICTURES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of a sample's picture, in lower case; the first that a sample has counts."""

BROKEN = (KeyError, ValueError, TypeError, RecursionError, ImageError)
"""What a broken sample raises."""

_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)
_CHUNK = 512  # samples that are checked side by side


@dataclass
class _Sample:
    key: str
    pictures: dict[str, BytesPicture | SlicePicture] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    @property
    def suffixes(self) -> set[str]:
        return {*self.pictures, *self.texts}

    def picture(self) -> BytesPicture | SlicePicture:
        """The sample's picture.

        Raises:
            ImageError: it has none.
        """
        for suffix in PICTURES:
            if suffix in self.pictures:
                return self.pictures[suffix]
        raise ImageError("no picture")


def item_of(key: str, texts: Mapping[str, bytes]) -> Item:
    """What a sample's ``txt`` and ``json`` say of it.

    JSON with ``articleType`` or ``baseColour`` is a catalogue's, with its own id and attributes,
    and has to be complete. Any other sample is called by its key, and has a caption: its text, or
    ``caption`` of its JSON, or none.

    Raises:
        KeyError, ValueError: the JSON or the text is broken, or a catalogue's field is missing.
    """
    fields = json.loads(texts["json"]) if "json" in texts else {}
    if not isinstance(fields, dict):
        raise ValueError("its JSON is no object")
    if not fields.keys().isdisjoint((CATALOGUE_COLUMNS["type"], CATALOGUE_COLUMNS["colour"])):
        known = {name: str(fields[column]) for name, column in CATALOGUE_COLUMNS.items()}
        return Item(id=str(fields["id"]), pattern=None, caption=str(fields["caption"]), **known)
    caption = texts["txt"].decode() if "txt" in texts else fields.get("caption") or ""
    return Item(id=key, gender="", type="", colour="", pattern=None, caption=_one_line(caption))


def _one_line(caption: object) -> str:
    if not isinstance(caption, str):
        raise ValueError("its caption is no text")
    return " ".join(caption.split())


def read_shard_list(paths: Sequence[Path], report: ReadReport) -> list[TrainingImage]:
    """List the images of shards, in their order; each picture is decoded once, to see that it can.

    Samples without a usable picture, or whose text or JSON is broken, and what follows the cut of
    a shard that ends early, go into ``report``. A key that an earlier shard had too is written
    ``SHARD/KEY``.

    Raises:
        DataError: a shard is missing.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"The shard {path} does not exist.")
    images: list[TrainingImage] = []
    seen: set[str] = set()
    with ThreadPoolExecutor(available_cores()) as pool:
        for path in tqdm(paths, desc="reading shards", unit="shard", disable=None):
            pending: list[tuple[_Sample, Item]] = []
            fresh: list[TrainingImage] = []
            for sample in _samples(path, report):
                try:
                    pending.append((sample, item_of(sample.key, sample.texts)))
                except BROKEN as error:
                    report.skip(sample.key, error)
                if len(pending) == _CHUNK:
                    fresh += _checked(pending, pool, report)
                    pending = []
            fresh = _alike(fresh + list(_checked(pending, pool, report)), report)
            images += (
                _renamed(image, path.stem) if _is_taken(image, seen) else image for image in fresh
            )
            seen.update(image.item.id for image in fresh)
    report.read += len(images)
    return images


def _alike(images: list[TrainingImage], report: ReadReport) -> list[TrainingImage]:
    """In a catalogue's shard a sample without attributes has lost its JSON."""
    if not any(image.item.type for image in images):
        return images
    for image in images:
        if not image.item.type:
            report.skip(image.item.id, KeyError("json"))
    return [image for image in images if image.item.type]


def _is_taken(image: TrainingImage, seen: set[str]) -> bool:
    # two items of a catalogue with one id are an error that triplets report
    return not image.item.type and image.item.id in seen


def _renamed(image: TrainingImage, shard: str) -> TrainingImage:
    return replace(image, item=replace(image.item, id=f"{shard}/{image.item.id}"))


def _checked(
    pending: Sequence[tuple[_Sample, Item]], pool: ThreadPoolExecutor, report: ReadReport
) -> Iterator[TrainingImage]:
    verdicts = pool.map(_verdict, [sample for sample, _ in pending])
    for (sample, item), verdict in zip(pending, verdicts, strict=True):
        if isinstance(verdict, Exception):
            report.skip(sample.key, verdict)
        else:
            yield TrainingImage(item, replace(verdict, name=item.id))


def _verdict(sample: _Sample) -> BytesPicture | SlicePicture | Exception:
    try:
        return checked(sample.picture())
    except BROKEN as error:
        return error


def _samples(path: Path, report: ReadReport) -> Iterator[_Sample]:
    """The samples of one shard, in its order, up to where it breaks off."""
    count, problem = 0, ""
    sample: _Sample | None = None
    usual: set[str] = set()
    plain = path.suffix == ".tar"
    try:
        with tarfile.open(path, "r:" if plain else "r:*") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # which it would keep, all
                key, suffix = base_plus_ext(member.name)
                if not member.isreg() or key is None or Path(member.name).name.startswith("."):
                    continue
                if sample is None or key != sample.key:
                    if sample is not None:
                        count += 1
                        usual = sample.suffixes
                        yield sample
                    sample = _Sample(key)
                _add(sample, suffix.lower(), member, archive, path, plain=plain)
    except _TAR_ERRORS as error:
        problem = str(error)
    if not problem and plain and not is_closed(path):
        problem = "it has no end mark"  # cut between two files, which tarfile takes for the end
    if sample is not None and problem and not is_whole(sample.suffixes, usual):
        report.skip(sample.key, "the shard ends within it")
    elif sample is not None:
        count += 1
        yield sample
    if problem:
        report.notes.append(
            f"The shard {path} is damaged or cut short ({problem}); "
            f"what follows its first {count} samples is lost."
        )


def is_whole(suffixes: set[str], usual: set[str]) -> bool:
    """Whether the last sample before a cut has what the one before it has, or picture and text."""
    if usual:
        return usual <= suffixes
    return not suffixes.isdisjoint(PICTURES) and not suffixes.isdisjoint(("txt", "json"))


def _add(
    sample: _Sample,
    suffix: str,
    member: tarfile.TarInfo,
    archive: tarfile.TarFile,
    path: Path,
    *,
    plain: bool,
) -> None:
    if suffix in PICTURES and plain:
        place = SlicePicture(sample.key, str(path), member.offset_data, member.size)
        sample.pictures[suffix] = place
    elif suffix in (*PICTURES, "txt", "json"):
        stream = archive.extractfile(member)
        data = b"" if stream is None else stream.read()
        if len(data) < member.size:
            raise EOFError("unexpected end of data")
        if suffix in PICTURES:
            sample.pictures[suffix] = BytesPicture(sample.key, data)
        else:
            sample.texts[suffix] = data


def is_closed(path: Path) -> bool:
    """Whether a tar file ends with the two empty blocks that close it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        return file.read() == bytes(1024)
