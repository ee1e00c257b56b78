"""Camera RAW files, made byte by byte: a DNG with a preview, as cameras write it."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

__all__ = ["make_dng"]


def _directory(entries: dict[int, tuple[int, bytes]], offset: int) -> bytes:
    """A TIFF directory at an offset: tag -> (type, values), the long values behind it."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}
    behind = offset + 2 + 12 * len(entries) + 4
    head, tail = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        count = len(values) // sizes[kind]
        if len(values) <= 4:
            field = values.ljust(4, b"\0")
        else:
            field = struct.pack("<I", behind + len(tail))
            tail += values + b"\0" * (len(values) % 2)
        head += struct.pack("<HHI", tag, kind, count) + field
    return head + struct.pack("<I", 0) + tail


def make_dng(preview: Image.Image | None, *, orientation: int = 1) -> bytes:
    """A DNG of 64x48 sensor values, with a JPEG preview if one is given."""
    width, height = 64, 48
    sensor = np.random.default_rng(0).integers(0, 4096, (height, width), dtype=np.uint16)
    jpeg = io.BytesIO()
    if preview is not None:
        preview.save(jpeg, "JPEG", quality=95)

    def short(*values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"<{len(values)}H", *values)

    def long(*values: int) -> tuple[int, bytes]:
        return 4, struct.pack(f"<{len(values)}I", *values)

    def text(value: str) -> tuple[int, bytes]:
        return 2, value.encode() + b"\0"

    def directories(raw_at: int, jpeg_at: int, second_at: int) -> tuple[bytes, bytes]:
        matrix = struct.pack("<18i", *(n for v in (1, 0, 0, 0, 1, 0, 0, 0, 1) for n in (v, 1)))
        shown = preview.size if preview is not None else (width, height)
        common = {271: text("Maker"), 272: text("Model"), 274: short(orientation)}
        dng = {
            50706: (1, bytes((1, 4, 0, 0))),
            50708: text("Maker Model"),
            50721: (10, matrix),
            50778: short(21),
            50728: (5, struct.pack("<6I", 1, 1, 1, 1, 1, 1)),
        }
        sensor_entries = {
            254: long(0), 256: long(width), 257: long(height), 258: short(16), 259: short(1),
            262: short(32803), 273: long(raw_at), 277: short(1), 278: long(height),
            279: long(sensor.nbytes), 33421: short(2, 2), 33422: (1, bytes((0, 1, 1, 2))),
            50714: short(0), 50717: long(4095),
        }  # fmt: skip
        if preview is None:
            return _directory({**sensor_entries, **common, **dng}, 8), b""
        first = {
            254: long(1), 256: long(shown[0]), 257: long(shown[1]), 258: short(8, 8, 8),
            259: short(7), 262: short(6), 273: long(jpeg_at), 277: short(3),
            278: long(shown[1]), 279: long(len(jpeg.getvalue())), 330: long(second_at),
        }  # fmt: skip
        return _directory({**first, **common, **dng}, 8), _directory(sensor_entries, second_at)

    first, second = directories(0, 0, 0)
    second_at = 8 + len(first)
    raw_at = second_at + len(second)
    first, second = directories(raw_at, raw_at + sensor.nbytes, second_at)
    return b"II*\0" + struct.pack("<I", 8) + first + second + sensor.tobytes() + jpeg.getvalue()
