"""The SDK's preprocessing equals open_clip's evaluation transform, bit for bit."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_images import SQUARE, VARIANTS, noise, scene

from ztcir_sdk.preprocess import Preprocessing

open_clip = pytest.importorskip("open_clip", reason="parity needs the train extra")


def reference_transform(preprocessing: Preprocessing) -> Any:
    return open_clip.image_transform(
        preprocessing.image_size,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize_mode=preprocessing.resize_mode,
        interpolation=preprocessing.interpolation,
        fill_color=preprocessing.fill_color,
    )


def assert_equal_open_clip(preprocessing: Preprocessing, rgb: Image.Image) -> None:
    ours = preprocessing.one(rgb)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours, reference_transform(preprocessing)(rgb).numpy())


class TestParityWithOpenClip:
    @settings(max_examples=250, deadline=None)
    @given(
        width=st.integers(1, 150),
        height=st.integers(1, 150),
        seed=st.integers(0, 2**32 - 1),
        preprocessing=st.sampled_from(VARIANTS),
    )
    def test_any_size_and_content(
        self, width: int, height: int, seed: int, preprocessing: Preprocessing
    ) -> None:
        rgb = Image.fromarray(noise(width, height, seed))
        if preprocessing.resize_mode == "longest" and not _survives_longest(rgb, preprocessing):
            return  # open_clip fails here; see test_thin_images_keep_a_pixel
        assert_equal_open_clip(preprocessing, rgb)

    @settings(max_examples=150, deadline=None)
    @given(
        target=st.tuples(st.integers(1, 64), st.integers(1, 64)),
        size=st.tuples(st.integers(20, 80), st.integers(20, 80)),
        resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
        interpolation=st.sampled_from(["bicubic", "bilinear"]),
        fill_color=st.integers(0, 255),
    )
    def test_any_target(
        self,
        target: tuple[int, int],
        size: tuple[int, int],
        resize_mode: Any,
        interpolation: Any,
        fill_color: int,
    ) -> None:
        preprocessing = Preprocessing(
            image_size=target,
            resize_mode=resize_mode,
            interpolation=interpolation,
            fill_color=fill_color,
        )
        rgb = Image.fromarray(noise(*size))
        if resize_mode == "longest" and not _survives_longest(rgb, preprocessing):
            return
        assert_equal_open_clip(preprocessing, rgb)

    @pytest.mark.parametrize("preprocessing", VARIANTS[:4] + VARIANTS[6:], ids=str)
    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (1, 900), (900, 1), (2000, 3)])
    def test_thin_images(self, preprocessing: Preprocessing, size: tuple[int, int]) -> None:
        assert_equal_open_clip(preprocessing, Image.fromarray(noise(*size)))

    def test_every_value_of_a_channel(self) -> None:
        ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
        assert_equal_open_clip(Preprocessing(image_size=(16, 16)), Image.fromarray(ramp))

    def test_every_configuration_that_open_clip_ships(self) -> None:
        configurations = {
            json.dumps(configuration, sort_keys=True)
            for name, tag in open_clip.list_pretrained()
            for configuration in [_preprocess_cfg(name, tag)]
        }
        assert len(configurations) > 5
        rgb = scene(400, 300)
        for configuration in map(json.loads, sorted(configurations)):
            ours = Preprocessing.from_open_clip(configuration).one(rgb)
            merged = open_clip.transform.merge_preprocess_dict(
                open_clip.transform.PreprocessCfg(), configuration
            )
            theirs = open_clip.transform.image_transform_v2(
                open_clip.transform.PreprocessCfg(**merged), is_train=False
            )
            np.testing.assert_array_equal(ours, theirs(rgb).numpy(), err_msg=str(configuration))

    def test_real_photos_from_every_kind_of_source(self, shared_data: Path, tmp_path: Path) -> None:
        transform = reference_transform(SQUARE)
        with tarfile.open(shared_data / "fashion-products" / "val-0000.tar") as shard:
            names = [name for name in shard.getnames() if name.endswith(".jpg")][:60]
            photos = []
            for name in names:
                member = shard.extractfile(name)
                assert member is not None
                photos.append(member.read())
        expected = np.stack([transform(Image.open(io.BytesIO(p))).numpy() for p in photos])
        paths = [tmp_path / f"{index}.jpg" for index in range(len(photos))]
        for path, photo in zip(paths, photos, strict=True):
            path.write_bytes(photo)
        arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        for sources in (
            photos,
            paths,
            list(map(str, paths)),
            [io.BytesIO(photo) for photo in photos],
            [Image.open(path) for path in paths],
            arrays,
            np.asarray([array[:80, :60] for array in arrays[:2]]),
        ):
            batch = SQUARE(sources)
            if isinstance(sources, np.ndarray):
                assert batch.shape == (2, 3, 32, 32)
            else:
                np.testing.assert_array_equal(batch, expected)


def _survives_longest(image: Image.Image, preprocessing: Preprocessing) -> bool:
    height, width = preprocessing.image_size
    ratio = max(image.height / height, image.width / width)
    return round(image.height / ratio) > 0 and round(image.width / ratio) > 0


def _preprocess_cfg(name: str, tag: str) -> dict[str, Any]:
    """What open_clip would apply for pretrained weights, from its tables alone."""
    configuration = {"size": open_clip.get_model_config(name)["vision_cfg"].get("image_size", 224)}
    known = open_clip.transform.PreprocessCfg.__dataclass_fields__
    for key, value in open_clip.get_pretrained_cfg(name, tag).items():
        if key in known and value is not None:
            configuration[key] = value
    return configuration
