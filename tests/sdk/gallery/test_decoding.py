"""Image files of every documented format, colour profile and size, and what must not happen."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icc_profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO
from PIL import Image, ImageCms, features

from benchmarks.fuzz.dng import make_dng
from ztcir_sdk import Retriever
from ztcir_sdk.decoding import MAX_PIXELS, file_being_decoded, load_image
from ztcir_sdk.drawings.drawings import draw, training_drawings
from ztcir_sdk.errors import ImageError, MissingDependencyError


def photo(number: int = 0) -> Image.Image:
    return draw(training_drawings(number + 1, seed=3)[number])


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(float) - np.asarray(other).astype(float)).mean())


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "file_format"),
    [
        ("jpg", "JPEG"),
        ("jfif", "JPEG"),
        ("jpe", "JPEG"),
        ("png", "PNG"),
        ("webp", "WEBP"),
        ("gif", "GIF"),
        ("bmp", "BMP"),
        ("tiff", "TIFF"),
        ("jp2", "JPEG2000"),
        ("avif", "AVIF"),
    ],
)
def test_every_documented_format_is_read(tmp_path: Path, suffix: str, file_format: str) -> None:
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(encoded(photo(), file_format))
    found = load_image(path)
    assert found.mode == "RGB"
    assert difference(found, photo()) < 6


def test_heic_is_read_by_its_content(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    data = (Path(__file__).parents[2] / "support" / "photo.heic").read_bytes()
    for name in ("photo.heic", "photo.jpg"):
        (tmp_path / name).write_bytes(data)
        assert difference(load_image(tmp_path / name), photo()) < 8


def test_heic_without_its_decoder_is_a_sentence_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ztcir_sdk.decoding import pillow_formats

    monkeypatch.setattr(pillow_formats, "_load_decoder", lambda name: name == "JPEG")
    data = (Path(__file__).parents[2] / "support" / "photo.heic").read_bytes()
    with pytest.raises(MissingDependencyError, match=r"HEIF, which needs pi-heif: .*formats"):
        load_image(data)
    with pytest.raises(ImageError):  # a collection goes on after it
        load_image(data)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (5, 5)), (3, (-5, -5)), (6, (-5, 5)), (8, (5, -5))]
)
def test_a_camera_raw_shows_its_preview_upright(
    tmp_path: Path, orientation: int, corner: tuple[int, int]
) -> None:
    pytest.importorskip("rawpy")
    preview = Image.new("RGB", (300, 200), "red")
    preview.paste((0, 160, 0), (0, 0, 40, 40))
    path = tmp_path / "photo.dng"
    path.write_bytes(make_dng(preview, orientation=orientation))
    found = load_image(path)
    assert found.size == ((300, 200) if orientation in (1, 3) else (200, 300))
    place = tuple(at % side for at, side in zip(corner, found.size, strict=True))
    green = found.getpixel((place[0], place[1]))
    assert isinstance(green, tuple)
    assert green[1] > 120 > green[0]


def test_a_camera_raw_without_a_preview_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "photo.dng"
    path.write_bytes(make_dng(None))
    with pytest.raises(ImageError, match=r"photo\.dng has no preview .*convert it to JPEG"):
        load_image(path)
    path.write_bytes(make_dng(None)[:200])
    with pytest.raises(ImageError, match=r"photo\.dng has no preview"):
        load_image(path)


def test_a_camera_raw_with_an_uncompressed_grey_preview_is_read(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    data = bytearray(make_dng(Image.new("RGB", (32, 24), "white")))
    for tag, value in ((259, 1), (277, 1)):  # no compression, one colour
        place = data.index(struct.pack("<HH", tag, 3)) + 8
        data[place : place + 2] = struct.pack("<H", value)
    path = tmp_path / "photo.dng"
    path.write_bytes(data)
    found = load_image(path)
    assert (found.mode, found.size) == ("RGB", (32, 24))


def test_postscript_in_a_jpeg_starts_no_program(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    path = tmp_path / "x.jpg"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        + f"({mark}) (w) file closefile\n".encode()
    )
    binaries = tmp_path / "bin"
    binaries.mkdir()
    script = binaries / "gs"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script.chmod(0o755)
    code = f"from ztcir_sdk.decoding import load_image\nload_image({os.fspath(path)!r})"
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "is not an image of a known format" in done.stderr
    assert not mark.exists()


# --- colour --------------------------------------------------------------------------------------


def with_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """The same colours, said in another colour space."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    made = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target)
    assert made is not None
    made.info["icc_profile"] = profile
    return made


