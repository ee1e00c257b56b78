"""One image of any source: upright, transparency on white, colour profile applied, 8-bit RGB."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from ztcir_sdk.decoding.camera_raw import is_raw, read_preview
from ztcir_sdk.decoding.colour import to_srgb
from ztcir_sdk.decoding.limits import (
    DECODE_BYTES,
    MAX_PIXELS,
    check_file,
    check_memory,
    check_metadata,
    check_size,
    estimated_bytes,
    reserved,
)
from ztcir_sdk.decoding.pillow_formats import is_heif, open_header
from ztcir_sdk.errors import (
    ImageError,
    MissingDecoderError,
    UsageError,
    first_line,
    install_hint,
    reason_of,
)
from ztcir_sdk.files import open_ordinary
from ztcir_sdk.picture_formats import format_of

__all__ = [
    "MAX_PIXELS",
    "SIDEWAYS",
    "ImageSource",
    "NamedBytes",
    "ScaledImage",
    "file_being_decoded",
    "load_image",
    "load_scaled",
    "load_small",
]

ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image.Image | NDArray[np.uint8]
)
"""A path, an encoded image (bytes or an open file), a PIL image, or RGB uint8 (H, W, 3)."""


Reduction: TypeAlias = Callable[[int, int], int]
"""(width, height) of an upright image -> by how much it may be reduced: 1, 2, 4 or 8."""


@dataclass(frozen=True)
class ScaledImage:
    """An image that may have been decoded at a smaller scale, and is not turned upright yet."""

    image: Image.Image
    """8-bit RGB, as it lies in the file."""
    extent: tuple[float, float]
    """Width and height of what the file shows, in pixels of `image`: at a half, 901 pixels are
    450.5, and `image` has 451."""
    reduction: int = 1
    """How many times smaller than in the file, in each direction."""
    turn: Image.Transpose | None = None
    """What turns it upright."""

    def upright(self) -> Image.Image:
        """Return the image, turned upright."""
        return self.image if self.turn is None else self.image.transpose(self.turn)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the file, upright."""
        width, height = (round(self.reduction * edge) for edge in self.extent)
        return (height, width) if self.turn in SIDEWAYS else (width, height)


class NamedBytes(io.BytesIO):
    """An encoded image in memory, with a name for error messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


STRIP_PIXELS = 4_000_000
"""Pixels of a wide format that are converted at a time, from images of four times as many on."""

_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""

SIDEWAYS = tuple(turn for orientation, turn in _TO_UPRIGHT.items() if orientation >= 5)
"""What swaps width and height."""

_file: ContextVar[str] = ContextVar("file_being_decoded", default="")


def file_being_decoded() -> str:
    """Return what this thread is decoding, so that a warning can name it; else an empty string."""
    return _file.get()


def load_image(
    source: ImageSource, *, name: str | None = None, upright: bool = True
) -> Image.Image:
    """Decode an image completely: upright, transparency filled with white, 8-bit RGB.

    An animation gives its first frame, or the current one of a PIL image. Grey levels of more than
    8 bits are scaled: mode "I;16" by its range, "I" and "F" by the smallest of [0, 1] (only "F"),
    [0, 255] and [0, 65535] that contains them, or else from their minimum to their maximum.

    Args:
        source: the image; see `ImageSource`. A PIL image is not changed, and the result does not
            share its pixels.
        name: the image's name in error messages; its path by default.
        upright: turn it as its EXIF says; False where positions refer to the pixels as stored.

    Raises:
        ImageError: it is missing, not an image, empty, damaged or cut short, or has over 100
            megapixels, which is found before decoding.
        UsageError: `source` is of another type, or an array of another shape or dtype.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "The array")
    if isinstance(source, Image.Image):
        name = name or getattr(source, "filename", "") or "The image"
        image = _turned(_decode(source, name), upright)
        return image.copy() if image is source else image
    if isinstance(source, (bytes, bytearray)):
        return _turned(_from_stream(io.BytesIO(source), name or "The image data"), upright)
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
        try:
            with open_ordinary(source) as stream:
                return _turned(_from_stream(stream, name), upright)
        except FileNotFoundError as error:
            raise ImageError(f"{name} does not exist: check the path.") from error
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ImageError(
                f"{name} cannot be read ({reason_of(error)}): check the path."
            ) from error
    if hasattr(source, "read"):
        name = name or str(getattr(source, "name", "The image file"))
        return _turned(_from_stream(source, name), upright)
    raise UsageError(
        f"An image must be a path, bytes, a PIL image or an array, not {type(source).__name__}."
    )


