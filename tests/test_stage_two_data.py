"""What Stage II trains on and selects by: no reference in both, whatever the triplets are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train.data import DataError, TrainingImage
from train.stage_two_data import stage_two_data
from train.triplets import Item, Triplet
from ztcir_sdk.errors import ZtcirError


def blank() -> Image.Image:
    return Image.new("RGB", (4, 4))


def plain(names: Sequence[str]) -> list[TrainingImage]:
    return [TrainingImage(Item(name, "", "", "", None, ""), blank) for name in names]


def catalogue(prefix: str) -> list[TrainingImage]:
    rows = itertools.product(("Red", "Tan"), ("Ring", "Hat"), ("Men", "Women"))
    return [
        TrainingImage(Item(f"{prefix}{n}.jpg", who, kind, colour, None, ""), blank)
        for n, (colour, kind, who) in enumerate(rows)
    ]


TRAINING, DEVELOPMENT = [f"t{n}" for n in range(5)], [f"d{n}" for n in range(3)]
names = st.sampled_from(TRAINING + DEVELOPMENT)
triplet_lists = st.lists(
    st.builds(
        Triplet,
        names,
        st.just("change"),
        names,
        st.just("red"),
        st.lists(names, min_size=1).map(tuple),
    ),
    min_size=1,
    max_size=12,
)


@given(triplet_lists)
def test_given_triplets_are_parted_by_what_is_held_out(some: list[Triplet]) -> None:
    try:
        parts = stage_two_data(plain(TRAINING), plain(DEVELOPMENT), some, count=0, seed=0)
    except DataError:
        fit = [t for t in some if t.reference in TRAINING and {*t.targets} & {*TRAINING}]
        assert not fit or not any(t.reference in DEVELOPMENT for t in some)
        return
    for triplet in parts.triplets:
        assert {triplet.reference, *triplet.targets} <= {*TRAINING}
    gallery = {image.item.id for image in parts.development}
    assert gallery >= {*DEVELOPMENT}
    for triplet in parts.development_triplets:
        assert triplet.reference in DEVELOPMENT
        assert {*triplet.targets} <= gallery
    held_out = [t for t in some if t.reference in DEVELOPMENT]
    assert parts.development_triplets == held_out
    lost = [t for t in some if t.reference in TRAINING and not {*t.targets} & {*TRAINING}]
    assert len(parts.triplets) + len(held_out) + len(lost) == len(some)
    assert not parts.unseen_wordings


def test_attributes_select_whatever_is_trained_on() -> None:
    training, development = catalogue("t"), catalogue("d")
    made = stage_two_data(training, development, count=30, seed=0)
    assert len(made.triplets) == 30
    some = [
        Triplet("1", "change", "t0", "red", ("t1",)),
        Triplet("2", "change", "t0", "x", ("d1",)),
    ]
    parts = stage_two_data(training, development, some, count=30, seed=0)
    assert [(t.reference, t.targets) for t in parts.triplets] == [("t0.jpg", ("t1.jpg",))]
    assert parts.development == development
    assert parts.development_triplets == made.development_triplets
    own = {image.item.id for image in development}
    for triplet in (*parts.development_triplets, *parts.unseen_wordings):
        assert {triplet.reference, *triplet.targets} <= own
    assert len(parts.unseen_wordings) == len(parts.development_triplets) == 1500
    assert {t.text for t in parts.unseen_wordings} != {t.text for t in parts.development_triplets}


def test_what_is_missing_is_said() -> None:
    images, development = plain(TRAINING), plain(DEVELOPMENT)
    with pytest.raises(
        ZtcirError, match="no attributes to make triplets of; give some with --trip"
    ):
        stage_two_data(images, development, count=10, seed=0)
    good = Triplet("1", "change", "t0", "red", ("t1",))
    with pytest.raises(DataError, match="Of 1 triplets none has its reference among the 3 images"):
        stage_two_data(images, development, [good], count=0, seed=0)
    gone = Triplet("2", "change", "d0", "red", ("gone",))
    with pytest.raises(DataError, match=r"does not hold, such as gone; .* --skip-missing"):
        stage_two_data(images, development, [good, gone], count=0, seed=0)
    kept = Triplet("3", "change", "d0", "red", ("t1",))
    parts = stage_two_data(
        images, development, [good, gone, kept], count=0, seed=0, skip_missing=True
    )
    assert (parts.triplets, parts.development_triplets) == ([good], [kept])
    with pytest.raises(DataError, match="None of the triplets is left to train on"):
        stage_two_data(images, development, [kept], count=0, seed=0)
