"""A benchmark's images: files, or boxes in files, that are checked before anything is encoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import ImageError, ZtcirError

Box = tuple[float, float, float, float]
"""Left, top, width and height, in pixels."""

DILATION = 0.7
"""Fraction of a box's size by which GeneCIS enlarges it before cropping."""

_SHOWN = 5
"""Names in a sentence, at most."""
_SUFFIXES = (".jpg", ".jpeg", ".png")
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TAIL = 8


class UnusableImagesError(ZtcirError):
    """Images are missing or broken, so nothing is measured.

    Attributes:
        problems: a line for each of them.
    """

    def __init__(self, sentence: str, problems: Sequence[str]) -> None:
        """Keep the lines beside the sentence."""
        super().__init__(sentence)
        self.problems = list(problems)


@dataclass(frozen=True)
class BenchmarkImage:
    """An image that a benchmark's annotations name, or an object in an image."""

    name: str
    """Name in the annotations."""
    path: Path
    box: Box | None = None
    """The object's box in the file's image; None for the whole image."""
    upright: bool = True
    """Whether the image is turned as its EXIF says; False where a box refers to stored pixels."""

    @cached_property
    def key(self) -> str:
        """Identifies the content: the file's name, size and time, the box, and if it is turned.

        Raises:
            FileNotFoundError: the file is missing.
        """
        status = self.path.stat()
        box = "" if self.box is None else " " + ",".join(f"{side:g}" for side in self.box)
        turned = "" if self.upright else " as stored"
        return f"{self.path.name} {status.st_size} {status.st_mtime_ns}{box}{turned}"

    def load(self) -> Image.Image:
        """Return the image, RGB.

        Raises:
            ImageError: the file cannot be used.
        """
        return self.crop(load_image(self.path, upright=self.upright))

    def crop(self, whole: Image.Image) -> Image.Image:
        """Return this image, given the whole image of its file.

        A box is enlarged by `DILATION` of its size to the left and to the top, and made
        1 + `DILATION` times as wide and high, within the whole image. The crop is padded to a
        square with black. GeneCIS does the same (Vaze et al., CVPR 2023; its ``vaw_dataset.py``).

        Raises:
            ImageError: the box lies outside of the whole image.
        """
        if self.box is None:
            return whole
        x, y, width, height = self.box
        left, top = max(0.0, x - DILATION * width), max(0.0, y - DILATION * height)
        right = min(float(whole.width), left + (1 + DILATION) * width)
        bottom = min(float(whole.height), top + (1 + DILATION) * height)
        sides = (round(left), round(top), round(right), round(bottom))
        if sides[2] <= sides[0] or sides[3] <= sides[1]:
            raise ImageError(
                f"The box {self.box} of {self.name} lies outside of {self.path}, so annotations "
                "and images are of different versions: download both again."
            )
        crop = whole.crop(sides)
        if crop.width == crop.height:
            return crop
        side = max(crop.size)
        square = Image.new("RGB", (side, side))
        square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
        return square


def locate(folder: Path, names: Iterable[str]) -> Mapping[str, BenchmarkImage]:
    """Return an image for each name: its file in a folder, with suffix .jpg, .jpeg or .png.

    The path of a missing file ends in .jpg; `require_files` reports it.
    """
    files: set[str] = set()
    if folder.is_dir():
        with os.scandir(folder) as entries:
            files = {entry.name for entry in entries}
    images: dict[str, BenchmarkImage] = {}
    for name in names:
        suffix = next((one for one in _SUFFIXES if name + one in files), _SUFFIXES[0])
        images[name] = BenchmarkImage(name, folder / f"{name}{suffix}")
    return MappingProxyType(images)


def require_files(images: Iterable[BenchmarkImage], benchmark: str) -> None:
    """Require that the file of every image exists.

    Raises:
        UnusableImagesError: some are missing; the error counts and names them.
    """
    paths = list(dict.fromkeys(image.path for image in images))
    missing = [path for path in paths if not _is_file(path)]
    if missing:
        folders = dict.fromkeys(str(path.parent) for path in missing)
        raise UnusableImagesError(
            f"{len(missing)} of {len(paths)} images are missing from {first_names(folders)} "
            f"({first_names([path.name for path in missing])}), so nothing is measured: `ztcir "
            f"eval {benchmark} --download-help` shows where to get them.",
            [f"missing: {path}" for path in missing],
        )


def require_intact(
    images: Iterable[BenchmarkImage], progress: Callable[[int], None] | None = None
) -> None:
    """Require that no image is obviously broken, without decoding them all.

    A file with the first and last bytes of a JPEG or a PNG counts as intact. Any other file is
    decoded, because some intact files end in other bytes. This finds empty and truncated files, and
    files that are no image.

    Args:
        images: the images to check.
        progress: called with the number of files checked so far.

    Raises:
        UnusableImagesError: some are broken; the error counts and names them.
    """
    paths = list(dict.fromkeys(image.path for image in images))
    broken: list[str] = []
    for number, path in enumerate(paths, start=1):
        if not _has_both_ends(path):
            try:
                load_image(path)
            except ImageError as error:
                broken.append(str(error))
        if progress is not None:
            progress(number)
    refuse_broken(broken, len(paths))


def refuse_broken(broken: Sequence[str], total: int) -> None:
    """Raise an error if there are broken images.

    Args:
        broken: a sentence for each broken image.
        total: number of all images.

    Raises:
        UnusableImagesError: `broken` is not empty.
    """
    if broken:
        raise UnusableImagesError(
            f"{len(broken)} of {total} images are broken, so nothing is measured: "
            f"{'' if len(broken) == 1 else 'the first, '}{broken[0]}",
            broken,
        )


def first_names(names: Collection[str]) -> str:
    """Return the first few names, for a sentence."""
    first = list(names)[:_SHOWN]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _has_both_ends(path: Path) -> bool:
    """Return whether a file begins and ends like a JPEG or like a PNG."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_TAIL)
            stream.seek(-min(_TAIL, len(start)), os.SEEK_END)
            end = stream.read()
    except OSError:
        return False
    if start.startswith(_JPEG_START):
        return end.endswith(_JPEG_END)
    return start == _PNG_START and end == _PNG_END
