"""ICC profiles of wide colour spaces, made from their published primaries (D50) and gamma."""

from __future__ import annotations

import struct

__all__ = ["ADOBE_RGB", "DISPLAY_P3", "PROPHOTO", "make_profile"]


def make_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """A matrix profile, ICC version 2: XYZ of red, green and blue, and one gamma."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    name = b"a test's colour space\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 78
    white = (0.9642, 1.0, 0.8249)
    tags = {b"desc": description + b"\0" * (-len(description) % 4), b"wtpt": xyz(white)}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, primaries), strict=True))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", offset + len(data), len(value))
        data += value
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(data), b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    header += (
        b"\0" * 12 + b"acsp" + b"\0" * 28 + struct.pack(">3i", *(round(v * 65536) for v in white))
    )
    return header.ljust(128, b"\0") + table + data


PROPHOTO = make_profile(
    ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.8249)), 1.8
)
ADOBE_RGB = make_profile(
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 2.2
)
DISPLAY_P3 = make_profile(
    ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)), 2.2
)