@pytest.mark.parametrize(
    "profile", [PROPHOTO, ADOBE_RGB, DISPLAY_P3], ids=["ProPhoto", "Adobe", "P3"]
)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG"])
def test_embedded_profiles_become_srgb(profile: bytes, file_format: str) -> None:
    wide = with_profile(photo(), profile)
    options = {"quality": 95} if file_format == "JPEG" else {}
    data = encoded(wide, file_format, icc_profile=profile, **options)
    assert difference(load_image(data), photo()) < (4 if file_format == "JPEG" else 2.5)


def test_vectors_of_a_wide_profile_are_those_of_the_photo() -> None:
    retriever = Retriever.from_pretrained(device="cpu")
    photos = [photo(number) for number in range(4)]
    wide = [encoded(with_profile(one, PROPHOTO), "PNG", icc_profile=PROPHOTO) for one in photos]
    ignored = [with_profile(one, PROPHOTO) for one in photos]
    for one in ignored:
        del one.info["icc_profile"]
    right = retriever.encode_images(photos)
    converted = retriever.encode_images(wide)
    wrong = retriever.encode_images(ignored)
    assert (right * converted).sum(-1).min() > 0.99
    assert (right * wrong).sum(-1).min() < (right * converted).sum(-1).min() - 0.01


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, tagged = encoded(photo(), "PNG"), encoded(photo(), "PNG", icc_profile=profile)
    assert load_image(tagged).tobytes() == load_image(plain).tobytes()


def test_transparency_survives_a_profile() -> None:
    image = with_profile(photo(), PROPHOTO)
    image.putalpha(Image.new("L", image.size, 0))
    found = load_image(encoded(image, "PNG", icc_profile=PROPHOTO))
    assert found.getextrema() == ((255, 255),) * 3  # nothing but the white below


@pytest.mark.parametrize("profile", [b"", b"no profile at all", PROPHOTO[:200]])
def test_a_damaged_profile_is_left_aside(profile: bytes) -> None:
    image = encoded(photo(), "PNG", icc_profile=profile)
    assert difference(load_image(image), photo()) == 0


# --- size ----------------------------------------------------------------------------------------


def test_a_jpeg_over_the_limit_is_read_at_a_smaller_scale() -> None:
    large = Image.new("L", (12_000, 9_000), 200)
    assert large.width * large.height > MAX_PIXELS
    found = load_image(encoded(large, "JPEG"))
    assert found.size == (6_000, 4_500)
    assert abs(found.getpixel((9, 9))[0] - 200) < 3  # type: ignore[index]


def test_a_large_progressive_jpeg_is_refused() -> None:
    large = encoded(Image.new("L", (12_000, 9_000), 200), "JPEG", progressive=True)
    with pytest.raises(ImageError, match=r"12000 x 9000 pixels, over the limit"):
        load_image(large)


# --- streams and messages ------------------------------------------------------------------------


def test_a_stream_that_cannot_be_sought_is_read_whole() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(encoded(photo().resize((40, 40)), "PNG"))
    with os.fdopen(read_end, "rb") as pipe:
        assert load_image(pipe).size == (40, 40)


def test_libtiff_prints_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broken.tif"
    data = bytearray(encoded(photo(), "TIFF", compression="tiff_lzw"))
    data[200:800] = bytes(range(200)) * 3
    path.write_bytes(bytes(data))
    code = f"""
from ztcir_sdk.decoding import load_image
try:
    load_image({os.fspath(path)!r})
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_warning_can_name_the_file_that_is_being_decoded(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\x20\0\0\0\xff\xff\0\0"
    path.write_bytes(encoded(photo(), "JPEG", exif=exif))
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: seen.append(file_being_decoded())
        load_image(path)
    assert set(seen) <= {os.fspath(path)}
    assert file_being_decoded() == ""
