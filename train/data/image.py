"""A training image: what is known of it, and how its picture is read when it is asked for."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image, JpegImagePlugin

from train.data.item import Item
from ztcir_sdk.errors import ImageError
from ztcir_sdk.preprocess import load_image

__all__ = [
    "DRAWING_PREFIX",
    "BytesPicture",
    "FilePicture",
    "Picture",
    "SlicePicture",
    "TablePicture",
    "TrainingImage",
    "check_picture",
    "checked",
]

DRAWING_PREFIX = "drawing-"
_SAFE_PIXELS = 80_000_000  # below every limit: larger ones take the slow, complete check


@dataclass(frozen=True)
class TrainingImage:
    """One image with what is known of it, decoded only when asked."""

    item: Item
    load: Callable[[], Image.Image]

    @property
    def checksum(self) -> int:
        """Of the encoded picture, by which features are told from another picture's; 0: unknown."""
        return getattr(self.load, "checksum", 0)

    @property
    def is_drawing(self) -> bool:
        """Whether it was drawn by code."""
        return self.item.id.startswith(DRAWING_PREFIX)


class Picture(Protocol):
    """Where an encoded picture lies. It can be pickled, so that worker processes can read it.

    Those here are dataclasses, and have a ``checksum`` once `checked` has seen them.
    """

    @property
    def name(self) -> str:
        """The item it shows, for messages."""

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            ImageError: it cannot be read.
        """

    def __call__(self) -> Image.Image:
        """The decoded picture, RGB.

        Raises:
            ImageError: it cannot be read or decoded.
        """


def _decode(picture: Picture) -> Image.Image:
    try:
        return load_image(io.BytesIO(picture.read()))
    except ImageError as error:
        raise ImageError(f"The picture of item {picture.name} cannot be used: {error}") from error


@dataclass(frozen=True, slots=True)
class BytesPicture:
    """A picture in memory."""

    name: str
    data: bytes
    checksum: int = 0

    def read(self) -> bytes:
        """The encoded picture."""
        return self.data

    def __call__(self) -> Image.Image:
        """The decoded picture."""
        return _decode(self)


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture that is a file."""

    name: str
    path: str
    checksum: int = 0

    def read(self) -> bytes:
        """The encoded picture."""
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read ({error.strerror}).") from error
        except ValueError as error:  # a NUL in it
            raise ImageError(f"its path cannot be one ({error}).") from error

    def __call__(self) -> Image.Image:
        """The decoded picture."""
        return _decode(self)


@dataclass(frozen=True, slots=True)
class SlicePicture:
    """A picture that is a part of a file: a member of a tar that is not compressed."""

    name: str
    path: str
    offset: int
    size: int
    checksum: int = 0

    def read(self) -> bytes:
        """The encoded picture."""
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read ({error.strerror}).") from error
        if len(data) < self.size:
            raise ImageError(f"{self.path} ends within it.")
        return data

    def __call__(self) -> Image.Image:
        """The decoded picture."""
        return _decode(self)


@dataclass(frozen=True, slots=True)
class TablePicture:
    """A picture in a cell of a Parquet file: bytes, or a struct with a field of bytes.

    A struct without bytes may say in ``path``, relative to ``root``, where its picture lies, as the
    `datasets` library saves what is not embedded.
    """

    name: str
    path: str
    column: str
    group: int
    row: int  # within the row group
    root: str
    checksum: int = 0

    def read(self) -> bytes:
        """The encoded picture; row groups are read whole, so rows are best asked for in order."""
        try:
            data = _row_group(self.path, self.group, self.column)[self.row].as_py()
        except (OSError, ValueError) as error:
            raise ImageError(f"{self.path} cannot be read ({error}).") from error
        if isinstance(data, dict):
            cell, data = data, data.get("bytes")
            if data is None and cell.get("path"):
                return FilePicture(self.name, str(Path(self.root) / cell["path"])).read()
        if not isinstance(data, bytes):
            raise ImageError(f"the cell of {self.column!r} is empty.")
        return data

    def __call__(self) -> Image.Image:
        """The decoded picture."""
        return _decode(self)


@lru_cache(maxsize=2)
def _row_group(path: str, group: int, column: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        return table.read_row_group(group, columns=[column]).column(0)


Lying = TypeVar("Lying", bound=BytesPicture | FilePicture | SlicePicture | TablePicture)


def checked(picture: Lying) -> Lying:
    """The picture with its checksum (CRC-32), after it has been read and decoded once.

    Raises:
        ImageError: it cannot be.
    """
    data = picture.read()
    check_picture(data)
    return replace(picture, checksum=zlib.crc32(data))


def check_picture(data: bytes) -> None:
    """Decode a picture once, so that a broken one is found before a run has begun.

    JPEGs are decoded at an eighth of their size, which reads all of their data for a fraction of
    the work.

    Raises:
        ImageError: it cannot be decoded.
    """
    if data.startswith(b"\xff\xd8"):
        try:
            jpeg = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
            if jpeg.width * jpeg.height <= _SAFE_PIXELS:
                jpeg.draft("RGB", (1, 1))
                jpeg.load()
                return
        except Exception:  # whatever it is, the complete check says it
            pass
    load_image(io.BytesIO(data))
