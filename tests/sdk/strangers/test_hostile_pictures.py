"""Pictures of strangers: what a small file may not do to memory, time, or other programs."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ztcir_sdk.decoding import decode, limits, load_image
from ztcir_sdk.errors import ImageError


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def grey_png(width: int, height: int) -> bytes:
    """A grey PNG of 16 bits, all zeros, in few bytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 2 * width)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def directory(tags: int, values: int, start: bytes = b"II*\0") -> bytes:
    """A TIFF directory whose tags all have the same `values` bytes."""
    entries = b"".join(struct.pack("<HHII", tag, 7, values, 8) for tag in range(1, tags + 1))
    return start + struct.pack("<IH", 8, tags) + entries + b"\0" * 4 + bytes(1000)


# --- programs and files --------------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) (w) file closefile showpage\n"


@pytest.mark.parametrize("content", [EPS, b"%PDF-1.4", b"\x80\x00\x00\x00GIF", b"P6 1 1 255 aaa"])
def test_only_documented_formats_are_opened(content: bytes) -> None:
    with pytest.raises(ImageError, match="is not an image of a known format"):
        load_image(content.ljust(80, b"\n"), name="x.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_ordinary_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ImageError, match=r"cannot be read \(it is not an ordinary file\)"):
        load_image(path)


# --- memory --------------------------------------------------------------------------------------


def webp(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "content",
    [
        webp(b"VP8X", bytes(4) + (16_382).to_bytes(3, "little") * 2),
        webp(b"VP8L", b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + bytes(10)),
        webp(b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(9)),
        webp(b"VP8X", bytes(4) + (7_999).to_bytes(3, "little") * 2),
    ],
)
def test_a_webp_is_measured_before_it_is_opened(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "open_header", lambda *_: pytest.fail("was opened"))
    with pytest.raises(ImageError, match="over the limit"):
        load_image(content)


@pytest.mark.parametrize(
    ("mode", "size", "fits"),
    [
        ("RGB", (10_000, 10_000), True),
        ("L", (10_000, 10_000), True),
        ("I;16", (10_000, 10_000), True),
        ("RGBA", (10_000, 7_000), True),
        ("RGBA", (10_000, 8_000), False),
        ("CMYK", (10_000, 8_000), False),
    ],
)
def test_memory_is_what_is_limited(mode: str, size: tuple[int, int], fits: bool) -> None:
    class Header:
        format, info = "TIFF", dict[str, object]()
        width, height = size

    header = Header()
    header.mode = mode  # type: ignore[attr-defined]
    if fits:
        limits.check_memory(header, "x")  # type: ignore[arg-type]
    else:
        with pytest.raises(ImageError, match=r"would take \d+ MB, over the limit of 600 MB"):
            limits.check_memory(header, "x")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
def test_a_wide_grey_image_takes_little_memory() -> None:
    content = grey_png(6000, 5000)

    def peak() -> int:
        text = Path("/proc/self/status").read_text()
        [line] = [line for line in text.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    load_image(grey_png(100, 100))
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    assert load_image(content).size == (6000, 5000)
    assert peak() - before < 350e6  # 2 + 4 bytes a pixel, and strips


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16", "La", "RGBa")


@pytest.mark.parametrize("mode", MODES)
def test_strips_give_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (90, 50)).astype(np.uint16))
    elif mode in ("I", "F"):
        image = Image.fromarray(
            rng.integers(-50, 900, (90, 50)).astype("i4" if mode == "I" else "f4")
        )
    else:
        pixels = rng.integers(0, 256, (90, 50, 4), dtype=np.uint8)
        rgba = Image.fromarray(pixels)
        image = (
            rgba
            if mode == "RGBA"
            else rgba.convert(
                {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
                if mode not in ("CMYK", "YCbCr", "1", "P")
                else "RGB"
            ).convert(mode)
        )
    whole = load_image(image)
    monkeypatch.setattr(decode, "STRIP_PIXELS", 333)
    assert load_image(image).tobytes() == whole.tobytes()


def test_images_decoded_at_once_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALL_BYTES", 100)
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def work(size: int) -> None:
        with limits.reserved(size):
            with lock:
                inside.append(size)
                most.append(sum(inside))
            threading.Event().wait(0.005)
            with lock:
                inside.remove(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in [40, 30, 50, 60, 20] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 100
    with limits.reserved(1000):  # one alone is never stuck
        pass


# --- time ----------------------------------------------------------------------------------------


def with_segments(jpeg: bytes, marker: int, content: bytes, count: int) -> bytes:
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment * count + jpeg[2:]


@pytest.fixture
def jpeg() -> bytes:
    return encoded(Image.effect_noise((40, 30), 50).convert("RGB"), "JPEG")


@pytest.mark.parametrize(("content", "count"), [(b"x" * 65_000, 600), (b"x", 2_100)])
def test_segments_of_a_jpeg_are_counted(jpeg: bytes, content: bytes, count: int) -> None:
    with pytest.raises(ImageError, match="is refused: "):
        load_image(with_segments(jpeg, 0xE5, content, count))
    assert load_image(with_segments(jpeg, 0xE5, content, 40)).size == (40, 30)


def test_passes_over_a_progressive_jpeg_are_counted() -> None:
    image = Image.effect_noise((400, 300), 50).convert("RGB")
    content = encoded(image, "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    scan = content[start:-2]
    assert load_image(content).size == (400, 300)
    with pytest.raises(ImageError, match="passes over its pixels"):
        load_image(content[:-2] + scan * 2000 + b"\xff\xd9")


def test_passes_of_a_thumbnail_or_a_second_image_are_not_counted(jpeg: bytes) -> None:
    exif = b"Exif\0\0" + b"\xff\xda" * 500
    assert load_image(with_segments(jpeg, 0xE1, exif, 1) + b"\xff\xda" * 500).size == (40, 30)


@pytest.mark.parametrize("place", ["tiff", "jpeg", "png", "webp"])
def test_tags_that_share_their_bytes_are_added_up(jpeg: bytes, place: str) -> None:
    hostile = directory(5000, 50_000)
    image = Image.new("RGB", (8, 8))
    content = {
        "tiff": lambda: hostile,
        "jpeg": lambda: with_segments(jpeg, 0xE1, b"Exif\0\0" + hostile, 1),
        "png": lambda: encoded(image, "PNG", exif=hostile),
        "webp": lambda: encoded(image, "WEBP", exif=hostile),
    }[place]()
    with pytest.raises(ImageError, match="its metadata has 250 MB, over the limit of 64 MB"):
        load_image(content)


def test_a_run_length_encoded_bmp_is_small() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 256, 0)
    content = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + b"\0\0" * 99
    with pytest.raises(ImageError, match="run-length encoded BMP"):
        load_image(content)


@pytest.mark.parametrize("start", [b"\xff", b"\xff\xd0", b"\xff\x01"])
def test_padding_of_a_jpeg_ends(jpeg: bytes, start: bytes) -> None:
    with pytest.raises(ImageError):
        load_image(b"\xff\xd8" + start * 3_000_000 + jpeg[2:])


# --- anything ------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], bytes]] = {
    form: lambda form=form: encoded(Image.effect_noise((24, 16), 60).convert("RGB"), form)  # type: ignore[misc]
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
}


@pytest.mark.parametrize("form", list(MAKERS))
def test_changed_bytes_give_an_image_or_a_sentence(form: str) -> None:
    whole, rng = MAKERS[form](), random.Random(form)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.choice((0, 255, 128, rng.randrange(256)))
        with contextlib.suppress(ImageError):
            load_image(bytes(content[: rng.choice((len(content), rng.randrange(len(content))))]))
