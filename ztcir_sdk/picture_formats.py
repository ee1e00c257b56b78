"""Which files hold pictures, by suffix, and what has to be installed to read them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath

from ztcir_sdk.errors import install_hint

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "PictureFormat",
    "format_of",
    "how_to_read",
    "is_image",
    "is_readable",
]


@dataclass(frozen=True)
class PictureFormat:
    """A file format that holds a picture, or pictures in time."""

    name: str
    suffixes: tuple[str, ...]
    """In lower case, with the dot."""
    package: str | None = None
    """The optional package that reads it, as it is imported; None: Pillow does."""
    extra: str | None = None
    """The extra of ztcir that installs `package`."""
    pillow_feature: str | None = None
    """What Pillow has to be built with, as `PIL.features` calls it."""
    is_video: bool = False


FORMATS = (
    PictureFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif")),
    PictureFormat("PNG", (".png",)),
    PictureFormat("WebP", (".webp",)),
    PictureFormat("BMP", (".bmp",)),
    PictureFormat("GIF", (".gif",)),
    PictureFormat("TIFF", (".tif", ".tiff")),
    PictureFormat("JPEG 2000", (".jp2",), pillow_feature="jpg_2000"),
    PictureFormat("AVIF", (".avif",), pillow_feature="avif"),
    PictureFormat("HEIF", (".heic", ".heif"), package="pi_heif", extra="formats"),
    PictureFormat(
        "camera RAW",
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
        package="rawpy",
        extra="formats",
    ),
    PictureFormat(
        "video",
        (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp"),
        package="av",
        extra="video",
        is_video=True,
    ),
)

_BY_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}

IMAGE_SUFFIXES = frozenset(suffix for suffix, one in _BY_SUFFIX.items() if not one.is_video)
"""Suffixes of image files, in lower case, readable here or not; see `is_readable`."""
VIDEO_SUFFIXES = frozenset(_BY_SUFFIX) - IMAGE_SUFFIXES


def format_of(path: str | PurePath) -> PictureFormat | None:
    """Return the format that a file's suffix stands for, or None."""
    return _BY_SUFFIX.get(PurePath(path).suffix.lower())


@lru_cache
def is_readable(one: PictureFormat) -> bool:
    """Return whether what reads a format is installed. Asked once in a process."""
    if one.pillow_feature is not None:
        from PIL import features

        # Unlike `features.check`, this does not warn where an older Pillow does not know it.
        return one.pillow_feature in features.get_supported()
    return one.package is None or importlib.util.find_spec(one.package) is not None


def is_image(path: str | PurePath) -> bool:
    """Return whether a file's suffix stands for an image format, readable here or not."""
    return PurePath(path).suffix.lower() in IMAGE_SUFFIXES


def how_to_read(one: PictureFormat) -> str:
    """Return what to install to read a format: "pip install 'pi-heif>=0.22' (ztcir[formats])"."""
    if one.extra is None:
        return "pip install --upgrade pillow"
    return install_hint(one.extra)
