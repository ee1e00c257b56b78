"""A folder with everything that real collections hold, and an encoder that needs no bundle."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
from icc_profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO
from numpy.typing import NDArray
from PIL import Image, ImageCms

from benchmarks.fuzz.dng import make_dng

NAMES = (
    "Screenshot 2024-01-01 at 9.41.00\u202fAM.png",
    "no\u00a0break.png",
    "ideographic\u3000space.png",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "soft\u00adhyphen.png",
    "-rf.png",
    "tab\tand newline\n.png",
    "quote'\" $HOME `id`.png",
)


class QuartersEncoder:
    """Means of an image's quarters as its vector."""

    dim = 12
    image_tower = "ab" * 32
    precision = "fp32"

    def __init__(self) -> None:
        self.encoded = 0

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        self.encoded += len(images)
        rows = [np.asarray(one.resize((2, 2)), dtype=np.float64).ravel() + 1 for one in images]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


def picture(seed: int, form: str = "PNG", **options: object) -> bytes:
    """Return an encoded image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def write(path: Path, data: bytes) -> Path:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_video(path: Path, seconds: int = 3) -> Path:
    """Write a video whose colour changes each second: red, green, blue."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10 * seconds):
            pixels = np.zeros((48, 64, 3), dtype=np.uint8)
            pixels[..., number // 10 % 3] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_archive(path: Path, members: list[tuple[str, bytes | tuple[bytes, str]]]) -> Path:
    """Write a tar; a member is its content, or a type and the name that it links to."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, value in members:
            member = tarfile.TarInfo(name)
            if isinstance(value, tuple):
                member.type, member.linkname = value
                archive.addfile(member)
            else:
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return path


def write_messy_collection(folder: Path) -> list[Path]:
    """Fill a folder, and return what to index: the folder, and the archives in it."""
    _write_images(folder)
    _write_texts(folder)
    _write_damaged(folder)
    _write_left_out(folder)
    write_video(folder / "clip.mp4")
    for number, name in enumerate(NAMES):
        if sys.platform != "win32":
            write(folder / "names" / name, picture(100 + number))
    if sys.platform == "linux":
        write(Path(os.fsdecode(os.fsencode(folder / "names") + b"/caf\xe9.png")), picture(120))
        os.mkfifo(folder / "pipe.jpg")
    if sys.platform != "win32":
        (folder / "offline").symlink_to(folder.parent / "unmounted")
        (folder / "lost.jpg").symlink_to("nothing.jpg")
        (folder / "circle").symlink_to("circle")
    return [folder, *_write_archives(folder)]


def _write_images(folder: Path) -> None:
    formats = {".jpg": "JPEG", ".jpe": "JPEG", ".JFIF": "JPEG", ".png": "PNG", ".webp": "WEBP"}
    formats |= {".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".jp2": "JPEG2000", ".avif": "AVIF"}
    for number, (suffix, form) in enumerate(formats.items()):
        write(folder / "good" / f"one{suffix}", picture(number, form))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write(folder / "good" / "profile.jpg", picture(20, "JPEG", icc_profile=profile))
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8), (10, 200, 30, 0)).save(stream, "JPEG")
    write(folder / "good" / "cmyk.jpg", stream.getvalue())
    for name, profile in (("p3", DISPLAY_P3), ("adobe", ADOBE_RGB), ("prophoto", PROPHOTO)):
        write(folder / "wide" / f"{name}.jpg", picture(21, "JPEG", icc_profile=profile))
    write(folder / "phone" / "photo.heic", (Path(__file__).parent / "photo.heic").read_bytes())
    write(folder / "phone" / "photo.heif", (Path(__file__).parent / "photo.heic").read_bytes())
    write(folder / "camera" / "photo.dng", make_dng(Image.new("RGB", (32, 24), "teal")))
    write(folder / "camera" / "no preview.dng", make_dng(None))
    write(folder / "panorama.jpg", large_jpeg())


def large_jpeg() -> bytes:
    """Return a grey JPEG of 101 megapixels: one block of zeros after the other, written by hand."""
    stream = io.BytesIO()
    Image.new("L", (16, 8), 128).save(stream, "JPEG", quality=50)
    small = stream.getvalue()
    start = small.index(b"\xff\xc0")
    size = struct.pack(">HH", 10_080, 10_040)  # height and width, in multiples of eight
    scan = small.index(b"\xff\xda")
    scan += 2 + struct.unpack(">H", small[scan + 2 : scan + 4])[0]
    # Each block is the code of "same mean" and the code of "no more": 00 and 1010.
    blocks = 10_080 * 10_040 // 64
    bits = 0b001010_001010_001010_001010.to_bytes(3, "big") * -(-blocks // 4)
    return small[: start + 5] + size + small[start + 9 : scan] + bits + b"\xff\xd9"


def _write_texts(folder: Path) -> None:
    """JSON beside pictures in plain folders."""
    for number, name in enumerate(("one", "list", "large", "deep", "digits")):
        write(folder / "texts" / f"{name}.png", picture(60 + number))
    write(folder / "texts" / "one.json", b'{"caption": "one", "similarity": NaN}')
    write(folder / "texts" / "list.json", b"[1]")
    write(folder / "texts" / "large.json", b'{"a": "' + b"x" * 1_100_000 + b'"}')
    write(folder / "texts" / "deep.json", b'{"a":' * 300 + b"1" + b"}" * 300)
    write(folder / "texts" / "digits.JSON", b'{"a": ' + b"9" * 5000 + b"}")
    write(folder / "texts" / "service.jpg", picture(70, "JPEG"))
    write(folder / "texts" / "service.jpg.json", b'{"taken": "2024"}')


def _write_damaged(folder: Path) -> None:
    write(folder / "bad" / "empty.jpg", b"")
    write(folder / "bad" / "text.png", b"no image")
    write(folder / "bad" / "cut.jpg", picture(30, "JPEG")[:200])
    write(folder / "bad" / "bomb.bmp", b"BM" + bytes(16) + b"\x7f\xff\xff\x0f" * 20)
    write(folder / "bad" / "cut.tif", picture(31, "TIFF", compression="tiff_lzw")[:300])
    for suffix in ("heic", "cr2", "dng"):
        write(folder / "bad" / f"phone.{suffix}", b"no image either")
    write(folder / "bad" / "cut.mp4", b"no video")


def _write_left_out(folder: Path) -> None:
    for name in ("notes.txt", "layers.psd", "README", "a.json", "b.JSON", "music.mp3"):
        write(folder / "others" / name, b"{}")
    write(folder / ".hidden.jpg", picture(40))
    write(folder / "._one.jpg", b"AppleDouble")
    write(folder / ".DS_Store", b"")
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"):
        write(folder / name / "deep" / "thumb.jpg", picture(41))
    for name in ("node_modules", ".thumbnails", "Thumbs", ".@__thumb", ".git", "__MACOSX"):
        write(folder / "good" / name / "thumb.jpg", picture(42))


def _write_archives(folder: Path) -> list[Path]:
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("nan.jpg", picture(50, "JPEG")),
        ("nan.json", b'{"similarity": NaN, "a": [Infinity, -Infinity, 1e999], "b": 1}'),
        ("surrogate.png", picture(51)),
        ("surrogate.json", json.dumps({"caption": "\ud800 \U0001f600"}).encode()),
        ("deep.png", picture(52)),
        ("deep.json", deep),
        ("large.png", picture(53)),
        ("large.json", b'{"a": "' + b"x" * 1_100_000 + b'"}'),
        ("list.png", picture(54)),
        ("list.json", b"[1, 2]"),
        ("digits.png", picture(55)),
        ("digits.json", b'{"a": ' + b"9" * 5000 + b"}"),
        ("hard.png", (tarfile.LNKTYPE, "nan.jpg")),
        ("sub/soft.png", (tarfile.SYMTYPE, "../nan.jpg")),
        ("lost.png", (tarfile.LNKTYPE, "nothing.png")),
        ("../above.png", picture(56)),
        ("bad.png", b"no image"),
        ("label.cls", b"7"),
        ("__MACOSX/._nan.jpg", b"AppleDouble"),
        ("lonely.json", b"{}"),
    ]
    archives = [write_archive(folder / f"shard.{suffix}", members) for suffix in ("tar", "tar.gz")]
    whole = archives[0].read_bytes()
    archives.append(write(folder / "cut.tar", whole[: whole.index(b"deep.png") + 700]))
    archives.append(write(folder / "no archive.tgz", b"no archive"))
    return archives
