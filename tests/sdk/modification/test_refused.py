"""What a text refuses is read in four languages, and leaves a composed query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Bundle, Query, Retriever
from ztcir_sdk.errors import BundleError
from ztcir_sdk.modification import refused_values, split_refused
from ztcir_sdk.modification.unwanted import without_unwanted
from ztcir_sdk.query.plan import QueryPlan
from ztcir_sdk.query.reading import Reading, read_query


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("not red", ("red",)),
        ("Not Red!", ("red",)),
        ("anything but black, please", ("black",)),
        ("i don't want it in dark blue", ("blue",)),
        ("i don\u2019t like stripes", ("striped",)),
        ("dont show me pink", ("pink",)),
        ("no red and no green", ("red", "green")),
        ("a red-less one", ("red",)),
        ("red won't do", ("red",)),
        ("sick of grey", ("grey",)),
        ("a non-red one", ("red",)),
        ("nothing red", ("red",)),
        ("not red or blue", ("red", "blue")),
        ("neither red nor blue", ("red", "blue")),
        ("weder rot noch blau", ("red", "blue")),
        ("ni rojo ni azul", ("red", "blue")),
        ("the red is horrible", ("red",)),
        ("i have red already", ("red",)),
        ("remove the stripes", ("striped",)),
        ("keine Streifen", ("striped",)),
        ("without red stripes", ("red", "striped")),
        ("not reddish", ("red",)),
        ("not medium grey", ("grey",)),
        ("red? no thanks", ("red",)),
        ("no pink, purple or red", ("pink", "purple", "red")),
        ("no black & white", ("black", "white")),
        ("nto red", ("red",)),
        ("don't include red", ("red",)),
        ("take it out of red", ("red",)),
        ("zu rot", ("red",)),
        ("rot mag ich nicht", ("red",)),
        ("moins de rouge", ("red",)),
        ("kein hellblau", ("blue",)),
        ("no flowers", ("floral",)),
        ("my red one is old, not red this time", ("red",)),
        ("too red for me", ("red",)),
        ("i have enough red ones", ("red",)),
        ("in any other colour than red", ("red",)),
        ("red no more", ("red",)),
        ("nicht in Blau", ("blue",)),
        ("ohne rote Streifen", ("red", "striped")),
        ("sin negro", ("black",)),
        ("tout sauf le vert", ("green",)),
    ],
)
def test_a_refused_value_is_found(text: str, values: tuple[str, ...]) -> None:
    assert refused_values(text) == values


@pytest.mark.parametrize(
    "text",
    [
        "make it red",
        "red, not blue",  # what is wanted is named, and the model answers it
        "blue instead of red",
        "why not red?",
        "not only red",
        "a pity that it is not red",
        "i want stripes",  # "want" ends as "won't" does
        "not too long, in red",
        "nothing but red",
        "too small in red",
        "me too in red",
        "make it red too",
        "not this shape but red",
        "no hood",
        "keinesfalls",
        # what stands between names what is refused
        "a dress without sleeves in red",
        "no hood in blue",
        "no show black socks",
        "no-iron white shirt",
        "less formal in blue",
        "instead of a shirt a red dress",
        "ohne Ärmel in rot",
        "sin mangas en rojo",
        "sans manches en rouge",
        "in black that is not transparent",
        # questions, and refusals of all else
        "don't you have it in red?",
        "isn't there a red one?",
        "gibt es das nicht in rot?",
        "¿no lo hay en rojo?",
        "nothing else than red",
        "no other colour than red",
        "couldn't it be red",
        "can't I get this in blue?",
        "wouldn't red look better?",
        "is there no red?",
        "can't find any red",
        "this isn't red",
        "not red enough",
        "unfortunately not in red",
        "gibt es keine roten?",
        "por lo menos en rojo",
        "avec plus de rouge",
        # a new sentence, without its mark
        "no make it blue",
        "no the red one",
        "i don't like this show me a red one",
        "all good but in red",
        "in red less expensive",
        "do you have it in red? no hurry",
        "make it red don't change anything else",
        "the red one isn't bad",
        "red is not a problem",
        "instead of this one a red one",
        # a shade
        "not too bright red",
        "nicht so dunkles blau",
        "i would never take anything but red",
        "can't live without a red one",
        "no tan caro",  # Spanish, and no colour
        "not in green, no, green it is",
        "",
    ],
)
def test_a_wanted_value_is_not_refused(text: str) -> None:
    assert refused_values(text) == ()


@pytest.mark.parametrize(
    ("text", "rest", "values"),
    [
        ("A dress, not red", "a dress", ("red",)),
        ("no red please, a dress", "please, a dress", ("red",)),
        ("a blue dress, not red", "a blue dress", ("red",)),
        ("a shirt in blue instead of red", "a shirt in blue", ("red",)),
        ("shirts without stripes, for men", "shirts, for men", ("striped",)),
        ("rote Schuhe, kein Blau und kein Grün", "rote schuhe, und", ("blue", "green")),
        ("why not red? a dress, not blue", "why not red? a dress", ("blue",)),
        ("kein Gru\u0308n, für Ma\u0308dchen", "für mädchen", ("green",)),  # accents apart
        ("anything but navy blue", "", ("navy blue",)),
        ("shirts not red or blue", "shirts", ("red", "blue")),
        ("instead of black white please", "white please", ("black",)),
        ("not cherry red", "", ("red",)),
        ("shirts without logo in red", "shirts without logo in red", ()),
        ("Not red!", "", ("red",)),
        ("A Red Dress", "A Red Dress", ()),
        ("", "", ()),
    ],
)
def test_what_a_text_asks_for_beside_what_it_refuses(
    text: str, rest: str, values: tuple[str, ...]
) -> None:
    assert split_refused(text) == (rest, values)


@given(st.text(alphabet="not red,.'-éß \n", max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_is_left_of_a_text_is_a_part_of_it(text: str) -> None:
    rest, values = split_refused(text)
    assert set(values) <= {"red"}
    if not values:
        assert rest == text
    left = iter("".join(text.lower().split()))
    assert all(letter in left for letter in "".join(rest.lower().split()))


@given(st.text(alphabet="not red,.'-éß \n", max_size=60))
@settings(max_examples=200, deadline=None)
def test_only_values_that_a_text_names_are_refused(text: str) -> None:
    assert set(refused_values(text)) <= {"red"}
    if "red" not in text:
        assert refused_values(text) == ()


def test_long_texts_are_read_in_a_moment() -> None:
    for part in ("not ", "shame ", "n't", "not red ", "aaaa", "red ", "red or ", "red, "):
        refused_values(part * 5000)
        split_refused(part * 5000)


def query(bundle: Bundle, text: str, **options: Any) -> NDArray[np.float32]:
    retriever = Retriever(bundle, threads=1)
    image = Image.new("RGB", (8, 8), "red")
    return retriever.encode_queries(retriever.references([image]), [text], [0], **options)


def test_a_refused_value_leaves_a_composed_query_if_the_bundle_says_so(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    reads = write_tiny_bundle(tmp_path / "reads", neutral_text="the same")
    red, blue = Retriever(plain).encode_texts(["red", "blue"])
    for text, composed, unwanted in (
        ("not red", "the same", [red]),
        ("not red, for women", "for women", [red]),
        ("neither red nor blue", "the same", [red, blue]),
    ):
        expected = without_unwanted(query(plain, composed)[0], unwanted, [])
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(query(reads, text)[0], expected, atol=1e-6)
    for text, composed in (("make it red", "make it red"), ("blue instead of red", "blue")):
        np.testing.assert_array_equal(query(reads, text), query(plain, composed))
    for method in ("text", "stage1"):
        same = query(plain, "not red", method=method)
        np.testing.assert_array_equal(query(reads, "not red", method=method), same)
    assert Retriever(reads).refused("not red") == ("red",)
    assert Retriever(plain).refused("not red") == ()
    encoder = Retriever(reads).encoder
    pair, alone = Query("x.jpg", ["in blue", "not red"]), Query(texts="not red")
    assert read_query(encoder, pair, "composed").refused == ("red",)
    assert read_query(Retriever(plain).encoder, pair, "composed").refused == ()
    # out of a text alone it is always taken, unless the text is to be searched as it is
    for method in ("composed", "sum", "stage1"):
        assert read_query(Retriever(plain).encoder, alone, method).refused == ("red",)
    assert read_query(encoder, alone, "text").refused == ()
    assert read_query(encoder, pair, "sum").refused == ()
    assert read_query(encoder, pair, "image") == Reading((), ())


def test_what_was_refused_before_is_refused_still(tmp_path: Path) -> None:
    reads = write_tiny_bundle(tmp_path / "reads", neutral_text="the same")
    retriever = Retriever(reads, threads=1)
    first, hit = (Image.new("RGB", (8, 8), colour) for colour in ("red", "navy"))

    def encode(asked: str, text: str) -> NDArray[np.float32]:
        refined = retriever.reference(first).refine(hit, text, asked=asked)
        return refined.encode()

    red = retriever.encode_texts(["red"])
    after = encode("not red", "in silk")
    assert after @ red[0] < encode("the same", "in silk") @ red[0] - 0.05
    wanted_now = encode("not red", "oh well, in red")
    as_typed = Retriever(write_tiny_bundle(tmp_path / "plain"), threads=1)
    np.testing.assert_allclose(
        wanted_now,
        as_typed.reference(first).refine(hit, "oh well, in red", asked="not red").encode(),
        atol=1e-6,
    )


def test_a_refused_value_leaves_a_text_alone(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    retriever = Retriever(bundle, threads=1)
    for text, wanted, unwanted in (
        ("A shirt, not red", "a shirt", ["red"]),
        ("a blue shirt, not rde", "a blue shirt, not rde", []),
        ("a shirt, not red and not green", "a shirt, and", ["red", "green"]),
    ):
        found, expected = (
            QueryPlan(retriever.encoder, [one], "composed").vectors([[]], [[]])
            for one in (Query(texts=text), Query(texts=wanted, without=unwanted))
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)
    both = Query(texts=[("a shirt", 2), ("not red", 1)], without="red")
    plan = QueryPlan(retriever.encoder, [both], "composed")
    weighted = 2 * retriever.encode_texts(["a shirt"]) + retriever.encode_texts(["not red"])
    left = without_unwanted(weighted[0], list(retriever.encode_texts(["red"])), [])
    left /= np.linalg.norm(left)
    np.testing.assert_allclose(plan.vectors([[]], [[]])[0], left, atol=1e-6)
    typed = QueryPlan(retriever.encoder, [Query(texts="not red")], "text").vectors([[]], [[]])
    np.testing.assert_allclose(typed, retriever.encode_texts(["not red"]), atol=1e-6)


def test_a_weight_out_of_its_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="neutral_strength"):
        write_tiny_bundle(tmp_path / "odd", neutral_strength=1.5)
