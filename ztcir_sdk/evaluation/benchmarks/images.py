"""Images of a benchmark: by name, as a file or a box in it; checked before any work is done."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from ztcir_sdk.errors import ImageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import listed
from ztcir_sdk.preprocess import load_image

__all__ = [
    "BenchmarkImage",
    "UnusableImagesError",
    "locate",
    "refuse_broken",
    "require_files",
    "require_whole",
]

Box = tuple[float, float, float, float]
"""Left, top, width and height, in pixels."""

DILATION = 0.7
"""By how much of its size GeneCIS enlarges a box on every side, before it is cut."""

_SUFFIXES = (".jpg", ".jpeg", ".png")
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TAIL = 8


class UnusableImagesError(ZtcirError):
    """Images are missing or broken, so nothing is measured.

    Attributes:
        problems: what is wrong with each of them, a line each.
    """

    def __init__(self, sentence: str, problems: Sequence[str]) -> None:
        """Keep the lines beside the sentence."""
        super().__init__(sentence)
        self.problems = list(problems)


@dataclass(frozen=True)
class BenchmarkImage:
    """An image that a benchmark's annotations name, or an object in it."""

    name: str
    """As the annotations call it."""
    path: Path
    box: Box | None = None
    """Of the object, where the image is one in a larger picture."""

    @cached_property
    def key(self) -> str:
        """Says which file's content this is: its name, size and time, and the box.

        Raises:
            FileNotFoundError: the file is missing.
        """
        status = self.path.stat()
        box = "" if self.box is None else " " + ",".join(f"{side:g}" for side in self.box)
        return f"{self.path.name} {status.st_size} {status.st_mtime_ns}{box}"

    def load(self) -> Image.Image:
        """Return the image: upright RGB.

        Raises:
            ImageError: the file cannot be used.
        """
        return self.cut(load_image(self.path))

    def cut(self, picture: Image.Image) -> Image.Image:
        """Return the part of the file's picture that the image is.

        A box is enlarged by `DILATION` of its size to the left and to the top, and made
        1 + `DILATION` times as wide and high, both as far as the picture goes; what is cut is
        padded to a square with black: what GeneCIS does (Vaze et al., CVPR 2023; its
        ``vaw_dataset.py``).
        """
        if self.box is None:
            return picture
        x, y, width, height = self.box
        left, top = max(0.0, x - DILATION * width), max(0.0, y - DILATION * height)
        right = min(float(picture.width), left + (1 + DILATION) * width)
        bottom = min(float(picture.height), top + (1 + DILATION) * height)
        sides = (round(left), round(top), round(right), round(bottom))
        if sides[2] <= sides[0] or sides[3] <= sides[1]:
            raise ImageError(
                f"The box {self.box} of {self.name} lies outside of {self.path}, so the "
                "annotations are of another version of the images: download both anew."
            )
        part = picture.crop(sides)
        if part.width == part.height:
            return part
        side = max(part.size)
        square = Image.new("RGB", (side, side))
        square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
        return square


def locate(folder: Path, names: Iterable[str]) -> Mapping[str, BenchmarkImage]:
    """Find the file of each name in a folder, whatever of .jpg, .jpeg and .png it ends in.

    A file that is missing is taken to end in .jpg; `require_files` tells.
    """
    there: set[str] = set()
    if folder.is_dir():
        with os.scandir(folder) as entries:
            there = {entry.name for entry in entries}
    found: dict[str, BenchmarkImage] = {}
    for name in names:
        suffix = next((one for one in _SUFFIXES if name + one in there), _SUFFIXES[0])
        found[name] = BenchmarkImage(name, folder / f"{name}{suffix}")
    return MappingProxyType(found)


def require_files(images: Iterable[BenchmarkImage], benchmark: str) -> None:
    """Refuse a benchmark whose images are not all there.

    Raises:
        UnusableImagesError: some are missing; they are counted and named.
    """
    paths = list(dict.fromkeys(image.path for image in images))
    missing: list[Path] = []
    for path in paths:
        try:
            there = stat.S_ISREG(path.stat().st_mode)
        except OSError:
            there = False
        if not there:
            missing.append(path)
    if missing:
        names = [path.name for path in missing]
        folders = dict.fromkeys(str(path.parent) for path in missing)
        raise UnusableImagesError(
            f"{len(missing)} of {len(paths)} images are missing from {listed(folders)} "
            f"({listed(names)}): nothing is measured without them; `ztcir eval {benchmark} "
            "--download-help` says where they come from.",
            [f"missing: {path}" for path in missing],
        )


def require_whole(
    images: Iterable[BenchmarkImage], progress: Callable[[int], None] | None = None
) -> None:
    """Refuse a benchmark some of whose images are broken, without decoding them all.

    A JPEG or PNG that begins and ends as it must is taken to be whole: what is cut short, empty
    or no image at all is found. What does not is decoded, since some sound files do not either.

    Args:
        images: what to look at.
        progress: called with how many files were looked at.

    Raises:
        UnusableImagesError: some are broken; they are counted and named.
    """
    paths = list(dict.fromkeys(image.path for image in images))
    broken: list[str] = []
    for number, path in enumerate(paths, start=1):
        if not _begins_and_ends(path):
            try:
                load_image(path)
            except ImageError as error:
                broken.append(str(error))
        if progress is not None:
            progress(number)
    refuse_broken(broken, len(paths))


def refuse_broken(broken: Sequence[str], total: int) -> None:
    """Refuse a benchmark some of whose images are broken.

    Args:
        broken: a sentence each.
        total: how many images there are.

    Raises:
        UnusableImagesError: there is any.
    """
    if broken:
        raise UnusableImagesError(
            f"{len(broken)} of {total} images are broken, and nothing is measured without them: "
            f"{'' if len(broken) == 1 else 'the first, '}{broken[0]}",
            broken,
        )


def _begins_and_ends(path: Path) -> bool:
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
