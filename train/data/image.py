"""A training image: what is known about it, and where its encoded picture is."""

from __future__ import annotations

import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, JpegImagePlugin

from train.data.item import Item
from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import ImageError

DRAWING_PREFIX = "drawing-"
"""Ids of code-drawn images begin with this."""

_QUICK_CHECK_PIXELS = 80_000_000  # larger images take the complete check, which limits the size


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """An image and what is known about it; the image is decoded only when it is needed."""

    item: Item
    load: Callable[[], Image.Image]

    @property
    def checksum(self) -> int:
        """CRC-32 of the encoded picture, which identifies cached features; 0 if unknown."""
        return getattr(self.load, "checksum", 0)

    @property
    def is_drawing(self) -> bool:
        """Whether the image was drawn by code."""
        return self.item.id.startswith(DRAWING_PREFIX)


@dataclass(frozen=True, slots=True)
class Picture(ABC):
    """An encoded image that can be read again; it can be pickled for worker processes."""

    name: str
    """Id of the item, for messages."""
    checksum: int = field(default=0, kw_only=True)
    """CRC-32 of the encoded image; 0 until `checked` computes it."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: it cannot be read.
        """

    def __call__(self) -> Image.Image:
        """Return the decoded image, RGB.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        try:
            return load_image(io.BytesIO(self.read()))
        except ImageError as error:
            raise ImageError(f"The image of item {self.name} cannot be used: {error}") from error


@dataclass(frozen=True, slots=True)
class BytesPicture(Picture):
    """An image in memory."""

    data: bytes

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class FilePicture(Picture):
    """An image file."""

    path: str

    def read(self) -> bytes:
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read ({error.strerror}).") from error
        except ValueError as error:  # it contains a NUL
            raise ImageError(f"the path is not valid ({error}).") from error


@dataclass(frozen=True, slots=True)
class SlicePicture(Picture):
    """An image inside a file: a member of an uncompressed tar archive."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read ({error.strerror}).") from error
        if len(data) < self.size:
            raise ImageError(f"{self.path} ends inside the image.")
        return data


@dataclass(frozen=True, slots=True)
class TablePicture(Picture):
    """An image in a cell of a Parquet file: bytes, or a struct that has a field ``bytes``.

    A struct without bytes may have ``path``, relative to ``root``: the `datasets` library writes
    images that are not embedded in this way.
    """

    path: str
    column: str
    group: int
    row: int
    """Number within the row group."""
    root: str

    def read(self) -> bytes:
        # reads a whole row group, so images are best read in order
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


@lru_cache(maxsize=2)
def _row_group(path: str, group: int, column: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        return table.read_row_group(group, columns=[column]).column(0)


PictureT = TypeVar("PictureT", bound=Picture)


def checked(picture: PictureT) -> PictureT:
    """Return the picture with its checksum, after decoding it once.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    data = picture.read()
    check_picture(data)
    return replace(picture, checksum=zlib.crc32(data))


def check_picture(data: bytes) -> None:
    """Decode an image once, so that a broken one is found before training begins.

    JPEGs are decoded at an eighth of their size, which reads all data at a fraction of the cost.

    Raises:
        ImageError: it cannot be decoded.
    """
    if data.startswith(b"\xff\xd8"):
        try:
            jpeg = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
            if jpeg.width * jpeg.height <= _QUICK_CHECK_PIXELS:
                jpeg.draft("RGB", (1, 1))
                jpeg.load()
                return
        except Exception:  # the complete check below reports it
            pass
    load_image(io.BytesIO(data))
