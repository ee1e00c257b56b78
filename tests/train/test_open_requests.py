"""Triplets of open requests: what each kind asks for, and which items are right."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from train.data import Item, TrainingImage
from train.settings import BackboneTraining
from train.stages.attribute_texts import Texts
from train.stages.triplet_rows import TripletRows
from train.triplets import REQUEST_KINDS, synthesise_requests
from train.triplets.open_requests import unknown_words
from train.wordings import languages, open_frames
from train.wordings.misspellings import misspell
from train.wordings.open_wordings import keep_text, long_text, refusal_text, two_changes_text
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet

COLOURS = ("Red", "Blue", "Black", "White")
TYPES = ("Shirts", "Watches", "Heels")
GENDERS = ("Men", "Women")


def catalogue(copies: int = 3) -> list[Item]:
    values = [(c, t, g) for c in COLOURS for t in TYPES for g in GENDERS]
    return [
        Item(
            id=f"{number}-{copy}",
            gender=gender,
            type=kind,
            colour=colour,
            pattern=None,
            caption=f"Brand {gender} {('Printed', 'Solid', 'Leather')[copy % 3]} {colour} {kind}",
        )
        for number, (colour, kind, gender) in enumerate(values)
        for copy in range(copies)
    ]


ITEMS = catalogue()
BY_ID = {item.id: item for item in ITEMS}


def attributes(name: str) -> tuple[str, str, str]:
    item = BY_ID[name]
    return item.colour, item.type, item.gender


@pytest.fixture(scope="module")
def made() -> list:  # type: ignore[type-arg]
    return synthesise_requests(ITEMS, seed=3, limit=800)


def test_every_kind_is_made_by_its_share(made: list) -> None:  # type: ignore[type-arg]
    counts = Counter(triplet.kind for triplet in made)
    assert counts.keys() == REQUEST_KINDS.keys()
    for kind, share in REQUEST_KINDS.items():
        assert counts[kind] == pytest.approx(share * len(made), rel=0.5)


def test_right_answers_are_those_of_the_kind(made: list) -> None:  # type: ignore[type-arg]
    for triplet in made:
        reference = attributes(triplet.reference)
        targets = [attributes(name) for name in triplet.targets]
        changed = {sum(a != b for a, b in zip(reference, one, strict=True)) for one in targets}
        assert triplet.reference not in triplet.targets
        if triplet.kind in ("typo", "instead", "language"):
            assert changed == {1}
            assert len(set(targets)) == 1
        elif triplet.kind == "two":
            assert changed == {2}
        elif triplet.kind == "keep":
            assert set(targets) == {reference}
        elif triplet.kind == "not":
            assert all(one[1:] == reference[1:] and one[0] != reference[0] for one in targets)
            same_kind = [item for item in ITEMS if (item.type, item.gender) == reference[1:]]
            assert len(targets) == sum(item.colour != reference[0] for item in same_kind)
        elif triplet.kind == "detail":
            assert all(one[1:] == reference[1:] for one in targets)


def test_equal_seeds_give_equal_triplets() -> None:
    first, again, other = (synthesise_requests(ITEMS, seed=seed, limit=60) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_noise_gives_wrong_targets() -> None:
    clean = synthesise_requests(ITEMS, seed=1, limit=100)
    noisy = synthesise_requests(ITEMS, seed=1, limit=100, noise=0.3)
    spoilt = [b for a, b in zip(clean, noisy, strict=True) if a != b]
    assert len(spoilt) == round(0.3 * len(clean))
    assert all(len(one.targets) == 1 for one in spoilt)


def test_a_catalogue_of_one_thing_is_refused() -> None:
    one = [
        Item(id=str(i), gender="Men", type="Shirts", colour="Red", pattern=None, caption="x")
        for i in range(5)
    ]
    with pytest.raises(ZtcirError, match="nothing to ask for"):
        synthesise_requests(one, seed=0, limit=5)
    with pytest.raises(UsageError, match="noise"):
        synthesise_requests(ITEMS, seed=0, limit=5, noise=2)


@given(
    text=st.text("abcdefghijklmnopqrstuvwxyz ", min_size=3, max_size=30), seed=st.integers(0, 99)
)
def test_a_misspelt_text_has_one_other_word(text: str, seed: int) -> None:
    words = text.split(" ")
    found = misspell(text, np.random.default_rng(seed)).split(" ")
    assert len(found) == len(words)
    changed = [old for old, new in zip(words, found, strict=True) if old != new]
    possible = [word for word in words if len(word) > 2]
    assert len(changed) == (1 if possible else 0)


def test_templates_are_filled_completely() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        texts = (
            refusal_text("Navy Blue", rng),
            two_changes_text({"colour": "Red", "type": "Shirts"}, rng),
            two_changes_text({"colour": "Red", "gender": "Women"}, rng),
            two_changes_text({"type": "Watches", "gender": "Women"}, rng),
            long_text("make it red", rng),
        )
        for text in texts:
            assert not set("{}|()") & set(text), text
            assert text == text.strip()


def test_each_language_names_each_value() -> None:
    for table in (languages.COLOURS, languages.TYPES, languages.GENDERS):
        for value, words in table.items():
            assert len(words) == len(languages.LANGUAGES), value
            assert all(all(one.strip() for one in word.split("|")) for word in words), value


def test_no_frame_that_measures_is_trained(shared_data: Path) -> None:
    """Longer texts of the validation queries; a bare colour word is everybody's."""
    file = shared_data / "fashion-products" / "val-open-triplets.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kinds = {"not", "instead", "long", "keep", "language"}
    measured = {line["text"].lower() for line in lines if line["kind"] in kinds}
    items = [
        Item(id=f"{i}-{j}", gender=gender, type=kind, colour=colour, pattern=None, caption="x")
        for i, colour in enumerate(("Red", "Blue", "Black", "White", "Grey", "Green", "Pink"))
        for j, (kind, gender) in enumerate([("Tshirts", "Men"), ("Heels", "Women")] * 2)
    ]
    made = synthesise_requests(items, seed=0, limit=4000)
    texts = {triplet.text.lower() for triplet in made if len(triplet.text.split()) > 2}
    assert not {text for text in measured if len(text.split()) > 2} & texts
    assert not measured & {text.lower() for text in open_frames.UNANSWERABLE}


