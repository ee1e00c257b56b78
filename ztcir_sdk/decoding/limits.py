"""What one picture may take: memory by its header, and work by the parts of its file.

A header of some bytes can ask for gigabytes, and a file of some kilobytes for minutes. Memory is
estimated before a decoder starts, and reserved, so that many threads together stay within a limit.
"""

from __future__ import annotations

import io
import struct
import threading
from typing import IO

from PIL import Image

from ztcir_sdk.errors import ImageError

__all__ = [
    "DECODE_BYTES",
    "MAX_PIXELS",
    "check_file",
    "check_memory",
    "check_metadata",
    "check_size",
    "estimated_bytes",
    "reserved",
]

MAX_PIXELS = 100_000_000
"""Images of more pixels are decoded at a reduced scale if they are JPEGs, and refused otherwise."""
DECODE_BYTES = 600_000_000
"""Memory that decoding one image may take."""
ALL_BYTES = 1_200_000_000
"""Memory that images which are decoded at once may take together, unless one alone takes more."""

JPEG_SEGMENT_BYTES = 32_000_000
"""Bytes before a JPEG's pixels: EXIF, previews, profiles."""
JPEG_SEGMENTS = 2_000
JPEG_SCANS = 100
"""Passes over a progressive JPEG's pixels; cameras and editors write about ten."""
JPEG_SCANNED_PIXELS = 1_500_000_000
"""Pixels times passes."""
TIFF_VALUE_BYTES = 64_000_000
"""Bytes of the values of a TIFF's or an EXIF block's tags, which may all be the same ones."""
RLE_PIXELS = 10_000_000
"""Pixels, and bytes, of a run-length encoded BMP, which Pillow decodes in Python."""
PROFILE_BYTES = 16_000_000
"""Bytes of a colour profile."""

_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes of a pixel in Pillow's memory; 4 in all other modes."""
_DECODER_BYTES = {"WEBP": 12, "AVIF": 8, "HEIF": 8, "JPEG2000": 16}
"""Bytes of a pixel that a format's decoder holds beside Pillow's."""
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_VALUE_BYTES |= {16: 8, 17: 8, 18: 8}

_gate = threading.Condition()
_reserved = 0


class reserved:  # noqa: N801  (a context manager; as a generator it would take twice the time)
    """Wait until `size` bytes may be used for decoding; they count as used inside the block."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> None:
        global _reserved
        with _gate:
            while _reserved and _reserved + self._size > ALL_BYTES:
                _gate.wait()
            _reserved += self._size

    def __exit__(self, *_: object) -> None:
        global _reserved
        with _gate:
            _reserved -= self._size
            _gate.notify_all()


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse an image without pixels, or with too many.

    Raises:
        ImageError: it has none, or over 100 megapixels.
    """
    width, height = size
    if width * height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}): replace it.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels, over the limit of "
            f"{MAX_PIXELS // 1_000_000} megapixels: scale it down first."
        )


def estimated_bytes(
    image: Image.Image, *, turned: bool = False, stored: tuple[int, int] | None = None
) -> int:
    """Return the memory that decoding an opened image and converting it to RGB takes.

    Args:
        image: with its header read.
        turned: whether it will be turned upright, which needs a second copy.
        stored: width and height in the file, if the image is decoded at a smaller scale.
    """
    each = _MODE_BYTES.get(image.mode, 4) + _DECODER_BYTES.get(image.format or "", 0)
    if image.mode != "RGB" or image.info.get("icc_profile"):
        each += 4  # the converted copy
    if turned:
        each += 4
    needed = each * image.width * image.height
    if image.info.get("progressive"):
        width, height = stored or image.size
        needed += 6 * width * height  # libjpeg keeps all coefficients, of three colours
    return needed


def check_memory(
    image: Image.Image,
    name: str,
    *,
    turned: bool = False,
    stored: tuple[int, int] | None = None,
) -> int:
    """Return what `estimated_bytes` returns.

    Raises:
        ImageError: it is over the limit.
    """
    needed = estimated_bytes(image, turned=turned, stored=stored)
    if needed > DECODE_BYTES:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, and decoding them would take "
            f"{needed / 1e6:.0f} MB, over the limit of {DECODE_BYTES / 1e6:.0f} MB: scale it down "
            "first."
        )
    return needed