def load_scaled(data: bytes, reduction: Reduction, *, name: str) -> ScaledImage:
    """Decode an encoded image as `load_image` does, a JPEG at a smaller scale where that will do.

    libjpeg then computes fewer pixels from each block of 8 x 8: at a quarter, 12 megapixels take a
    third of the time.

    Args:
        data: the file's content.
        reduction: by how much an image of this width and height may be reduced.
        name: the image's name in error messages.

    Raises:
        ImageError: as in `load_image`.
    """
    return _from_stream(io.BytesIO(data), name, reduction)


def load_small(data: bytes, side: int, *, name: str) -> Image.Image:
    """Decode an encoded image to a small copy, whose longest side has at most `side` pixels.

    Raises:
        ImageError: as in `load_image`.
    """

    def reduction(width: int, height: int) -> int:
        # twice the pixels that are wanted, so that resizing smooths them
        return max((by for by in (2, 4, 8) if max(width, height) >= 2 * by * side), default=1)

    image = load_scaled(data, reduction, name=name).upright()
    image.thumbnail((side, side))
    return image


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"{name} must be RGB, uint8 of shape (H, W, 3), not {array.dtype} {array.shape}."
        )
    check_size((array.shape[1], array.shape[0]), name)
    return Image.fromarray(array)


def _turned(decoded: ScaledImage, upright: bool) -> Image.Image:
    return decoded.upright() if upright else decoded.image


def _upright_from_stream(stream: IO[bytes], name: str) -> Image.Image:
    return _from_stream(stream, name).upright()


def _from_stream(stream: IO[bytes], name: str, reduction: Reduction | None = None) -> ScaledImage:
    token = _file.set(name)
    try:
        stream = _seekable(stream)
        stream.seek(0)
        prefix = stream.read(32)
        if is_raw(prefix, name):
            preview = read_preview(stream, name, _upright_from_stream)
            return ScaledImage(preview, preview.size)
        try:
            check_file(stream, prefix, name)
            image = open_header(stream, prefix)
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # Pillow's parsers raise whatever a damaged header leads them to
            raise _damaged(name, error) from error
        if image is None:
            one = format_of(name)
            if one is not None and one.is_video:
                raise ImageError(
                    f"{name} is a video: name one of its frames, as in {name}@12.0s for the one at "
                    "12 seconds."
                )
            if is_heif(prefix):
                raise MissingDecoderError(
                    f"{name} is HEIF, which needs pi-heif: {install_hint('formats')}."
                )
            raise ImageError(f"{name} is not an image of a known format: remove or replace it.")
        return _decode(image, name, reduction)
    finally:
        _file.reset(token)


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    """Return a stream that can be sought: itself, or what is left of it, read whole."""
    try:
        if stream.seekable():
            return stream
    except AttributeError:  # only what decoding needs
        return stream
    return io.BytesIO(stream.read())