def test_descriptions_are_foreign_and_misspelt_where_asked_for() -> None:
    images = [TrainingImage(item, partial(Image.new, "RGB", (4, 4))) for item in ITEMS]

    def words(**shares: float) -> Counter[str]:
        texts = Texts(images, BackboneTraining(descriptions=6, **shares))  # type: ignore[arg-type]
        decoder = SimpleTokenizer()
        rows = texts.ids[:, 1:].reshape(-1, texts.ids.shape[-1]).tolist()
        return Counter(
            word
            for row in rows
            for word in decoder.decode([one for one in row if 0 < one < 49406]).split()
        )

    plain, foreign, misspelt = words(), words(foreign=1.0), words(misspelt=1.0)
    for word in ("für", "para", "pour"):
        assert foreign[word] > len(ITEMS)
        assert not plain[word]
    known = set(plain)
    slips = sum(count for word, count in misspelt.items() if word not in known)
    assert slips > 0.8 * 6 * len(ITEMS)


def test_requests_that_no_photo_answers_have_words_that_the_catalogue_lacks() -> None:
    unknown = set(unknown_words(["Brand Men Zebra Print Shirt".lower()]))
    assert len(unknown) > 10_000
    assert not {"zebra", "print", "shirt", "blue", "pour", "leather"} & unknown
    assert {"weather", "guitar"} <= unknown
    rng = np.random.default_rng(0)
    texts = [keep_text(rng, ("guitar",)) for _ in range(300)]
    assert 60 < sum("guitar" in text for text in texts) < 240
    assert not any("guitar" in keep_text(rng) for _ in range(300))


def test_the_reference_of_a_request_that_no_photo_answers_is_right_in_training() -> None:
    triplets = [Triplet("a", kind, "r", "text", ("s",)) for kind in ("keep", "colour")]
    rows = TripletRows.of(triplets, ["r", "s", "t"])
    gallery = torch.nn.functional.normalize(torch.eye(3), dim=-1)
    answers = rows.answers(np.array([1, 1]), gallery, 0.98)
    assert answers.right(torch.arange(3)).tolist() == [[True, True, False], [False, True, False]]
    ignored = answers.ignored(gallery, torch.arange(3)).tolist()
    assert ignored == [[False, True, False], [False, True, False]]
    taken = rows.take(np.array([1])).answers(np.array([1]), gallery, 0.98)
    assert taken.right(torch.arange(3)).tolist() == [[False, True, False]]