def check_file(stream: IO[bytes], prefix: bytes, name: str) -> None:
    """Refuse a file that would take too much while its header is read, or too long to decode.

    Args:
        stream: a seekable file.
        prefix: its first 32 bytes.
        name: what errors call it.

    Raises:
        ImageError: it would.
    """
    if prefix.startswith(b"\xff\xd8"):
        _check_jpeg(stream, name)
    elif prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        _check_webp(prefix, name)
    elif prefix[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        stream.seek(0)
        _check_tags(stream, 0, name)
    elif prefix.startswith(b"BM") and len(prefix) >= 32:
        _check_bmp(stream, prefix, name)


def check_metadata(image: Image.Image, name: str) -> None:
    """Refuse an image whose EXIF or colour profile would take too much to read.

    Raises:
        ImageError: it would.
    """
    exif, profile = image.info.get("exif"), image.info.get("icc_profile")
    if isinstance(exif, bytes):
        start = 6 if exif.startswith(b"Exif\0\0") else 0
        _check_tags(io.BytesIO(exif), start, name)
    if isinstance(profile, bytes) and len(profile) > PROFILE_BYTES:
        raise _too_much(name, "its colour profile", len(profile), PROFILE_BYTES)


def _too_much(name: str, what: str, size: int, limit: int) -> ImageError:
    return ImageError(
        f"{name} is refused: {what} has {size / 1e6:.0f} MB, over the limit of "
        f"{limit / 1e6:.0f} MB. Save it again without its metadata."
    )


def _check_webp(prefix: bytes, name: str) -> None:
    """Pillow makes canvases of a WebP's size when it opens it."""
    kind, data = prefix[12:16], prefix[20:]
    if kind == b"VP8X" and len(data) >= 10:
        width = int.from_bytes(data[4:7], "little") + 1
        height = int.from_bytes(data[7:10], "little") + 1
    elif kind == b"VP8L" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(data) >= 10:
        width, height = (edge & 0x3FFF for edge in struct.unpack("<HH", data[6:10]))
    else:
        return
    check_size((max(width, 1), max(height, 1)), name)
    needed = (4 + _DECODER_BYTES["WEBP"]) * width * height
    if needed > DECODE_BYTES:
        raise ImageError(
            f"{name} has {width} x {height} pixels, and decoding them as WebP would take "
            f"{needed / 1e6:.0f} MB, over the limit of {DECODE_BYTES / 1e6:.0f} MB: scale it down "
            "first."
        )


def _check_bmp(stream: IO[bytes], prefix: bytes, name: str) -> None:
    header, width, height = struct.unpack("<Iii", prefix[14:26])
    if header < 40 or prefix[30] not in (1, 2):  # run-length encoded
        return
    size = stream.seek(0, io.SEEK_END)
    if max(abs(width * height), size) > RLE_PIXELS:
        raise ImageError(
            f"{name} is a run-length encoded BMP of {abs(width)} x {abs(height)} pixels, which "
            "takes too long to decode: save it as PNG."
        )


def _check_jpeg(stream: IO[bytes], name: str) -> None:
    """Count a JPEG's segments, and its passes over the pixels."""
    stream.seek(2)
    total = count = pixels = components = 0
    progressive = False
    exif = b""
    while True:
        start = stream.read(4)
        if len(start) < 4 or start[0] != 0xFF:
            return  # Pillow says what is wrong with it
        if start[1] in (0xFF, 0x01, 0x00) or 0xD0 <= start[1] <= 0xD8:  # padding, or no length
            stream.seek(-3 if start[1] == 0xFF else -2, io.SEEK_CUR)
            count += 1
            if count > JPEG_SEGMENTS * 1000:
                raise ImageError(f"{name} is refused: it is padded without end. Replace it.")
            continue
        length = int.from_bytes(start[2:], "big")
        if start[1] == 0xDA:
            break
        count, total = count + 1, total + length
        if total > JPEG_SEGMENT_BYTES:
            raise _too_much(name, "what it holds beside its pixels", total, JPEG_SEGMENT_BYTES)
        if count > JPEG_SEGMENTS:
            raise ImageError(
                f"{name} is refused: it has over {JPEG_SEGMENTS} segments of metadata. Save it "
                "again without them."
            )
        content = stream.read(max(0, length - 2))
        if start[1] == 0xE1 and content.startswith(b"Exif\0\0"):
            exif += content[6:]
        if 0xC0 <= start[1] <= 0xCF and start[1] not in (0xC4, 0xC8, 0xCC) and len(content) > 5:
            pixels = int.from_bytes(content[1:3], "big") * int.from_bytes(content[3:5], "big")
            components, progressive = content[5], start[1] in (0xC2, 0xC6, 0xCA, 0xCE)
    if exif:
        _check_tags(io.BytesIO(exif), 0, name)
    if progressive or stream.read(1) != bytes([components]):  # else one pass over all colours
        _check_scans(stream, pixels, name)


def _check_scans(stream: IO[bytes], pixels: int, name: str) -> None:
    scans, last = 1, b""
    while block := stream.read(1 << 20):
        # In compressed data 0xFF is followed by 0, so these two bytes are always a marker.
        block = last + block
        end = block.find(b"\xff\xd9")
        scans += block.count(b"\xff\xda", 0, end if end >= 0 else len(block))
        if scans > JPEG_SCANS or (scans > 1 and scans * pixels > JPEG_SCANNED_PIXELS):
            raise ImageError(
                f"{name} is refused: it has {scans} or more passes over its pixels, which would "
                "take too long. Save it again as an ordinary JPEG."
            )
        if end >= 0:
            return
        last = b"\xff" if block.endswith(b"\xff") else b""


def _check_tags(stream: IO[bytes], start: int, name: str) -> None:
    """Add up the values of the first directory of a TIFF file or an EXIF block.

    Many tags may share the same bytes, so that they need more memory than the file has.
    """
    stream.seek(start)
    header = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 8:
        return
    big = header[2:4] in (b"+\0", b"\0+")
    if big and len(header) < 16:
        return
    [offset] = struct.unpack(f"{order}{'Q' if big else 'I'}", header[8:16] if big else header[4:8])
    try:
        stream.seek(start + offset)
    except (OSError, OverflowError, ValueError):
        return
    number = stream.read(8 if big else 2)
    if len(number) < (8 if big else 2):
        return
    [count] = struct.unpack(f"{order}{'Q' if big else 'H'}", number)
    size, layout = (20, f"{order}HHQ") if big else (12, f"{order}HHI")
    entries = stream.read(min(count, 1 << 16) * size)
    total = 0
    for place in range(0, len(entries) - size + 1, size):
        _, kind, values = struct.unpack_from(layout, entries, place)
        total += _VALUE_BYTES.get(kind, 0) * values
    if total > TIFF_VALUE_BYTES:
        raise _too_much(name, "its metadata", total, TIFF_VALUE_BYTES)
