"""Preprocessing of every kind of image, and no image is used half decoded.

That it equals open_clip's transform is tested in tests/train/model/test_preprocess_parity.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sample_images import SQUARE, VARIANTS, encoded, noise, scene

from ztcir_sdk import preprocess
from ztcir_sdk.decoding import MAX_PIXELS, load_image
from ztcir_sdk.errors import BundleError, ImageError, UsageError
from ztcir_sdk.preprocess import TARGET_RATIO, Preprocessing, pad_to_ratio


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 900), (900, 1)])
    def test_thin_images_keep_a_pixel(self, size: tuple[int, int]) -> None:
        """Fitted to the longer edge, open_clip rounds the shorter one to 0 and fails."""
        preprocessing = Preprocessing(image_size=(32, 32), resize_mode="longest", mean=(0, 0, 0))
        white = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        assert (preprocessing.one(white)[0] > 0).sum() == 32

    @pytest.mark.parametrize("size", [(3, 2000), (2000, 3), (1, 5000)])
    @pytest.mark.parametrize("preprocessing", VARIANTS[:4], ids=str)
    def test_very_thin_images_are_cropped_before_they_grow(
        self, monkeypatch: pytest.MonkeyPatch, preprocessing: Preprocessing, size: tuple[int, int]
    ) -> None:
        pictures = scene(*size), Image.fromarray(noise(*size))
        whole = [preprocessing.one(picture) for picture in pictures]
        monkeypatch.setattr(preprocess, "_MAX_RESIZED_PIXELS", 0)
        level = 1 / 255 / np.array(preprocessing.std)[:, None, None]
        smooth, rough = (
            np.abs(preprocessing.one(picture) - expected) / level
            for picture, expected in zip(pictures, whole, strict=True)
        )
        assert smooth.max() < 1.01
        assert rough.mean() < 1

    def test_a_strip_does_not_exhaust_memory(self) -> None:
        strip = np.zeros((1, 5_000_000, 3), dtype=np.uint8)
        strip[:, 2_400_000:2_600_000] = 255  # its centre is all that is seen
        pixels = Preprocessing(image_size=(224, 224), mean=(0, 0, 0), std=(1, 1, 1)).one(strip)
        np.testing.assert_array_equal(pixels, 1)

    def test_every_kind_of_source_gives_the_same_pixels(self, tmp_path: Path) -> None:
        files = [encoded(scene(90 + 7 * i, 70), "JPEG") for i in range(3)]
        paths = [tmp_path / f"{i}.jpg" for i in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        expected = SQUARE(files)
        arrays = [np.asarray(Image.open(path)) for path in paths]
        streams = [io.BytesIO(data) for data in files]
        opened = [Image.open(path) for path in paths]
        for sources in (paths, list(map(str, paths)), streams, opened, arrays):
            np.testing.assert_array_equal(SQUARE(sources), expected)
        assert SQUARE(np.asarray([array[:60, :60] for array in arrays])).shape == (3, 3, 32, 32)

    def test_an_empty_batch(self) -> None:
        assert SQUARE([]).shape == (0, 3, 32, 32)


class TestTargetPad:
    @pytest.mark.parametrize(
        ("size", "padded"),
        [
            ((100, 200), (160, 200)),  # 200 / 1.25
            ((200, 100), (200, 160)),
            ((100, 125), (100, 125)),
            ((100, 124), (100, 124)),
            ((101, 300), (239, 300)),  # (240 - 101) / 2 is rounded down
        ],
    )
    def test_thin_images_are_padded_to_the_ratio_with_black(
        self, size: tuple[int, int], padded: tuple[int, int]
    ) -> None:
        image = Image.new("RGB", size, (200, 10, 10))
        found = pad_to_ratio(image, TARGET_RATIO)
        assert found.size == padded
        left, top = (padded[0] - size[0]) // 2, (padded[1] - size[1]) // 2
        assert found.crop((left, top, left + size[0], top + size[1])) == image
        if padded != size:
            assert found.getpixel((0, 0)) == (0, 0, 0)

    def test_it_comes_before_the_resizing(self) -> None:
        image = scene(60, 200)
        padding = dataclasses.replace(SQUARE, pad_ratio=TARGET_RATIO)
        expected = SQUARE.one(pad_to_ratio(image, TARGET_RATIO))
        np.testing.assert_array_equal(padding.one(image), expected)
        assert (padding.one(image) != SQUARE.one(image)).any()

    def test_a_manifest_names_it_only_if_it_is_used(self) -> None:
        assert "pad_ratio" not in SQUARE.to_dict()
        assert Preprocessing.from_dict(SQUARE.to_dict()) == SQUARE
        padding = dataclasses.replace(SQUARE, pad_ratio=TARGET_RATIO)
        assert padding.to_dict()["pad_ratio"] == 1.25
        assert Preprocessing.from_dict(padding.to_dict()) == padding
        with pytest.raises(BundleError, match="pad_ratio"):
            Preprocessing.from_dict({**SQUARE.to_dict(), "pad_ratio": 0.5})


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "mean_error"),  # of the mode itself
        [
            *(("RGB", 0), ("RGBA", 0), ("RGBX", 0), ("RGBa", 0), ("CMYK", 0), ("YCbCr", 2)),
            *(("HSV", 1), ("LAB", 2), ("P", 20), ("PA", 6)),
        ],
    )
    def test_colour(self, mode: str, mean_error: int) -> None:
        image = _in_mode(scene(), mode)
        assert image.mode == mode
        rgb = load_image(image)
        assert rgb.mode == "RGB"
        difference = np.abs(np.asarray(rgb, dtype=int) - np.asarray(scene(), dtype=int))
        assert difference.mean() <= mean_error
        np.testing.assert_array_equal(SQUARE.one(image), SQUARE.one(rgb))

    @pytest.mark.parametrize(
        ("mode", "scale"),
        [
            *(("L", 1), ("LA", 1), ("La", 1), ("I", 1), ("I", 257), ("F", 1), ("F", 1 / 255)),
            *(("F", 257), ("I;16", 257), ("I;16B", 257), ("I;16L", 257)),
        ],
    )
    def test_grey(self, mode: str, scale: float) -> None:
        grey = scene().convert("L")
        levels = np.asarray(grey)
        if mode.startswith("I;16"):
            data = (levels * np.uint16(257)).astype(">u2" if mode == "I;16B" else "<u2")
            image = Image.frombytes(mode, grey.size, data.tobytes())
        elif mode in "IF":
            image = Image.fromarray(
                (levels * np.float64(scale)).astype(np.int32 if mode == "I" else np.float32)
            )
        else:
            image = _in_mode(grey, mode)
        assert image.mode == mode
        assert levels.max() > 128  # so that the scaled levels leave the range below
        rgb = load_image(image)
        np.testing.assert_array_equal(np.asarray(rgb), np.asarray(grey.convert("RGB")))
        np.testing.assert_array_equal(SQUARE.one(image), SQUARE.one(grey))

    def test_black_and_white(self) -> None:
        image = scene().convert("1")
        np.testing.assert_array_equal(
            np.asarray(load_image(image))[..., 1] == 255, np.asarray(image)
        )

    @pytest.mark.parametrize(
        ("levels", "expected"),
        [
            ([[-100.0, 0.0, 300.0]], [0, 64, 255]),
            ([[0.0, 1e6, 4e6]], [0, 64, 255]),
            ([[7e5, 7e5, 7e5]], [0, 0, 0]),
            ([[0.0, np.nan, 1.0]], [0, 0, 255]),
            ([[np.nan, np.inf, -np.inf]], [0, 255, 0]),
        ],
    )
    def test_floats_of_any_range(self, levels: list[list[float]], expected: list[int]) -> None:
        image = Image.fromarray(np.array(levels, dtype=np.float32))
        assert np.asarray(load_image(image))[0, :, 0].tolist() == expected

    def test_sixteen_bit_png(self) -> None:
        levels = np.array([[0, 128, 129, 32767, 65535]], dtype=np.uint16)
        data = encoded(Image.fromarray(levels), "PNG")
        assert np.asarray(load_image(data))[0, :, 0].tolist() == [0, 0, 1, 127, 255]

    def test_a_pil_image_is_not_changed(self) -> None:
        image = scene()
        before = image.tobytes()
        result = load_image(image)
        result.paste((0, 0, 0), (0, 0, 90, 70))
        assert image.tobytes() == before

    def test_first_frame_of_an_animation(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
        for image_format, options in [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})]:
            data = encoded(
                frames[0], image_format, save_all=True, append_images=frames[1:], **options
            )
            assert load_image(data).getpixel((0, 0)) == (255, 0, 0), image_format


class TestTransparency:
    @pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
    @pytest.mark.parametrize("opacity", [0, 1, 100, 254, 255])
    def test_is_filled_with_white(self, mode: str, opacity: int) -> None:
        colour = (80, 80, 80) if mode in ("LA", "La") else (200, 40, 0)
        image = Image.new("RGBA", (4, 4), (*colour, opacity))
        image = _in_mode(image, mode)
        expected = [255 + (value - 255) * opacity / 255 for value in colour]
        # Premultiplied modes store few levels of a faint colour.
        tolerance = 2 if mode.endswith("a") else 1
        assert load_image(image).getpixel((1, 1)) == pytest.approx(expected, abs=tolerance)

    @pytest.mark.parametrize(
        ("mode", "transparent", "levels"),
        [
            ("P", 3, [[3, 1]]),
            ("P", bytes([255, 255, 255, 0]), [[3, 1]]),
            ("L", 77, [[77, 78]]),
            ("1", 0, [[0, 255]]),
            ("RGB", (9, 8, 7), [[(9, 8, 7), (9, 8, 6)]]),
            ("I;16", 30000, [[30000, 30001]]),
        ],
    )
    def test_a_transparent_colour_in_a_png(
        self, mode: str, transparent: Any, levels: list[list[Any]]
    ) -> None:
        if mode == "I;16":
            image = Image.fromarray(np.array(levels, dtype=np.uint16))
        else:
            image = Image.new(mode, (2, 1))
            for column, level in enumerate(levels[0]):
                image.putpixel((column, 0), level)
            if mode == "P":
                image.putpalette([0] * 12)
        plain = load_image(encoded(image, "PNG"))
        rgb = load_image(encoded(image, "PNG", transparency=transparent))
        assert rgb.getpixel((0, 0)) == (255, 255, 255)
        assert plain.getpixel((0, 0)) != (255, 255, 255)
        assert rgb.getpixel((1, 0)) == plain.getpixel((1, 0))

    def test_a_transparent_gif(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        rgb = load_image(encoded(image, "GIF", transparency=0))
        assert [rgb.getpixel((column, 0)) for column in (0, 1)] == [(255,) * 3, (40, 50, 60)]


# What a camera stores so that the orientation turns it upright, by the EXIF definition.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.transpose(1, 0, 2),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].transpose(1, 0, 2),
    8: lambda up: np.rot90(up, -1),
}


class TestOrientation:
    @pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP", "JPEG"])
    @pytest.mark.parametrize("orientation", STORED)
    def test_is_applied_once(self, orientation: int, image_format: str) -> None:
        upright = scene()
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"lossless": True, "quality": 100, "subsampling": 0}
        if image_format not in ("WEBP", "JPEG"):
            options = {}
        data = encoded(stored, image_format, exif=exif, **options)
        for source in (data, Image.open(io.BytesIO(data))):
            rgb = load_image(source)
            assert rgb.size == upright.size
            difference = np.abs(np.asarray(rgb, dtype=int) - np.asarray(upright, dtype=int))
            assert difference.max() <= (20 if image_format == "JPEG" else 0)
            if image_format != "JPEG":
                np.testing.assert_array_equal(SQUARE.one(source), SQUARE.one(upright))

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
    def test_in_other_modes(self, mode: str) -> None:
        upright = _in_mode(scene(), mode) if mode != "I;16" else _sixteen_bit(scene())
        expected = np.asarray(load_image(upright))
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = upright.transpose(Image.Transpose.ROTATE_90)
        data = encoded(stored, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
        np.testing.assert_array_equal(np.asarray(load_image(data)), expected)

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_unknown_values_mean_upright(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(scene(), "PNG", exif=exif)
        np.testing.assert_array_equal(np.asarray(load_image(data)), np.asarray(scene()))

    def test_damaged_exif_gives_a_warning_and_an_upright_image(self) -> None:
        data = encoded(scene(), "PNG", exif=b"Exif\x00\x00XX\x00\x2a\x00\x00\x00\x08garbage")
        with pytest.warns(UserWarning, match=r"holiday\.png: unreadable EXIF"):
            rgb = load_image(data, name="holiday.png")
        np.testing.assert_array_equal(np.asarray(rgb), np.asarray(scene()))


FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_deflate"}),
]


class TestBadImages:
    def test_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "gone.jpg"
        with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
            load_image(path)

    def test_unreadable_paths(self, tmp_path: Path) -> None:
        for path in (tmp_path, "nul\0.jpg", tmp_path / ("x" * 400)):
            with pytest.raises(ImageError, match="cannot be read"):
                load_image(path)

    @pytest.mark.parametrize(
        "data", [b"", b"x", b"hello, this is text", b"\0" * 999, b"PK\x03\x04" * 9, b"\xff\xd8"]
    )
    def test_not_an_image(self, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "note.jpg"
        path.write_bytes(data)
        for source in (path, data):
            with pytest.raises(ImageError, match=r"note\.jpg|image data"):
                load_image(source)

    def test_messages_use_the_given_name(self) -> None:
        with pytest.raises(ImageError, match=r"^shard\.tar/7\.jpg is not an image"):
            load_image(b"text", name="shard.tar/7.jpg")

    @settings(max_examples=200, deadline=None)
    @given(kept=st.floats(0, 0.999), kind=st.sampled_from(range(len(FORMATS))))
    @example(kept=0.999, kind=0)
    @example(kept=0.999, kind=2)
    def test_cut_short_never_gives_half_a_image(self, kept: float, kind: int) -> None:
        image_format, options = FORMATS[kind]
        data = encoded(Image.fromarray(noise(60, 50)), image_format, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own remarks on the damage
            try:
                rgb = load_image(data[: int(len(data) * kept)])
            except ImageError:
                return
            # A PNG whose checksum or empty last chunk alone is missing has all its pixels.
            assert kept > 0.99
            np.testing.assert_array_equal(np.asarray(rgb), np.asarray(load_image(data)))

    @settings(max_examples=300, deadline=None)
    @given(
        kind=st.sampled_from(range(len(FORMATS))),
        changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1),
    )
    def test_damaged_data_raises_only_image_errors(
        self, kind: int, changes: list[tuple[float, bytes]]
    ) -> None:
        image_format, options = FORMATS[kind]
        data = bytearray(encoded(scene(), image_format, **options))
        for where, garbage in changes:
            start = int(len(data) ** where)  # headers more often than pixels
            data[start : start + len(garbage)] = garbage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(ImageError):
                assert load_image(bytes(data)).mode == "RGB"

    @pytest.mark.parametrize("size", [(10_001, 10_000), (14_000, 14_000), (2**31 - 1, 2**31 - 1)])
    def test_over_100_megapixels_is_refused_undecoded(self, size: tuple[int, int]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow's own warning must not reach the user
            with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} pixels.*100 megapixels"):
                load_image(_png_header(size))

    def test_100_megapixels_are_still_allowed(self) -> None:
        """The header passes without a warning, and decoding then finds no pixels."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ImageError, match="cut short"):
                load_image(_png_header((10_000, MAX_PIXELS // 10_000)))

    def test_the_process_keeps_its_own_limit(self) -> None:
        filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
        load_image(encoded(scene(), "PNG"))
        assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == (filters, limit)

    def test_too_large_or_empty_in_memory(self) -> None:
        huge = np.broadcast_to(np.zeros(3, dtype=np.uint8), (10_001, 10_000, 3))
        with pytest.raises(ImageError, match="100 megapixels"):
            load_image(huge)
        for source in (np.zeros((0, 5, 3), dtype=np.uint8), Image.new("RGB", (5, 0))):
            with pytest.raises(ImageError, match="no pixels"):
                load_image(source)

    def test_a_closed_file(self) -> None:
        image = Image.open(io.BytesIO(encoded(scene(), "PNG")))
        image.close()
        with pytest.raises(ImageError, match="The image"):
            load_image(image)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4, 3)),
            np.zeros((4, 4), dtype=np.uint8),
            np.zeros((4, 4, 4), dtype=np.uint8),
            np.zeros((1, 4, 4, 3), dtype=np.uint8),
        ],
    )
    def test_other_arrays(self, array: Any) -> None:
        with pytest.raises(UsageError, match=r"\(H, W, 3\)"):
            load_image(array)

    def test_other_objects(self) -> None:
        with pytest.raises(UsageError, match="not int"):
            load_image(3)  # type: ignore[arg-type]
        for single in ("photo.jpg", Path("photo.jpg"), b"", scene(), noise(4, 4)):
            with pytest.raises(UsageError, match="images must be a list"):
                SQUARE(single)  # type: ignore[arg-type]

    def test_one_bad_image_fails_the_batch_by_name(self, tmp_path: Path) -> None:
        good, bad = tmp_path / "good.png", tmp_path / "bad.png"
        good.write_bytes(encoded(scene(), "PNG"))
        bad.write_bytes(good.read_bytes()[:200])
        with pytest.raises(ImageError, match=r"bad\.png"):
            SQUARE([good, bad])


