"""Words that a model was not trained on: found in every script, with a likely correction."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Bundle, Retriever, UnknownWord
from ztcir_sdk.errors import BundleError, UsageError
from ztcir_sdk.modification import Vocabulary, words_of

WORDS = """
blue green red make this it black shirt short shirts dress with pockets for women men don neck size
das gleiche in blau grün weiß mismo azul en la même homme été платье синее सलवार kurta
"""
KNOWN = Vocabulary(WORDS.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Make it RED, please!", ["make", "it", "red", "please"]),
        ("men's V-neck t-shirt", ["men", "neck", "shirt"]),
        ("don\u2019t", ["don"]),
        ("size 42, 3XL, 90s, M", ["size"]),
        ("l'homme de l\u2019été", ["homme", "de", "été"]),
        ("e\u0301te\u0301", ["été"]),  # composed, as a keyboard writes it
        ("FU\u00dfBALL STRA\u00dfE", ["fußball", "straße"]),
        ("\uff32\uff25\uff24\u3000\uff42ag", ["red", "bag"]),
        ("सलवार कमीज़", ["सलवार", "कमीज़"]),  # vowel signs are no letters
        ("soft\u00adhyphen", ["softhyphen"]),
        ("red\u200bdish \U0001f457 $ % _ red_dish", ["reddish", "red", "dish"]),
        ("bl&uuml;te &amp; R&B", ["blüte"]),
        ("a é 7 '' - ...", []),
        ("", []),
    ],
)
def test_words_are_found_in_every_script(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_has_words_that_are_words(text: str) -> None:
    for word in words_of(text):
        assert len(word) >= 2
        assert word == word.lower()
        assert not any(char.isspace() or char.isdigit() for char in word)
    if words_of(text):
        assert Vocabulary(words_of(text)).unknown_words(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "Make this RED!",
        "for women's, don't, v-neck",
        "das GLEICHE in blau, en azul, la même à l\u2019homme",
        "3 shirts, size 42 (XL2)",
        "Платье СИНЕЕ",
        "सलवार kurta",
        "ÉTÉ, e\u0301te\u0301",
        "",
    ],
)
def test_known_words_are_known_whatever_their_form(text: str) -> None:
    assert KNOWN.unknown_words(text) == ()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mkae", "make"),
        ("bule", "blue"),
        ("blu", "blue"),
        ("shrit", "shirt"),  # not short, which is near as well
        ("rde", "red"),
        ("greeen", "green"),
        ("blak", "black"),
        ("pokets", "pockets"),
        ("GRUN", "grün"),
        ("gleihce", "gleiche"),
        ("omen's", None),  # the first letter of a short word is rarely wrong
        ("wimen's", "women's"),
        ("hpockets", "pockets"),
        ("rad", None),  # a word of three letters is near to many
        ("boat", None),
        ("zorp", None),
        ("qwertyuiop", None),
        ("赤くして", None),
    ],
)
def test_a_likely_slip_has_a_suggestion(typed: str, meant: str | None) -> None:
    assert KNOWN.unknown_words(f"make it {typed}") == (UnknownWord(typed.lower(), meant),)


def test_each_unknown_word_is_reported_once_in_order() -> None:
    found = KNOWN.unknown_words("zorp the bule zorp, BULE")
    assert [word.word for word in found] == ["zorp", "bule"]  # "the" is no word of a vocabulary
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].word = "other"  # type: ignore[misc]


@given(data=st.data(), word=st.sampled_from([word for word in KNOWN.words if len(word) > 5]))
@settings(max_examples=60, deadline=None)
def test_one_slip_inside_a_long_word_is_corrected(data: st.DataObject, word: str) -> None:
    place = data.draw(st.integers(1, len(word) - 2))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    slips = {
        "swapped": word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        "lost": word[:place] + word[place + 1 :],
        "doubled": word[:place] + word[place] + word[place:],
        "another": word[:place] + letter + word[place + 1 :],
    }
    typed = slips[data.draw(st.sampled_from(sorted(slips)))]
    found = KNOWN.unknown_words(typed)
    if typed not in KNOWN:
        nearest = {word, "shirt", "short"} if word == "shirts" else {word}
        assert found[0].suggestion in nearest


def test_of_two_words_that_are_equally_near_the_commoner_is_suggested() -> None:
    assert Vocabulary(["black", "block"]).unknown_words("blbck")[0].suggestion == "black"
    assert Vocabulary(["block", "black"]).unknown_words("blbck")[0].suggestion == "block"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("mkae it rde", "make it red"),
        ("Mkae  it RED", "make it red"),
        ("mkae-it 'rde'", "make-it 'red'"),
        ("make it red", "make it red"),
        ("Make IT red ", "Make IT red "),  # nothing to correct: as it is
        ("zorp", "zorp"),
        ("rode", "rode"),  # a word, if not a known one
        ("rde2 rde", "rde2 red"),
    ],
)
def test_slips_are_corrected_and_words_are_not(typed: str, read: str) -> None:
    known = Vocabulary(["red", "make", "it"])
    assert known.corrected(typed, {"rode"}.__contains__) == read


@given(st.text())
def test_correcting_twice_is_correcting_once(text: str) -> None:
    once = KNOWN.corrected(text, lambda word: False)
    assert KNOWN.corrected(once, lambda word: False) == once


ATTRIBUTES = Vocabulary(
    ["green", "grey", "gray", "red", "shirt", "pockets", "dress", "white", "striped"],
    ["green", "grey", "gray", "red", "shirt", "dress", "white", "kleid"],
)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("gren", "green"),  # although it is a token
        ("greey", "grey"),  # a doubled letter is likelier than a wrong one
        ("rde", "red"),
        ("whit", "white"),
        ("dres", "dress"),
        ("stripd", "striped"),  # a pattern
        ("reen", "green"),  # its first letter lost
        ("freen, qhite", "green, white"),  # the key beside was hit
        ("sred", "sred"),  # not of a short word
        ("xgrey", "xgrey"),  # no key beside
    ],
)
def test_a_slip_of_an_attribute_is_corrected(typed: str, read: str) -> None:
    assert ATTRIBUTES.corrected(typed, lambda word: word in {"gren", "whit"}) == read


@pytest.mark.parametrize(
    "text",
    [
        "pokets",  # no attribute: reading it otherwise helps nobody
        "reed",
        "than write",  # near colours, and words
        "trey breen, rey",  # near colours, and names
        "coat",
        "aren't, didn't, they're",
        "ruffles, pleated, frills, seams, velcro, unlined",
        "für das Kleid, kein Rot, ohne Gürtel",
        "para el hombre, menos rojo",
        "une jupe pour elle, sans rouge",
        "rote",  # a value
        "das dres",  # German: its words are near to English ones
    ],
)
def test_a_word_is_no_slip_of_another(text: str) -> None:
    assert ATTRIBUTES.corrected(text, lambda word: False) == text


# --- in a bundle ---------------------------------------------------------------------------------


def bundle_with(folder: Path, content: bytes) -> Bundle:
    parts: dict[str, Any] = {"vocabulary": "vocabulary.txt"}
    plain = write_tiny_bundle(folder / "plain")
    files = {file: plain.path / file for file in plain.manifest.files}
    return write_tiny_bundle(folder / "b", files={**files, "vocabulary.txt": content}, **parts)


def test_a_bundle_carries_its_vocabulary_and_loads_it_when_it_is_needed(tmp_path: Path) -> None:
    bundle = Bundle.load(bundle_with(tmp_path, KNOWN.to_bytes()).path)
    assert bundle.manifest.files["vocabulary.txt"].bytes == len(KNOWN.to_bytes())
    retriever = Retriever(bundle, threads=1)
    assert "vocabulary" not in vars(bundle)
    assert retriever.unknown_words("mkae it RED") == (UnknownWord("mkae", "make", True),)
    assert bundle.vocabulary is not None
    assert bundle.vocabulary.words == KNOWN.words
    assert retriever.unknown_words("make it red") == ()


def test_a_query_is_read_with_its_slips_corrected_unless_told_otherwise(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, KNOWN.to_bytes())
    image = Image.new("RGB", (8, 8), "red")

    def query(text: str, **options: Any) -> NDArray[np.float32]:
        retriever = Retriever(bundle, threads=1, **options)
        return retriever.encode_queries(retriever.references([image]), [text], [0])

    meant = query("make it red")
    np.testing.assert_array_equal(query("mkae it red"), meant)
    assert not np.array_equal(query("mkae it red", correct_slips=False), meant)
    as_typed = Retriever(bundle, correct_slips=False)
    assert as_typed.unknown_words("mkae it red") == (UnknownWord("mkae", "make"),)


def test_a_bundle_without_a_vocabulary_knows_of_no_unknown_word(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    assert bundle.vocabulary is None
    assert "vocabulary" not in bundle.manifest.to_dict()
    assert Retriever(bundle).unknown_words("zorp") == ()


def test_an_altered_or_unreadable_vocabulary_is_refused(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, KNOWN.to_bytes())
    (bundle.path / "vocabulary.txt").write_bytes(KNOWN.to_bytes().replace(b"red", b"rot"))
    with pytest.raises(BundleError, match=r"vocabulary\.txt .* wrong checksum"):
        Bundle.load(bundle.path)
    odd = bundle_with(tmp_path / "odd", b"\xff\xfe")
    with pytest.raises(BundleError, match=r"vocabulary\.txt of the bundle .* cannot be read"):
        Retriever(odd).unknown_words("red")
    with pytest.raises(BundleError, match=r"vocabulary.*one of the files"):
        write_tiny_bundle(tmp_path / "none", vocabulary="vocabulary.txt")


@pytest.mark.parametrize("word", ["Red", "two words", "v-neck", "men's", "a", "size42", " red", ""])
def test_what_no_text_can_have_is_no_word_of_a_vocabulary(word: str) -> None:
    with pytest.raises(UsageError, match="cannot have"):
        Vocabulary(["red", word]).to_bytes()


def test_a_vocabulary_keeps_its_order_and_without_words_it_is_refused() -> None:
    content = Vocabulary(["red", "azul", "été", "red"]).to_bytes()
    assert content.decode() == "red\nazul\nété\n"
    assert Vocabulary.from_bytes(content).words == ("red", "azul", "été")
    with pytest.raises(UsageError, match="needs a word"):
        Vocabulary([]).to_bytes()
