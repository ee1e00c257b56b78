"""Large JPEGs of a collection are decoded at the scale that the model needs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icc_profiles import PROPHOTO
from numpy.typing import NDArray
from PIL import Image

from benchmarks.indexing.photos import catalogue_photos, enlarged
from ztcir_sdk import Retriever
from ztcir_sdk.decoding import MAX_PIXELS, load_image, load_scaled, load_small
from ztcir_sdk.drawings.drawings import draw, training_drawings
from ztcir_sdk.errors import ImageError
from ztcir_sdk.index import Index
from ztcir_sdk.preprocess import Preprocessing

TRANSFORMS = [
    Preprocessing(image_size=(224, 224)),
    Preprocessing(image_size=(224, 224), resize_mode="squash"),
    Preprocessing(image_size=(224, 208)),
    Preprocessing(image_size=(160, 120), resize_mode="longest"),
]


def jpeg(size: tuple[int, int] = (1203, 1801), mode: str = "RGB", **options: Any) -> bytes:
    photo = draw(training_drawings(1, seed=3)[0]).resize(size).convert(mode)
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def off(transform: Preprocessing, data: bytes) -> float:
    """Mean difference from the exact transform, in levels of 255."""
    scaled = transform.levels(data, name="x.jpg")
    plain = replace(transform, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    exact = plain.one(data)
    return float(np.abs(exact.transpose(1, 2, 0) - scaled).mean())


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: one.resize_mode)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_of_odd_size_is_upright_and_in_place(
    transform: Preprocessing, orientation: int
) -> None:
    data = turned(orientation)
    assert load_scaled(data, transform.reduction, name="x").reduction == 2
    # an edge that is off by half a pixel of the decoded image would be several times this
    assert off(transform, data) < 0.5


@pytest.mark.parametrize(
    ("mode", "options"),
    [("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", {"icc_profile": PROPHOTO})],
    ids=["grey", "CMYK", "progressive", "profile"],
)
def test_every_kind_of_jpeg_is_scaled(mode: str, options: dict[str, Any]) -> None:
    data = jpeg(mode=mode, **options)
    for transform in TRANSFORMS:
        assert off(transform, data) < 0.5


def test_a_jpeg_that_is_not_much_larger_than_the_input_is_exact() -> None:
    data = jpeg((400, 500))
    for transform in TRANSFORMS:
        assert off(transform, data) < 1e-3  # rounding of the comparison alone


def test_other_formats_are_exact() -> None:
    stream = io.BytesIO()
    draw(training_drawings(1, seed=3)[0]).resize((1000, 1400)).save(stream, "PNG")
    assert off(TRANSFORMS[0], stream.getvalue()) < 1e-3


def test_the_scale_leaves_enough_pixels() -> None:
    square, small = TRANSFORMS[0], TRANSFORMS[3]
    assert [square.reduction(edge, edge) for edge in (447 * 2, 448 * 2, 4000)] == [1, 2, 8]
    sizes = ((890, 1190), (900, 1200), (3000, 4000))
    assert [small.reduction(*size) for size in sizes] == [1, 2, 4]
    assert square.reduction(1_000_000, 3) == 1


def test_limits_hold_at_any_scale() -> None:
    large = Image.new("L", (12_000, 9_000), 200)
    assert large.width * large.height > MAX_PIXELS
    stream = io.BytesIO()
    large.save(stream, "JPEG")
    assert np.abs(TRANSFORMS[0].levels(stream.getvalue(), name="x").astype(int) - 200).max() < 3
    stream = io.BytesIO()
    large.save(stream, "JPEG", progressive=True)
    with pytest.raises(ImageError, match="over the limit"):
        TRANSFORMS[0].levels(stream.getvalue(), name="x")


def test_a_jpeg_that_is_cut_short_is_refused_at_any_scale() -> None:
    data = jpeg()
    with pytest.raises(ImageError, match=r"photo\.jpg is damaged or cut short"):
        TRANSFORMS[0].levels(data[: len(data) // 2], name="photo.jpg")


def test_references_are_exact_and_the_index_is_close(tmp_path: Path) -> None:
    retriever = Retriever.from_pretrained(device="cpu", precision="fp32")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, drawing in enumerate(training_drawings(3, seed=5)):
        draw(drawing).resize((1200, 1600)).save(photos / f"{number}.jpg", quality=90)
    files = sorted(photos.iterdir())
    retriever.index(photos, tmp_path / "photos.ztcir")
    [reference] = retriever.encoder.encode_references([files[0]])
    exact = vectors(retriever, [retriever.bundle.manifest.preprocessing.one(one) for one in files])
    np.testing.assert_allclose(reference.embedding, exact[0], atol=1e-5)
    index = Index.open(tmp_path / "photos.ztcir", image_tower=None)
    cosine = (index.vectors() * exact).sum(axis=1)
    # the indexed photos are scaled, the reference is not
    assert ((cosine > 0.995) & (cosine < 1 - 1e-6)).all()


def vectors(retriever: Retriever, pixels: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    graph = retriever.encoder.graph("image_encoder")
    rows = [
        retriever.encoder.run_image_encoder(graph, np.stack(pixels[start : start + 8]))
        for start in range(0, len(pixels), 8)
    ]
    return np.concatenate(rows)


def cosines(data: Path, count: int) -> NDArray[np.float32]:
    """Cosines of enlarged real photos' vectors, scaled against exact, in the default bundle."""
    retriever = Retriever.from_pretrained(device="cpu", precision="fp32")
    transform = retriever.bundle.manifest.preprocessing
    scaled, exact = [], []
    shards = [data / "fashion-products" / "val-0000.tar"]
    for number, photo in enumerate(catalogue_photos(shards, count)):
        file = enlarged(photo, (900, 1200), seed=number)
        scaled.append(transform.normalised(transform.levels(file, name="x")[None])[0])
        exact.append(transform.one(file))
    found: NDArray[np.float32] = (vectors(retriever, scaled) * vectors(retriever, exact)).sum(
        axis=1
    )
    return found


def test_vectors_of_real_photos_stay_close(shared_data: Path) -> None:
    found = cosines(shared_data, 40)
    assert found.mean() >= 0.999
    assert found.min() >= 0.995


@pytest.mark.slow
def test_vectors_of_three_hundred_real_photos_stay_close(shared_data: Path) -> None:
    found = cosines(shared_data, 300)
    assert found.mean() >= 0.999
    assert found.min() >= 0.995


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_small_copy_is_what_the_whole_image_reduced_is(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = turned(orientation)
    whole = load_image(data)
    whole.thumbnail((160, 160))
    decoded: list[tuple[int, int]] = []
    thumbnail = Image.Image.thumbnail

    def reduced(image: Image.Image, size: tuple[float, float]) -> None:
        decoded.append(image.size)
        thumbnail(image, size)

    monkeypatch.setattr(Image.Image, "thumbnail", reduced)
    small = load_small(data, 160, name="x.jpg")
    assert small.size == whole.size
    assert max(decoded[0]) == 451  # a quarter of 1801, and more than twice the small copy
    difference = np.asarray(small, np.float32) - np.asarray(whole, np.float32)
    assert np.abs(difference).mean() < 1.5
    monkeypatch.undo()
    assert load_small(data, 4000, name="x.jpg").size == load_image(data).size
