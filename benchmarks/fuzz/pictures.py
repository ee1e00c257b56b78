"""Pictures: every documented format, as encoders and cameras write it, and changed by chance."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from benchmarks.fuzz.dng import make_dng
from benchmarks.fuzz.mutations import mutated_bytes
from benchmarks.provenance import ROOT
from ztcir_sdk.decoding.decode import NamedBytes, load_image
from ztcir_sdk.errors import ImageError

__all__ = ["make_heic", "make_picture", "make_raw", "read_heic", "read_picture", "read_raw"]

RAW_SUFFIXES = (".dng", ".cr2", ".nef", ".arw", ".raf")


def make_picture(rng: random.Random) -> bytes:
    """Return a picture's file."""
    known = _samples()
    if rng.random() < 0.03:
        return _bomb(rng)
    return mutated_bytes(rng, rng.choice(known), known)


def read_picture(file: Path, rng: random.Random) -> str:
    """Decode a picture; return "read" or "refused"."""
    try:
        source = file if rng.random() < 0.5 else NamedBytes(file.read_bytes(), file.name)
        image = load_image(source)
    except ImageError:
        return "refused"
    assert image.mode == "RGB"
    return "read"


def make_heic(rng: random.Random) -> bytes:
    """Return an HEIC file."""
    return mutated_bytes(rng, _heic(), [_heic(), _samples()[1]])


def read_heic(file: Path, rng: random.Random) -> str:
    """Decode an HEIC file with pi-heif; return "read" or "refused"."""
    return read_picture(file, rng)


def make_raw(rng: random.Random) -> bytes:
    """Return a camera RAW file."""
    known = _raw_samples()
    data = mutated_bytes(rng, rng.choice(known), [*known, _samples()[0], _samples()[16]])
    if rng.random() < 0.1:  # what other cameras write first
        magic = rng.choice((b"II*\0\x10\0\0\0CR", b"IIU\0", b"IIRO", b"MMOR", b"FUJIFILMCCD-RAW"))
        data = magic + data[len(magic) :]
    return data


def read_raw(file: Path, rng: random.Random) -> str:
    """Decode the preview of a camera RAW file with rawpy; return "read" or "refused"."""
    # A DNG is a TIFF, and is camera RAW by its name alone.
    return read_picture(file.rename(file.with_suffix(rng.choice(RAW_SUFFIXES))), rng)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@cache
def _samples() -> tuple[bytes, ...]:
    """Return small pictures of every format that Pillow writes."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (24, 32, 4), dtype=np.uint8))
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(rng.integers(0, 65536, (24, 32)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = [
        _encoded(rgb, "JPEG"),
        _encoded(rgb, "JPEG", progressive=True, exif=exif, icc_profile=profile),
        _encoded(grey, "JPEG", quality=20),
        _encoded(rgb.convert("CMYK"), "JPEG"),
        _encoded(rgb, "PNG", icc_profile=profile),
        _encoded(rgba, "PNG", exif=exif),
        _encoded(grey.convert("1"), "PNG"),
        _encoded(rgb.quantize(16), "PNG", transparency=3),
        _encoded(deep, "PNG"),
        _encoded(rgb, "WEBP", exif=exif),
        _encoded(rgba, "WEBP", lossless=True),
        _encoded(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90), rgb]),
        _encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]),
        _encoded(rgb, "BMP"),
        _encoded(rgb.quantize(16), "BMP"),
        _rle_bmp(),
        _encoded(rgb, "TIFF", compression="tiff_lzw"),
        _encoded(rgb, "TIFF", compression="tiff_deflate", exif=exif),
        _encoded(deep, "TIFF"),
        _encoded(grey.convert("1"), "TIFF", compression="group4"),
        _encoded(rgba, "TIFF"),
        _encoded(rgb, "JPEG2000"),
    ]
    if "AVIF" in Image.SAVE or _can_write("AVIF", rgb):
        found.append(_encoded(rgb, "AVIF", speed=10))
    return tuple(found)


@cache
def _heic() -> bytes:
    """Return an HEIC of a telephone's kind; pi-heif reads the format and does not write it."""
    return (ROOT / "tests" / "support" / "photo.heic").read_bytes()


@cache
def _raw_samples() -> tuple[bytes, ...]:
    preview = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    return make_dng(preview), make_dng(preview, orientation=6), make_dng(None)


def _can_write(form: str, image: Image.Image) -> bool:
    try:
        _encoded(image, form)
    except (KeyError, OSError):
        return False
    return True


def _rle_bmp() -> bytes:
    rows = b"".join(bytes((32, 5)) + b"\0\0" for _ in range(24)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 32, 24, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows


def _bomb(rng: random.Random) -> bytes:
    """Return a small file that claims to be large, or to have many parts."""
    edge = rng.choice((3_000, 9_000, 10_000, 16_383, 65_535, 1 << 30))
    kind = rng.randrange(6)
    if kind == 0:
        width = min(edge, 16_383) - 1
        data = bytes(4) + width.to_bytes(3, "little") * 2
        body = b"WEBPVP8X" + struct.pack("<I", len(data)) + data
        return b"RIFF" + struct.pack("<I", len(body)) + body
    if kind == 1:
        depth, colour = rng.choice(((16, 0), (16, 6), (8, 3), (8, 2), (1, 0)))
        header = struct.pack(">IIBBBBB", edge, rng.choice((1, 100, edge)), depth, colour, 0, 0, 0)
        data = zlib.compress(bytes(3_000_000), 9)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
            for name, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        )
    if kind == 2:
        tags = rng.choice((10, 1000, 5000))
        entries = b"".join(struct.pack("<HHII", tag, 7, edge, 8) for tag in range(1, tags + 1))
        return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(3000)
    jpeg = _samples()[1]
    if kind == 3:
        scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
        return jpeg[:-2] + scan * rng.choice((5, 50, 500, 3000)) + b"\xff\xd9"
    if kind == 4:
        segment = b"\xff\xe5" + struct.pack(">H", 20_002) + bytes(20_000)
        return jpeg[:2] + segment * rng.choice((1, 50, 90)) + jpeg[2:]
    place = jpeg.index(b"\xff\xc2") + 5
    size = struct.pack(">HH", min(edge, 65_535), rng.choice((100, 9000, 65_535)))
    return jpeg[:place] + size + jpeg[place + 4 :]
