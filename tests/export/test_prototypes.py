"""Prototypes and words of attributes and details, from the images that a model was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import D, unit, write_tiny_bundle

from export.default import attribute_words, detail_words
from export.prototypes import attribute_prototypes, with_prototypes
from train.data import Item, TrainingImage
from ztcir_sdk import Retriever, UsageError
from ztcir_sdk.encoder import Encoder


def image(name: str, colour: str, shade: int, caption: str = "") -> TrainingImage:
    item = Item(
        name,
        gender="Women" if colour else "",
        type="Dresses" if colour else "",
        colour=colour,
        pattern=None,
        caption=caption,
    )  #
    return TrainingImage(item, lambda: Image.new("RGB", (8, 8), (shade, 0, 0)))


def test_a_prototype_is_the_mean_image_of_equal_attributes(tmp_path: Path) -> None:
    encoder = Encoder(write_tiny_bundle(tmp_path / "b"))
    images = [
        image("a", "Red", 250),
        image("b", "Blue", 10),
        image("c", "Red", 150),
        image("drawing-1", "Red", 60),
        image("d", "", 90),
    ]
    found = attribute_prototypes(encoder, images)
    a, b, c, d, _ = encoder.encode_images([one.load() for one in images])
    np.testing.assert_allclose(found, unit(np.stack([a + c, b, d])), atol=1e-3)
    with pytest.raises(UsageError, match="need images with attributes"):
        attribute_prototypes(encoder, images[-1:])


def test_prototypes_are_added_to_a_bundle_and_nothing_else_changes(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    vectors = np.eye(D, dtype=np.float16)
    added = with_prototypes(plain, tmp_path / "added", vectors, weight=0.3, temperature=0.02)
    before, after = plain.manifest.to_dict(), added.manifest.to_dict()
    assert set(after) - set(before) == {"prototypes"}
    assert set(after["files"]) - set(before["files"]) == {"prototypes.f16"}
    assert {entry for entry in before if before[entry] != after[entry]} <= {"files", "ztcir"}
    retriever = Retriever(added)
    reference = retriever.reference(Image.new("RGB", (8, 8)))
    assert not np.array_equal(
        reference.encode("red"), Retriever(plain).reference(Image.new("RGB", (8, 8))).encode("red")
    )
    with pytest.raises(UsageError):
        with_prototypes(plain, added.path, vectors, weight=0.3, temperature=0.02)


def test_attributes_are_known_as_people_say_them_in_four_languages() -> None:
    words = attribute_words([image("a", "Navy Blue", 9)])
    assert {"navy", "dress", "women", "lady", "kleid", "vestido", "robe", "damen"} <= set(words)
    assert not {"for", "the", "para", "und", "toddler", "same"} & set(words)
    assert list(words) == sorted(set(words))


def test_words_for_details_are_of_captions_and_of_no_other_request() -> None:
    colours = ("Red", "Blue", "Green", "Black")
    images = [
        image(f"{number}", colours[number % 4], number, f"Acme {colours[number % 4]} silk dress")
        for number in range(80)
    ]
    words = set(detail_words(images))
    assert {"silk", "acme"} <= words
    assert not {"red", "dress", "women", "make", "it", "please", "different"} & words