class TestConfiguration:
    @pytest.mark.parametrize("preprocessing", VARIANTS, ids=str)
    def test_survives_json(self, preprocessing: Preprocessing) -> None:
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == (
            preprocessing
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"image_size": 224},
            {"image_size": [224]},
            {"image_size": [0, 224]},
            {"image_size": [1.5, 2]},
            {"mean": [0.5]},
            {"mean": ["a", "b", "c"]},
            {"mean": [[1, 2], [3], [4, 5]]},
            {"mean": [[0.5], [0.5], [0.5]]},
            {"std": [[1, 2], [3], [4, 5]]},
            {"std": {"a": 1, "b": 2, "c": 3}},
            {"std": [0.5, 0.5, float("inf")]},
            {"std": [0.5, 0.5, 1e39]},
            {"std": [0.5, 0.5, 0.0]},
            {"std": [0.5, 0.5, float("nan")]},
            {"resize_mode": "crop"},
            {"interpolation": "lanczos"},
            {"fill_color": 256},
            {"fill_color": None},
            {"unknown": 1},
        ],
    )
    def test_malformed_bundles(self, change: dict[str, Any]) -> None:
        with pytest.raises(BundleError, match="preprocessing"):
            Preprocessing.from_dict({**SQUARE.to_dict(), **change})

    def test_incomplete_bundles(self) -> None:
        values = SQUARE.to_dict()
        del values["std"]
        with pytest.raises(BundleError, match="exactly the keys"):
            Preprocessing.from_dict(values)

    def test_open_clip_defaults(self) -> None:
        assert Preprocessing.from_open_clip({}) == Preprocessing(image_size=(224, 224))
        short = {"size": 64, "mean": 0.5, "std": [0.25], "interpolation": "random", "mode": "RGB"}
        assert Preprocessing.from_open_clip({**short, "resize_mode": None}) == Preprocessing(
            image_size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )

    @pytest.mark.parametrize("cfg", [{"mode": "L"}, {"interpolation": "nearest"}, {"size": -1}])
    def test_values_that_open_clip_refuses_are_refused(self, cfg: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="cannot use"):
            Preprocessing.from_open_clip(cfg)


def test_threads_share_one() -> None:
    pictures = [encoded(scene(40 + index, 50), "PNG") for index in range(30)]
    expected = SQUARE(pictures)
    results: list[NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: results.append(SQUARE(pictures))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert by the way around that Pillow needs for some modes."""
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    if mode == "PA":
        opacity = image.convert("RGBA").getchannel("A")
        palette = image.convert("RGB").quantize(256).convert("PA")
        palette.putalpha(opacity)
        return palette
    via = {"RGBa": "RGBA", "La": "LA"}.get(mode)
    return (image.convert(via) if via else image).convert(mode)


def _sixteen_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _png_header(size: tuple[int, int]) -> bytes:
    """A PNG that claims `size` pixels and holds none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