def _decode(image: Image.Image, name: str, reduction: Reduction | None = None) -> ScaledImage:
    check_metadata(image, name)
    is_jpeg = image.format in ("JPEG", "MPO")
    # The EXIF of a JPEG is known before decoding; that of other formats only later.
    turn = _turn_of(image, name) if is_jpeg else None
    stored = image.size
    scale = _jpeg_scale(image, turn, reduction)
    if scale > 1:
        cast("Any", image).draft(None, (stored[0] // scale, stored[1] // scale))
        scale = 1 if image.size == stored else scale
    check_size(image.size, name)
    needed = check_memory(image, name, turned=turn is not None, stored=stored)
    with reserved(needed):
        _load(image, name)
        if not is_jpeg:
            turn = _check_loaded(image, name)
        image = _as_rgb(image, name)
    extent = image.size if scale == 1 else (stored[0] / scale, stored[1] / scale)
    return ScaledImage(image, extent, scale, turn)


def _load(image: Image.Image, name: str) -> None:
    """Decode the pixels."""
    try:
        image.load()
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:  # a picture within the picture
        raise ImageError(f"{name} is too large ({error}): scale it down first.") from error
    except Exception as error:  # Pillow's decoders raise whatever damaged data leads them to
        raise _damaged(name, error) from error


def _check_loaded(image: Image.Image, name: str) -> Image.Transpose | None:
    """Check what some formats know only after loading; return what turns the image upright.

    Pillow itself turns a TIFF, and a PNG may have its EXIF at the end.
    """
    check_size(image.size, name)
    check_metadata(image, name)
    turn = _turn_of(image, name)
    check_memory(image, name, turned=turn is not None)
    return turn


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return a loaded image's pixels as RGB."""
    try:
        return _converted(image)
    except MemoryError:
        raise
    except Exception as error:  # such as Pillow's assertion for a damaged palette
        raise ImageError(
            f"{name} cannot be converted from {image.mode} to RGB ({first_line(error)}): convert "
            "it first."
        ) from error


def _converted(image: Image.Image) -> Image.Image:
    """Convert a loaded image to sRGB and RGB; a large one strip by strip, with the same result."""
    plain = image.mode == "RGB" and not image.info.get("icc_profile")
    if plain or image.width * image.height <= 4 * STRIP_PIXELS:
        return _to_rgb(to_srgb(image), _grey_range(image))
    levels = _grey_range(image)
    canvas = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        canvas.paste(_to_rgb(to_srgb(strip), levels), (0, top))
    return canvas


def _damaged(name: str, error: Exception) -> ImageError:
    why = first_line(error)
    if why.startswith("decoder error "):  # a number of Pillow's
        why = "its data are broken"
    return ImageError(f"{name} is damaged or cut short ({why}): replace it.")


def _jpeg_scale(
    image: Image.Image, turn: Image.Transpose | None, reduction: Reduction | None
) -> int:
    """Return by how much libjpeg shall reduce an image: 1, 2, 4 or 8; only a JPEG can be.

    One that is too large is reduced until it is not. A progressive one keeps all coefficients in
    memory whatever its scale, so it is left to be refused.
    """
    width, height = image.size
    if image.format not in ("JPEG", "MPO") or width * height == 0:
        return 1
    each = estimated_bytes(image, turned=turn is not None) / (width * height)
    most = min(MAX_PIXELS, int(DECODE_BYTES / each))
    least = 1
    if width * height > most:
        if image.info.get("progressive"):
            return 1
        fits = (n for n in (2, 4, 8) if (width // n) * (height // n) <= most)
        least = next(fits, 1)
    if reduction is None:
        return least
    upright = (height, width) if turn in SIDEWAYS else (width, height)
    return max(least, reduction(*upright))


def _turn_of(image: Image.Image, name: str) -> Image.Transpose | None:
    """Return what the EXIF says would turn an image upright; None without a usable EXIF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # Pillow's parser raises many kinds for damaged EXIF
        warnings.warn(f"{name}: unreadable EXIF, image taken as upright ({error}).", stacklevel=2)
        return None
    return _TO_UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
    """Convert a loaded image of any mode; an RGB image is returned itself."""
    if levels is not None:
        return _deep_grey_to_rgb(image, *levels)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast("Image.Image", ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))
    if image.has_transparency_data:
        # Pillow converts premultiplied "La" only to "LA"
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return _on_white(rgba, rgba.getchannel("A"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_range(image: Image.Image) -> tuple[float, float] | None:
    """Return the levels of "I;16", "I" or "F" that become black and white; None in other modes.

    See `load_image` for the ranges.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    low, high = math.inf, -math.inf
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        levels = np.asarray(strip).astype(np.float32)
        finite = levels[np.isfinite(levels)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        low = high = 0.0
    ranges = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    whole = next((top for top in ranges if low >= 0 and high <= top), None)
    return (low, high) if whole is None else (0.0, float(whole))


def _deep_grey_to_rgb(image: Image.Image, low: float, high: float) -> Image.Image:
    """Scale the levels of "I;16", "I" or "F" to 8 bits."""
    levels = np.asarray(image).astype(np.float32)
    scaled = (levels - low) * (255 / ((high - low) or 1))
    grey = np.rint(np.nan_to_num(scaled, nan=0).clip(0, 255)).astype(np.uint8)
    rgb = Image.fromarray(grey).convert("RGB")
    transparent_level = image.info.get("transparency")
    if isinstance(transparent_level, int):
        return _on_white(rgb, Image.fromarray(np.uint8(255) * (levels != transparent_level)))
    return rgb


def _on_white(image: Image.Image, opacity: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=opacity)
    return canvas
