"""The preview that a camera stores in its RAW files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import PurePath
from typing import IO, Any, BinaryIO, cast

from PIL import Image

from ztcir_sdk.errors import ImageError, MissingDecoderError, install_hint
from ztcir_sdk.picture_formats import format_of

__all__ = ["is_raw", "read_preview"]

_MAGIC = (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILMCCD-RAW")
_TURNS = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.ROTATE_90,
    6: Image.Transpose.ROTATE_270,
}
"""How LibRaw says the camera was held -> what turns the preview upright."""


def is_raw(prefix: bytes, name: str) -> bool:
    """Whether a file is camera RAW, by its first 16 bytes, or by its name where it is a TIFF."""
    is_cr2 = prefix[:4] == b"II*\0" and prefix[8:10] == b"CR"
    if prefix.startswith(_MAGIC) or is_cr2 or prefix[4:12] == b"ftypcrx ":
        return True
    if prefix[:4] not in (b"II*\0", b"MM\0*"):
        return False
    one = format_of(PurePath(os.fspath(name)))
    return one is not None and one.name == "camera RAW"


def read_preview(
    stream: IO[bytes], name: str, decode: Callable[[IO[bytes], str], Image.Image]
) -> Image.Image:
    """Decode the embedded preview of a RAW file, upright.

    Args:
        stream: the RAW file.
        name: what errors call it.
        decode: decodes an ordinary image file, such as the preview.

    Raises:
        ImageError: the file is damaged or has no preview.
        MissingDecoderError: rawpy is not installed.
    """
    try:
        import rawpy
    except ImportError as error:
        raise MissingDecoderError(
            f"{name} is camera RAW, which needs rawpy: {install_hint('formats')}."
        ) from error
    stream.seek(0)
    try:
        with rawpy.imread(cast("BinaryIO", stream)) as raw:
            flip = int(raw.sizes.flip)
            preview: Any = raw.extract_thumb()
    except rawpy.LibRawError as error:  # also: there is no preview
        raise ImageError(
            f"{name} has no preview that can be read ({_reason(error)}): convert it to JPEG first."
        ) from error
    if preview.format == rawpy.ThumbFormat.JPEG:
        image = decode(io.BytesIO(preview.data), name)
        if _is_turned(preview.data):  # by its own EXIF
            return image
    else:
        image = _from_bitmap(preview.data, name)
    turn = _TURNS.get(flip)
    return image if turn is None else image.transpose(turn)


def _is_turned(jpeg: bytes) -> bool:
    """Whether the EXIF of a preview, which could be decoded, says how it is turned."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as header:
            return bool(header.getexif().get(0x0112, 1) != 1)
    except Exception:  # it is no JPEG, or Pillow's parser raises one of many kinds
        return False


def _from_bitmap(levels: Any, name: str) -> Image.Image:
    """Return a preview that is stored as an array (H, W, colours); one colour is grey."""
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[:, :, 0]
    try:
        return Image.fromarray(levels).convert("RGB")
    except (TypeError, ValueError, KeyError) as error:  # TypeError: no such array is an image
        raise ImageError(
            f"{name} has a preview with {levels.dtype} values of shape {levels.shape}, which "
            "are not an image: convert it to JPEG first."
        ) from error


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
