"""Training data: broken samples are reported, batches are permutations, features are cached."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_training import VIT, catalogue, members_of, tiny_model, write_collection, write_shard

from train.data import (
    Batches,
    DataError,
    TrainingImage,
    drawn_images,
    read_collection,
    read_sources,
)
from train.data.image import BytesPicture
from train.loop.features import image_features
from train.loop.record import data_fingerprint
from train.model import Backbone
from ztcir_sdk.drawings.drawings import DEMO_COMBINATIONS
from ztcir_sdk.errors import ImageError
from ztcir_sdk.preprocess import Preprocessing

Members = list[tuple[str, bytes]]


class Files(list[tuple[str, bytes]]):
    """The files of a shard; a failed test does not print them."""

    def __repr__(self) -> str:
        return "Files()"


@pytest.fixture(scope="module")
def members() -> Members:
    return Files(member for fields in catalogue()[:5] for member in members_of(fields))


def ids_of(images: list[TrainingImage]) -> list[str]:
    return [image.item.id for image in images]


# --- shards -------------------------------------------------------------------------------------


def test_images_have_the_order_and_the_attributes_of_the_shards(tmp_path: Path) -> None:
    products = catalogue()[:4]
    shards = [
        write_shard(tmp_path / f"{number}.tar", members_of(fields))
        for number, fields in enumerate(products)
    ]
    images, _ = read_sources([str(shard) for shard in shards[::-1]])
    for image, fields in zip(images, products[::-1], strict=True):
        assert image.item.id == str(fields["id"])
        assert image.item.gender == fields["gender"]
        assert image.item.type == fields["articleType"]
        assert image.item.colour == fields["baseColour"]
        assert image.item.caption == fields["caption"]
        assert image.item.pattern is None
        assert not image.is_drawing
        assert (image.load().size, image.load().mode) == ((48, 64), "RGB")
    assert images[0].load().tobytes() != images[3].load().tobytes()


def replaced(suffix: str, data: bytes) -> Callable[[Members], Members]:
    return lambda sample: [(name, data if name.endswith(suffix) else own) for name, own in sample]


def without(suffix: str) -> Callable[[Members], Members]:
    return lambda sample: [(name, own) for name, own in sample if not name.endswith(suffix)]


def without_field(field: str) -> Callable[[Members], Members]:
    def spoil(sample: Members) -> Members:
        fields = json.loads(sample[1][1])
        del fields[field]
        return [sample[0], (sample[1][0], json.dumps(fields).encode())]

    return spoil


def cut_picture(sample: Members) -> Members:
    return [(sample[0][0], sample[0][1][: len(sample[0][1]) // 2]), sample[1]]


@pytest.mark.parametrize(
    "spoil",
    [
        without("jpg"),
        without("json"),
        without_field("id"),
        without_field("caption"),
        replaced("json", b"{"),
        replaced("json", b"[1, 2]"),
        replaced("json", b"\xff\xfe"),
        replaced("json", b""),
        replaced("jpg", b""),
        replaced("jpg", b"no picture"),
        cut_picture,
    ],
)
def test_a_broken_catalogue_sample_is_skipped_and_reported(
    spoil: Callable[[Members], Members],
    members: Members,
    tmp_path: Path,
) -> None:
    spoilt = spoil(members[4:6])
    shard = write_shard(tmp_path / "s.tar", [*members[:4], *spoilt, *members[6:]])
    images, report = read_sources([str(shard)])
    assert ids_of(images) == ["1000", "1001", "1003", "1004"]
    (sentence,) = report.sentences()
    assert sentence.startswith("Skipped 1 broken samples: 1002 (")


def test_all_broken_samples_are_counted(tmp_path: Path) -> None:
    products = catalogue()[:30]
    members = [
        member
        for number, fields in enumerate(products)
        for member in (members_of(fields)[: 1 + number % 2])
    ]
    images, report = read_sources([str(write_shard(tmp_path / "s.tar", members))])
    assert ids_of(images) == [str(fields["id"]) for fields in products[1::2]]
    (sentence,) = report.sentences()
    assert sentence.startswith("Skipped 15 broken samples: 1000 (")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_all_complete_samples_of_a_cut_shard_are_kept(
    tmp_path_factory: pytest.TempPathFactory, members: Members, data: st.DataObject
) -> None:
    # one edge of each kind as well: between two files, between two samples, within a header
    blocks = [0]
    for _, content in members:
        blocks.append(blocks[-1] + 512 + -(-len(content) // 512) * 512)
    edges = [edge + shift for edge in blocks[1:] for shift in (-1, 0, 1, 512)]
    folder = tmp_path_factory.mktemp("cut")
    cut, after = folder / "cut.tar", folder / "after.tar"
    whole = write_shard(cut, members).read_bytes()
    size = data.draw(st.integers(0, len(whole) - 1) | st.sampled_from(edges))
    cut.write_bytes(whole[:size])
    fields = catalogue()[9]
    write_shard(after, members_of(fields))

    images, report = read_sources([str(cut), str(after)])

    # a file is there as far as its last byte; what fills its last block does not matter
    complete = [
        number
        for number in range(5)
        if size >= blocks[2 * number + 1] + 512 + len(members[2 * number + 1][1])
    ]
    kept = ids_of(images)
    assert kept[-1] == str(fields["id"])
    assert kept[:-1] in (
        [str(1000 + number) for number in complete],
        # a cut in what fills the last file's last block makes that sample doubtful
        [str(1000 + number) for number in complete[:-1]],
    )
    for image in images:
        assert image.item.type
        image.load()
    if size <= len(whole.rstrip(b"\0")) // 512 * 512:
        assert any(str(cut) in note and "cut short" in note for note in report.notes)


def test_an_intact_shard_is_not_reported_as_damaged(members: Members, tmp_path: Path) -> None:
    images, report = read_sources([str(write_shard(tmp_path / "s.tar", members))])
    assert len(images) == report.read == 5
    assert report.sentences() == []


def test_a_collection_without_a_usable_sample_is_an_error(
    tmp_path: Path, members: Members, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"no-such\.tar does not exist"):
        read_collection([str(tmp_path / "no-such.tar")])
    shard = write_shard(tmp_path / "s.tar", [(name, b"") for name, _ in members])
    with pytest.raises(DataError, match=r"No usable sample in .*s\.tar"):
        read_collection([str(shard)])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Skipped 5 broken samples: 1000 (")


def test_an_image_that_breaks_after_the_check_is_named(tmp_path: Path, members: Members) -> None:
    shard = write_shard(tmp_path / "s.tar", members)
    image = read_sources([str(shard)])[0][1]
    spoilt = shard.read_bytes().replace(members[2][1], bytes(len(members[2][1])))
    shard.write_bytes(spoilt)
    with pytest.raises(ImageError, match="The image of item 1001 cannot be used"):
        image.load()


# --- collections --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_collection(tmp_path_factory.mktemp("collection"))


def test_products_are_held_out_as_a_whole(collection: list[str]) -> None:
    images, development = read_collection(collection, drawings=12)
    products = {str(fields["id"]) for fields in catalogue()}
    photos = [image for image in images if not image.is_drawing]
    assert {*ids_of(photos), *ids_of(development)} == products
    assert len(photos) + len(development) == len(products)
    assert len(development) == 4  # a twentieth of the twenty products
    names = {image.item.caption for image in development}
    assert not names & {image.item.caption for image in photos}
    assert sum(image.is_drawing for image in images) == 12
    assert not any(image.is_drawing for image in development)
    again = read_collection(collection)[1]
    assert ids_of(again) == ids_of(development)


def test_a_brace_pattern_names_shards(collection: list[str]) -> None:
    pattern = collection[0].replace("0000", "{0000..0001}")
    assert ids_of(read_collection([pattern])[0]) == ids_of(read_collection(collection)[0])


def test_a_collection_too_small_to_hold_out_products_is_an_error(
    members: Members, tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "s.tar", members)
    with pytest.raises(DataError, match="5 photos are too few to hold out 5% of the products"):
        read_collection([str(shard)])


def test_training_drawings_are_never_drawings_of_the_demo() -> None:
    images = drawn_images(500, seed=0)
    for image in images:
        assert image.is_drawing
        item = image.item
        assert (item.type, item.colour, item.pattern) not in DEMO_COMBINATIONS
    assert len({*ids_of(images)}) == 500
    again = drawn_images(500, seed=0)
    assert [image.item for image in again] == [image.item for image in images]
    assert again[3].load().tobytes() == images[3].load().tobytes()


# --- batches ------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_an_epoch_has_each_image_once_except_for_the_short_last_batch(
    count: int, size: int, seed: int
) -> None:
    batches = Batches(count, size, seed)
    assert batches.size == min(count, size)
    assert batches.per_epoch == count // batches.size
    epochs = []
    for epoch in range(3):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        drawn = np.concatenate([batches[step] for step in steps])
        assert len(set(drawn.tolist())) == len(drawn) == batches.per_epoch * batches.size
        assert set(drawn.tolist()) <= set(range(count))
        epochs.append(drawn)
    if count > 10:
        assert not np.array_equal(epochs[0], epochs[1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_a_batch_depends_only_on_its_step(steps: list[int]) -> None:
    batches = Batches(23, 5, seed=1)
    for step in steps:
        assert np.array_equal(batches[step], Batches(23, 5, seed=1)[step])
    assert not np.array_equal(Batches(23, 23, seed=1)[0], Batches(23, 23, seed=2)[0])


# --- features -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_model(VIT).backbone


def never_loaded(images: list[TrainingImage]) -> list[TrainingImage]:
    def refuse(picture: BytesPicture) -> Image.Image:
        raise AssertionError("the picture was read again")

    class Never(BytesPicture):
        __call__ = refuse

    return [
        dataclasses.replace(image, load=Never(image.item.id, b"", checksum=image.checksum))
        for image in images
    ]


def test_features_equal_the_image_encoders_output(
    backbone: Backbone, collection: list[str], tmp_path: Path
) -> None:
    images = read_collection(collection)[1]
    features = image_features(backbone, images, tmp_path, batch=3)
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    with torch.no_grad():
        v, patches = backbone.encode_image(
            torch.from_numpy(preprocess([image.load() for image in images]))
        )
    assert features.ids == tuple(ids_of(images))
    assert features.patches is not None
    np.testing.assert_allclose(features.embeds, v.numpy(), atol=0.02)  # bfloat16
    np.testing.assert_allclose(features.patches, patches.numpy(), atol=0.1)
    some = np.array([2, 0])
    v, patches = features.rows(some)
    assert v.dtype == patches.dtype == torch.float32
    assert np.array_equal(v.numpy(), features.embeds[some])
    assert np.array_equal(patches.numpy(), features.patches[some].astype(np.float32))


def test_features_are_computed_once(
    backbone: Backbone, collection: list[str], tmp_path: Path
) -> None:
    images = read_collection(collection)[1]
    first = image_features(backbone, images, tmp_path)
    again = image_features(backbone, never_loaded(images), tmp_path)
    assert np.array_equal(again.embeds, first.embeds)
    assert first.patches is not None
    assert again.patches is not None
    assert np.array_equal(again.patches, first.patches)


@pytest.mark.parametrize("change", ["weights", "items", "order", "pictures"])
def test_features_of_other_weights_or_images_are_not_reused(
    change: str, backbone: Backbone, collection: list[str], tmp_path: Path
) -> None:
    images = read_collection(collection)[1]
    image_features(backbone, images, tmp_path)
    other = images
    with pytest.MonkeyPatch.context() as patch:
        if change == "weights":
            moved = backbone.clip.visual.proj + 0.5
            patch.setattr(backbone.clip.visual.proj, "data", moved.data)
        elif change == "pictures":  # others, under the same names
            swapped = [images[1].load, images[0].load, *(one.load for one in images[2:])]
            other = [
                dataclasses.replace(image, load=load)
                for image, load in zip(images, swapped, strict=True)
            ]
            fingerprints = [data_fingerprint(some) for some in (images, other)]
            assert fingerprints[0]["sha256"] == fingerprints[1]["sha256"]
            assert fingerprints[0]["pictures"] != fingerprints[1]["pictures"]
        else:
            other = images[:2] if change == "items" else images[::-1]
        with pytest.raises(AssertionError, match="read again"):
            image_features(backbone, never_loaded(other), tmp_path)
        features = image_features(backbone, other, tmp_path)
    assert features.ids == tuple(ids_of(other))


def test_encoding_resumes_after_a_kill(
    backbone: Backbone, collection: list[str], tmp_path: Path
) -> None:
    images = read_collection(collection)[1]

    def killed(*_: Any) -> Image.Image:
        raise KeyboardInterrupt

    broken = [*images[:3], dataclasses.replace(images[3], load=killed)]
    with pytest.raises(KeyboardInterrupt):
        image_features(backbone, broken, tmp_path / "a", batch=1)
    found = image_features(backbone, images, tmp_path / "a", batch=1)
    clean = image_features(backbone, images, tmp_path / "b", batch=1)
    assert np.array_equal(found.embeds, clean.embeds)
    assert found.patches is not None
    assert clean.patches is not None
    assert np.array_equal(found.patches, clean.patches)


def test_a_kill_while_patches_are_added_leaves_complete_embeddings(
    backbone: Backbone, collection: list[str], tmp_path: Path
) -> None:
    images = read_collection(collection)[1]

    def killed(*_: Any) -> Image.Image:
        raise KeyboardInterrupt

    clean = image_features(backbone, images, tmp_path, patches=False)
    broken = [*images[:3], dataclasses.replace(images[3], load=killed)]
    with pytest.raises(KeyboardInterrupt):
        image_features(backbone, broken, tmp_path, patches=True, batch=1)
    found = image_features(backbone, images, tmp_path, patches=False)
    np.testing.assert_allclose(found.embeds, clean.embeds, atol=0.02)
