"""Data of Stage II: no reference is both in the training and in the development triplets."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_training import VIT

from cli.main import main
from train.data import DataError, Item, TrainingImage
from train.model import write_checkpoint
from train.triplets import (
    REQUEST_KINDS,
    collection_triplets,
    mine_captions,
    stage_two_data,
)
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet


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
def test_given_triplets_are_split_by_the_held_out_images(some: list[Triplet]) -> None:
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


def test_development_triplets_come_from_attributes_if_there_are_any() -> None:
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


def captioned(prefix: str, colours: Sequence[str]) -> list[TrainingImage]:
    """Return images that differ in shade, with captions that differ in phrases."""
    rows = itertools.product(colours, ("car", "boat", "hat", "dog"), ("sea", "town", "road"))
    images = []
    for number, (colour, thing, place) in enumerate(rows):
        caption = f"a {colour} {thing} near the {place}"
        picture = Image.new("RGB", (8, 8), (number * 5 % 256, number * 7 % 256, number * 90 % 256))
        item = Item(f"{prefix}{number}", "", "", "", None, caption)
        images.append(TrainingImage(item, picture.copy))
    return images


COLOURS = ("red", "green", "blue", "white", "black", "brown")


def test_mined_triplets_have_development_triplets_in_held_out_wordings_too() -> None:
    training, development = captioned("t", COLOURS), captioned("d", COLOURS)
    given = mine_captions([image.item for image in training], seed=0, limit=50)[0]
    parts = stage_two_data(training, development, given, count=0, seed=0)
    assert parts.triplets == given
    assert parts.development == development
    seen, unseen = parts.development_triplets, parts.unseen_wordings
    assert min(len(seen), len(unseen)) >= 100
    own = {image.item.id for image in development}
    assert all({t.reference, *t.targets} <= own for t in (*seen, *unseen))
    assert not {t.text for t in seen} & {t.text for t in unseen}


@pytest.mark.parametrize("why", ["few captions", "people's words"])
def test_given_triplets_select_if_none_can_be_mined(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.triplets.stage_two.DEVELOPMENT_TRIPLETS", 150)
    training = captioned("t", COLOURS)
    development = captioned("d", COLOURS)[: 4 if why == "few captions" else None]
    kind = "change" if why == "people's words" else "swap"
    given = [
        Triplet("1", kind, "t0", "in the town instead", ("t1",)),
        Triplet("2", kind, "d0", "in the town instead", ("d1",)),
    ]
    parts = stage_two_data(training, development, given, count=0, seed=0)
    assert (parts.triplets, parts.development_triplets) == (given[:1], given[1:])
    assert not parts.unseen_wordings


def test_missing_attributes_triplets_and_images_are_errors() -> None:
    images, development = plain(TRAINING), plain(DEVELOPMENT)
    with pytest.raises(
        ZtcirError, match="no attributes to make triplets from; give triplets with --trip"
    ):
        stage_two_data(images, development, count=10, seed=0)
    good = Triplet("1", "change", "t0", "red", ("t1",))
    with pytest.raises(
        DataError, match="None of 1 triplets has its reference among the 3 development"
    ):
        stage_two_data(images, development, [good], count=0, seed=0)
    gone = Triplet("2", "change", "d0", "red", ("gone",))
    with pytest.raises(DataError, match=r"does not contain 1 images .* as gone; .* --skip-missing"):
        stage_two_data(images, development, [good, gone], count=0, seed=0)
    kept = Triplet("3", "change", "d0", "red", ("t1",))
    parts = stage_two_data(
        images, development, [good, gone, kept], count=0, seed=0, skip_missing=True
    )
    assert (parts.triplets, parts.development_triplets) == ([good], [kept])
    with pytest.raises(DataError, match="No triplet is left to train on"):
        stage_two_data(images, development, [kept], count=0, seed=0)


def ztcir(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_folder_with_captions_trains_both_stages_from_the_command_line(tmp_path: Path) -> None:
    """There are no attributes, one broken image, and one triplet with a missing image."""
    folder, file = tmp_path / "photos", tmp_path / "t.jsonl"
    folder.mkdir()
    rows = itertools.product(("red", "green", "blue"), ("car", "boat", "hat"), ("sea", "town"))
    for number, (colour, thing, place) in enumerate(rows):
        for copy in range(2):
            shade = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}[colour]
            picture = Image.new("RGB", (32, 32), shade)
            picture.paste((number * 9, copy * 90, 0), (8, 8, 20, 20))
            name = f"{number:02d}-{copy}"
            picture.save(folder / f"{name}.jpg")
            caption = f"a {colour} {thing} near the {place}"
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    (folder / "broken.jpg").write_bytes((folder / "00-0.jpg").read_bytes()[:300])
    made = ztcir("triplets", "--from", "captions", "--data", folder, "--count", 64, "-o", file)
    assert made.exit_code == 0, made.output
    assert "Skipped 1 broken samples: broken.jpg" in made.stderr
    gone = '{"reference": "00-0.jpg", "text": "in black", "target": "gone.jpg"}\n'
    file.write_text(file.read_text(encoding="utf-8") + gone, encoding="utf-8")

    common = ("--data", folder, "--epochs", 1, "--batch-size", 8)
    mapped = ztcir(
        "train", "map", *common, "--backbone", VIT, "--adapter", 8, "--out", tmp_path / "map"
    )
    assert mapped.exit_code == 0, (mapped.output, mapped.exception)
    compose = (*common, "--map", tmp_path / "map", "--triplets", file, "--mined", 4)
    refused = ztcir("train", "compose", *compose, "--out", tmp_path / "compose")
    assert refused.exit_code == 1, refused.output
    assert "does not contain 1 images of the triplets, such as gone.jpg" in refused.stderr
    done = ztcir("train", "compose", *compose, "--skip-missing", "--out", tmp_path / "compose")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Left out 1 of 65 triplets: 1 images are missing, such as gone.jpg." in done.stderr
    figures = json.loads((tmp_path / "compose" / "run.json").read_text(encoding="utf-8"))["figures"]
    assert set(figures) == {"dev_mAP@10", "adapter_strength"}
    assert "steps; use --steps 80 to train longer" in done.stderr


def too_early(*args: object, **options: object) -> None:
    raise AssertionError("the collection is read")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (None, "There is no folder "),
        ("backbone", "'backbone' checkpoint, but a 'map' checkpoint is needed"),
    ],
)
def test_the_stage_one_checkpoint_is_checked_before_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, said: str
) -> None:
    monkeypatch.setattr("train.data.read_collection", too_early)
    if kind is not None:
        write_checkpoint(tmp_path / "map", {"kind": kind, "backbone": {}}, {})
    start = ("--data", "photos.tar", "--map", str(tmp_path / "map"))
    result = CliRunner().invoke(main, ["train", "compose", *start, "--out", str(tmp_path / "run")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_stage_one_checkpoint_with_another_backbone_than_the_recipe_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.data.read_collection", too_early)
    backbone = {"model": "ViT-B-32-quickgelu", "pretrained": "openai"}
    write_checkpoint(tmp_path / "map", {"kind": "map", "backbone": backbone}, {})
    call = ("train", "compose", "--data", "photos.tar", "--map", tmp_path / "map", "--config")
    result = ztcir(*call, "vit-l-14-openai")
    assert result.exit_code == 1
    assert (
        "on the backbone ViT-B-32-quickgelu:openai, not on ViT-L-14-quickgelu:openai"
        in result.stderr
    )
    for fitting in ("vit-b-32-openai", "fashion-lite"):  # the latter is of no published backbone
        assert isinstance(ztcir(*call, fitting).exception, AssertionError)


@pytest.mark.parametrize(
    ("backbone", "said"),
    [("ViT-B-23:openai", "ViT-B-23 is neither an open_clip"), (".", "is not a checkpoint")],
)
def test_the_backbone_is_checked_before_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.data.read_collection", too_early)
    result = ztcir("train", "map", "--data", "photos.tar", "--backbone", backbone)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_share_of_the_made_triplets_are_open_requests() -> None:
    images, development = catalogue("t") + catalogue("u"), catalogue("d") + catalogue("e")

    def kinds(requests: float) -> Counter[str]:
        made = collection_triplets(images, count=200, seed=0, requests=requests)
        return Counter("open" if one.kind in REQUEST_KINDS else "tidy" for one in made)

    assert kinds(0.0)["open"] == 0
    assert kinds(1.0)["tidy"] == 0
    assert 35 < kinds(0.25)["open"] <= 50  # the items have no details to ask for
    parts = stage_two_data(images, development, count=40, seed=0, requests=0.5)
    asked = {one.kind for one in parts.development_triplets}
    assert asked & set(REQUEST_KINDS)
    assert asked - set(REQUEST_KINDS)
