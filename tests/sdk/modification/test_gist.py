"""Long texts and texts in other languages are read as short English ones."""

from __future__ import annotations

import time
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztcir_sdk import Bundle
from ztcir_sdk.modification import Request, plain_letters, read_request, shortened
from ztcir_sdk.modification.foreign import foreign_names
from ztcir_sdk.modification.refused import is_value
from ztcir_sdk.modification.vocabulary import words_of

MANIFEST = Bundle.embedded().manifest
ATTRIBUTES = frozenset(MANIFEST.attribute_words).union(map(plain_letters, MANIFEST.attribute_words))
DETAILS = frozenset(MANIFEST.detail_words)


def read(text: str) -> Request:
    return read_request(text, ATTRIBUTES, DETAILS)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hätten sie das vielleicht auch in weiß", "white"),  # "sie" is not whom it is for
        ("für sie in weiß", "white, for women"),
        ("das gleiche als Kleid", "dress"),
        ("ein grünes Kleid", "green dress"),
        ("Damenschuhe in schwarz", "black shoes, for women"),
        ("Herrenmodell", "for men"),
        ("für meine Freundin", "for women"),
        ("meine Freundin hätte es gern in rot", "red"),
        ("schwarz-weiß gestreift", "black and white and striped"),
        ("hellblau", "light blue"),
        ("el vestido rojo", "red dress"),  # no "él"
        ("hat jemand das in blau", "blue"),  # no hat
        ("son sac en rouge", "red bag"),  # no son
        ("das gleiche in gru\u0308n", "green"),  # an accent of its own, as some systems write it
        ("aus Leder", "in leather"),
        ("nicht rot, sondern blau", "blue"),
        ("Kleid in black", "black dress"),
        ("la misma cosa pero blanco", "white"),
        ("para mi novia en rojo", "red, for women"),
        ("zapatos negros", "black shoes"),
        ("azul marino", "navy blue"),
        ("con cinturón negro", ""),  # a part, with its colour
        ("con rayas", "striped"),
        ("un vestido en vez de una camisa", "dress"),
        ("robe rouge", "red dress"),
        ("au lieu d'une robe, une jupe", "skirt"),
        ("la même pour mon copain", "for men"),
        ("modèle féminin", "for women"),
        ("montre-moi ça en blanc", "white"),
        ("ich suche Flip-Flops in braun", "brown flip flops"),
        ("un peu plus clair", ""),
        ("mit Kapuze", ""),
    ],
)
def test_other_languages_are_read_as_what_they_name_in_english(text: str, meant: str) -> None:
    assert read(text).text == meant


@pytest.mark.parametrize(
    "text", ["a red robe", "rock chick style in black", "tan jeans", "in a nice rose", "plus size"]
)
def test_english_is_not_taken_for_another_language(text: str) -> None:
    assert read(text).text == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (
            "Hello! I saw this one while browsing and really love how it looks, but I would need "
            "it in dark green. Do you have that?",
            "dark green",
        ),
        (
            "my sister has this exact one and I am jealous, but I look terrible in red, so could "
            "you find me one in white",
            "white",
        ),
        ("the photo shows purple but I would like to have white", "white"),
        (
            "what I am actually looking for is a watch, do you have anything like that in store?",
            "watch",
        ),
        (
            "we want to wear matching outfits on our trip, could you look for one like it for my "
            "brother please",
            "for men",
        ),
        ("do you have this as a sports shoe in red for my son", "red sports shoe, for boys"),
        ("I would like this one in black and white stripes please", "black and white stripes"),
        (
            "could you show me some black leather shoes like these, I need them at the office",
            "black leather shoes",
        ),
        ("could you find something that is a bit less formal than this one", ""),
    ],
)
def test_a_long_message_is_read_as_the_request_in_it(text: str, meant: str) -> None:
    assert read(text).text == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("from kurta to shirt", "shirt"),
        ("not a kurta but a shirt", "a shirt"),
        ("not kurta, shirt", "shirt"),
        ("a shirt instead of a kurta", "a shirt"),
        ("instead of a kurta, a shirt", "a shirt"),
        ("replace the kurta with a shirt", "a shirt"),
        ("substitute a shirt for the kurta", "a shirt"),
        ("I prefer a shirt to a kurta", "i prefer a shirt"),
        ("kurta -> shirt", "shirt"),
        ("not for men but for women", "for women"),
        ("women instead of men", "women"),
        ("change the colour from red to blue", "blue"),
        ("swap the laces for velcro", "swap the laces for velcro"),  # neither is known
    ],
)
def test_what_is_to_be_exchanged_is_not_asked_for(text: str, meant: str) -> None:
    assert read(text).text == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a gift for a woman", "for a woman"),
        ("white would suit me better", "white"),
        ("different colour: white", "white"),
    ],
)
def test_words_that_only_look_like_products_are_left_out(text: str, meant: str) -> None:
    assert read(text).text == meant


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("purple doesn't suit me", "purple"),
        ("hold the purple", "purple"),
        ("purple is a no go", "purple"),
        ("not into purple", "purple"),
        ("I'm over purple", "purple"),
        ("todo menos rojo", "red"),
    ],
)
def test_a_refusal_leaves_nothing_to_compose(text: str, refused: str) -> None:
    assert read(text) == Request("", (refused,))


def test_a_bundle_that_does_not_know_the_english_word_gets_the_text_as_it_is() -> None:
    assert shortened("rote Schuhe", frozenset({"schuhe"}), frozenset()) is None
    known = shortened("rote Schuhe", frozenset({"shoes"}), frozenset())
    assert known is not None
    assert known.text == "red shoes"


def test_the_default_bundle_knows_every_english_word_and_reads_every_foreign_one() -> None:
    path = resources.files("ztcir_sdk.modification").joinpath("foreign_words.txt")
    kind = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
            continue
        english, _, languages = line.partition(": ")
        assert any(word in {*ATTRIBUTES, *DETAILS} or is_value(word) for word in words_of(english))
        for before, phrases in zip(("für ", "para ", "pour "), languages.split("|"), strict=True):
            for phrase in phrases.split():
                named = foreign_names(f"{before}{phrase.replace('_', ' ')}")
                assert named is not None, phrase
                assert [one.kind for one in named] == [kind], phrase
                assert [one.english for one in named] == [english], phrase


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(read(text).text, str)


@pytest.mark.parametrize(
    "part", ["not a ", "prefer a to b over c ", "statt rot ", "le ", "for ", "red and ", "a"]
)
def test_reading_a_huge_text_takes_no_longer_than_its_length_asks(part: str) -> None:
    read(part * 10)
    started = time.perf_counter()
    read(part * (10_000 // len(part)))
    assert time.perf_counter() - started < 2
