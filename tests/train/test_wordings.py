"""Wordings: their number, how slots are filled, and which are never trained on."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.wordings import (
    CHANGES,
    KINDS,
    SHAPES,
    attribute_families,
    attribute_wording,
    phrase_families,
    product_caption,
)
from train.wordings.attribute_wordings import HELD_OUT_FAMILIES, readings, skeleton
from train.wordings.frames import (
    FILLERS,
    FRAMES,
    REFERENCE_CLAUSES,
    STRAY_WORDS,
    TALK_AFTER,
    TALK_BEFORE,
    WEARERS,
)
from train.wordings.noise import add_typing_noise, vary_spelling
from train.wordings.surface_forms import SLOTS, add_article, verbalise, weighted_forms
from ztcir_sdk.drawings.drawings import DEMO_WORDINGS
from ztcir_sdk.drawings.drawings import KINDS as DEMO_KINDS
from ztcir_sdk.drawings.drawings import Kind as DemoKind
from ztcir_sdk.evaluation.attribute_caption import attribute_caption

VALUES = {
    "colour": ("Black", "Navy Blue", "Off White", "Multi", "Olive", "chartreuse"),
    "type": ("Tshirts", "Casual Shoes", "Laptop Bag", "Deodorant", "Ipad", "dress", "hoverboards"),
    "gender": ("Men", "Women", "Unisex", "Boys", "Girls"),
    "pattern": ("plain", "striped", "dotted", "checked", "paisley"),
}
MIN_TEMPLATES = {"colour": 60, "type": 60, "gender": 60, "pattern": 40}

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str, str]:
    kind = draw(kinds)
    old, new = draw(st.permutations(VALUES[kind]))[:2]
    return kind, old, new


def keys(kind: str, *, held_out: bool) -> set[str]:
    offered = attribute_families(kind, held_out=held_out).values()
    return {skeleton(reading) for some in offered for t in some for reading in readings(t)}


def word(*change: Any, **options: Any) -> str:
    return attribute_wording(*change, **options).text


def surface_forms(kind: str, value: str) -> frozenset[str]:
    """Return the forms of a value in all slots."""
    return frozenset(form for slot in SLOTS[kind] for form in weighted_forms(kind, value, slot)[0])


def names(text: str, kind: str, value: str) -> bool:
    forms = "|".join(map(re.escape, surface_forms(kind, value)))
    return re.search(rf"(?<!\w)(?:{forms})(?!\w)", text) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_many_families_and_templates(kind: str) -> None:
    training = attribute_families(kind, held_out=False)
    assert len(training) >= 10
    assert len({t for some in training.values() for t in some}) >= MIN_TEMPLATES[kind]
    assert set(attribute_families(kind, held_out=True)) == HELD_OUT_FAMILIES[kind]
    assert len(HELD_OUT_FAMILIES[kind]) >= 4
    assert not training.keys() & HELD_OUT_FAMILIES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_template_equals_a_training_template(kind: str) -> None:
    assert not keys(kind, held_out=True) & keys(kind, held_out=False)


def test_no_template_nests_choices() -> None:
    """Choices are drawn from the innermost brackets only: the others would end up in a text."""
    attributes = (attribute_families(kind, held_out=out) for kind in KINDS for out in (False, True))
    phrases = (
        {family.name: family.templates for family in phrase_families(change, shape, held_out=out)}
        for change in CHANGES
        for shape in SHAPES
        for out in (False, True)
    )
    templates = [t for some in (*attributes, *phrases) for family in some.values() for t in family]
    assert sum("(" in template for template in templates) > 50
    for reading in (reading for template in templates for reading in readings(template)):
        assert not set("()|") & set(reading), reading


@pytest.mark.parametrize("kind", DEMO_KINDS)
def test_no_training_template_is_a_demo_wording(kind: DemoKind) -> None:
    asked = {skeleton(template) for template in DEMO_WORDINGS[kind]}
    assert asked
    assert not asked & keys(kind, held_out=False)


def test_no_training_text_is_a_demo_wording() -> None:
    # "the same one in {colour}" is the demo's; filled training texts must differ too
    rng = np.random.default_rng(0)
    for kind, templates in DEMO_WORDINGS.items():
        value = {"colour": "teal", "type": "dress", "pattern": "dotted"}[kind]
        filled = {re.sub(r"\{\w+\}", "{}", skeleton(t)).replace("{}", value) for t in templates}
        for _ in range(4000):
            text = word(kind, VALUES[kind][0], value, rng)
            plain = re.sub(rf"\b(?:an?|some) {value}", value, text.replace("colour", "color"))
            assert " ".join(re.sub(r"[^a-z ]+", " ", plain).split()) not in filled


@given(changes(), seeds)
def test_texts_come_from_the_families_that_were_asked_for(
    change: tuple[str, str, str], seed: int
) -> None:
    kind, old, new = change
    kept = {other: VALUES[other][0] for other in KINDS if other != kind}
    for held_out in (False, True):
        rng = np.random.default_rng(seed)
        wording = attribute_wording(kind, old, new, rng, held_out=held_out, kept=kept)
        assert (wording.family in HELD_OUT_FAMILIES[kind]) == held_out


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_phrase_occurs_in_training_texts(kind: str) -> None:
    old, new = VALUES[kind][:2]
    slot = r"(?:\S+ ?){1,4}"
    held_out = [
        re.compile(re.sub(r"\\\{\w+\\\}", lambda _: slot, re.escape(reading)).replace("\\ ", " "))
        for some in attribute_families(kind, held_out=True).values()
        for template in some
        for reading in readings(template)
        if len(re.sub(r"\{\w+\}", "", reading).split()) >= 3  # "think {new}" is in much
    ]
    assert len(held_out) >= 9
    rng = np.random.default_rng(1)
    for _ in range(1500):
        text = word(kind, old, new, rng)
        assert not any(phrase.fullmatch(text) for phrase in held_out), text


# words that are typical of held-out families
TYPICAL_WORDS = (
    "would suit|suits me|outfit|favourite|favorite|my thing|shame|pity|wish|if only"
    "|apart from|at once|alas|imagine|suppose|what if|as if|dipped|ditch|out with|in with"
    "|trade|goodbye|lose|in the mood"
    "|time for|wardrobe|lacks|trip|handier|dressing|complete|missing|next on|came for|spirit"
    "|designed .* after|in favou?r|gift|give this to|birthday|behalf|surprise|who'd|too bad"
    "|aimed|tailored|department and|all the way|picture it|were it"
)


@pytest.mark.parametrize("kind", KINDS)
def test_training_texts_have_no_words_that_are_typical_of_held_out_families(kind: str) -> None:
    barred = re.compile(rf"(?<!\w)(?:{TYPICAL_WORDS})(?!\w)")
    held_out = [
        reading
        for some in attribute_families(kind, held_out=True).values()
        for template in some
        for reading in readings(template)
    ]
    assert sum(barred.search(reading) is not None for reading in held_out) > 0.7 * len(held_out)
    old, new = VALUES[kind][:2]
    rng = np.random.default_rng(2)
    for _ in range(3000):
        text = word(kind, old, new, rng)
        assert not barred.search(text), text


def test_talk_and_frames_name_no_value(shared_data: Path) -> None:
    """Context must not look like a modification."""
    with (shared_data / "fashion-products/metadata.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    values = {("pattern", value) for value in ("plain", "striped", "dotted", "checked")}
    for kind, column in {"colour": "baseColour", "type": "articleType", "gender": "gender"}.items():
        values |= {(kind, row[column]) for row in rows} - {(kind, "NA"), (kind, "")}
    forms = {form for kind, value in values for form in surface_forms(kind, value)}
    named = re.compile("|".join(rf"\b{re.escape(form)}\b" for form in forms))
    about = [clause for parts in REFERENCE_CLAUSES.values() for part in parts for clause in part]
    frames = [frame for _, some in FRAMES.values() for frame in some]
    said = (*TALK_BEFORE, *TALK_AFTER, *FILLERS, *STRAY_WORDS, *about, *frames, *WEARERS)
    assert len(said) > 600
    for text in said:
        assert not named.search(re.sub(r"\{\w+\}", "", text)), text


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_has_a_large_vocabulary(kind: str) -> None:
    """Else a model takes a new context word for a part of the modification."""
    old, new = VALUES[kind][:2]
    rng = np.random.default_rng(3)
    words = Counter(spelt for _ in range(6000) for spelt in word(kind, old, new, rng).split())
    assert len(words) > 1000
    named_old = sum(names(word(kind, old, new, rng), kind, old) for _ in range(1000))
    assert 300 < named_old < 600


def test_typing_noise_does_not_change_slots() -> None:
    slots = re.compile(r"\{\w+\}")
    sentence = "please change the colour of {kept_colour} {kept_type}, not {old_a}, to {new_colour}"
    rng = np.random.default_rng(0)
    noisy = {add_typing_noise(vary_spelling(sentence, rng), rng) for _ in range(2000)}
    assert len(noisy) > 150
    for text in noisy:
        assert slots.findall(text) == slots.findall(sentence)
    assert any("plaese" in text for text in noisy)  # a typo
    assert any("," not in text for text in noisy)  # no punctuation
    assert any(" the " not in text for text in noisy)  # telegraphic


@given(changes(), seeds, st.booleans(), st.booleans())
def test_every_slot_is_filled_and_the_new_value_is_named(
    change: tuple[str, str, str], seed: int, held_out: bool, names_kept: bool
) -> None:
    kind, old, new = change
    kept = {other: VALUES[other][1] for other in KINDS} if names_kept else None
    text = word(kind, old, new, np.random.default_rng(seed), held_out=held_out, kept=kept)
    assert not re.search(r"[{}()|]", text)
    assert text == " ".join(text.split())
    assert text == text.lower()
    assert names(text, kind, new), text


@given(changes(), seeds, st.booleans())
def test_an_equal_generator_gives_an_equal_text(
    change: tuple[str, str, str], seed: int, held_out: bool
) -> None:
    texts = {word(*change, np.random.default_rng(seed), held_out=held_out) for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_texts_vary_and_mostly_use_the_catalogues_words(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = VALUES[kind]
    texts: set[str] = set()
    raw = 0
    for number in range(2000):
        new = values[number % len(values)]
        text = word(kind, values[(number + 1) % len(values)], new, rng)
        texts.add(text)
        raw += re.search(rf"(?<!\w){re.escape(new.lower())}(?!\w)", text) is not None
    assert raw > 0.55 * 2000
    assert len(texts) > 1300


def test_both_spellings_occur() -> None:
    rng = np.random.default_rng(0)
    texts = [word("colour", "Black", "Red", rng) for _ in range(2000)]
    spelt = Counter(s for text in texts for s in re.findall(r"\bcolou?r\b", text))
    assert min(spelt["colour"], spelt["color"]) > 50


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("red", "a red"),
        ("orange", "an orange"),
        ("off white", "an off white"),
        ("unisex", "a unisex"),
        ("umbrella", "an umbrella"),
    ],
)
def test_the_article_fits_the_sound(phrase: str, expected: str) -> None:
    assert add_article(phrase) == expected


def test_a_surface_form_has_one_meaning(shared_data: Path) -> None:
    """No surface form names two values of the catalogue, and every raw value is a form."""
    with (shared_data / "fashion-products/metadata.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    columns = {"colour": "baseColour", "type": "articleType", "gender": "gender"}
    for kind, column in columns.items():
        meanings: dict[str, str] = {}
        for value in sorted({row[column] for row in rows if row["split"] == "train"} - {"NA", ""}):
            forms = surface_forms(kind, value)
            assert value.lower() in forms
            assert len(forms) > 1
            for form in forms:
                assert meanings.setdefault(form, value) == value, form


@given(kinds, st.text(alphabet="abcxyz XYZ", min_size=1).filter(str.strip), seeds)
def test_a_value_without_surface_forms_is_named_as_it_is(kind: str, value: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for slot in SLOTS[kind]:
        assert verbalise(kind, value, slot, rng) in surface_forms(kind, value)
    assert " ".join(value.lower().split()) in surface_forms(kind, value)


def test_invalid_arguments_are_errors() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="size"):
        word("size", "s", "m", rng)
    with pytest.raises(ValueError, match="colour is empty"):
        word("colour", "Red", " ", rng)
    with pytest.raises(ValueError, match="a caption needs"):
        product_caption({"colour": "NA", "type": None}, rng)


@given(
    st.fixed_dictionaries(
        {kind: st.sampled_from([*values, None, "NA", ""]) for kind, values in VALUES.items()}
    ),
    seeds,
)
def test_a_caption_names_only_known_attributes(
    attributes: dict[str, str | None], seed: int
) -> None:
    known = {k: v for k, v in attributes.items() if v not in (None, "NA", "")}
    if not known.keys() - {"pattern"}:
        return
    text = product_caption(attributes, np.random.default_rng(seed))
    assert not re.search(r"[{}]", text)
    assert text == text.lower()
    assert any(names(text, kind, str(value)) for kind, value in known.items())


def test_captions_are_often_but_not_always_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    attributes = {"colour": "Navy Blue", "type": "Tshirts", "gender": "Men"}
    captions = Counter(product_caption(attributes, rng) for _ in range(1000))
    assert captions["navy blue tshirts for men"] > 250
    assert len(captions) > 150
    assert captions["tshirts"] > 5  # a part alone
    striped = {product_caption({**attributes, "pattern": "striped"}, rng) for _ in range(300)}
    assert "navy blue striped tshirts for men" in striped


def test_the_attribute_caption_has_the_catalogues_words() -> None:
    assert attribute_caption("Navy Blue", "Casual Shoes", "Men") == "navy blue casual shoes for men"
    assert attribute_caption("red", "t-shirt", "") == "red t-shirt"
