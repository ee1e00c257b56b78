"""What a bundle does with composed queries beside its graphs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec.structs import asdict
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import D, unit, write_tiny_bundle

from ztcir_sdk import Bundle, Retriever
from ztcir_sdk.bundle import Manifest, Prototypes
from ztcir_sdk.encoder.rules import pull
from ztcir_sdk.errors import BundleError
from ztcir_sdk.modification import move_queries, without_unwanted

Array = NDArray[np.float32]


def with_entries(folder: Path, stored: bytes | None = None, **entries: Any) -> Bundle:
    plain = write_tiny_bundle(folder / "plain")
    files: dict[str, Any] = {file: plain.path / file for file in plain.manifest.files}
    if stored is not None:
        files["prototypes.f16"] = stored
    return write_tiny_bundle(folder / "ruled", files=files, **entries)


def query(bundle: Bundle, text: str, **options: Any) -> Array:
    return query_of(Retriever(bundle, threads=1), text, **options)


def query_of(retriever: Retriever, text: str, **options: Any) -> Array:
    image = Image.new("RGB", (8, 8), "red")
    return retriever.encode_queries(retriever.references([image]), [text], [0], **options)


def half(vectors: NDArray[np.floating]) -> bytes:
    return vectors.astype("<f2").tobytes()


def test_a_query_is_pulled_as_the_formula_says_it() -> None:
    one, two = unit(np.array([[3.0, 1.0, 0.0, 0.0], [0.0, 1.0, 2.0, 0.0]]))
    [q] = unit(np.array([[1.0, 0.2, 0.1, 0.4]]))
    shares = np.exp(np.array([q @ one, q @ two]) / 0.1)
    shares /= shares.sum()
    [mixture] = unit(np.array([shares[0] * one + shares[1] * two]))
    [expected] = unit(np.array([0.7 * q + 0.3 * mixture]))
    [pulled] = pull(q[None], np.stack([one, two]), 0.3, 0.1)
    np.testing.assert_allclose(pulled, expected, atol=1e-6)


@given(
    arrays(np.float32, (3, 4), elements=st.floats(0.125, 1, width=32)),
    arrays(np.float32, (5, 4), elements=st.floats(0.125, 1, width=32)),
    st.floats(0.01, 1),
    st.floats(0.001, 10),
)
def test_a_pulled_query_is_between_itself_and_the_prototypes(
    queries: Array, prototypes: Array, weight: float, temperature: float
) -> None:
    q, c = unit(queries), unit(prototypes)
    pulled = pull(q, c, weight, temperature)
    np.testing.assert_allclose(np.linalg.norm(pulled, axis=1), 1, atol=1e-5)
    mixture = pull(q, c, 1.0, temperature)
    along = (pulled * mixture).sum(axis=1)
    assert (along >= (q * mixture).sum(axis=1) - 1e-5).all()
    rows = pull(q[1:2], c, weight, temperature)
    np.testing.assert_allclose(rows, pulled[1:2], atol=1e-5)


def test_a_composed_query_is_pulled_and_no_other_method(tmp_path: Path) -> None:
    prototypes = unit(np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]))
    bundle = with_entries(
        tmp_path, half(prototypes), prototypes=Prototypes("prototypes.f16", 0.3, 0.05)
    )
    plain = Bundle.load(tmp_path / "plain")
    stored = unit(np.frombuffer(half(prototypes), "<f2").reshape(-1, D).astype(np.float32))
    alone = query(plain, "make it red")
    np.testing.assert_allclose(
        query(bundle, "make it red"), pull(alone, stored, 0.3, 0.05), atol=1e-6
    )
    for method in ("text", "stage1", "sum", "mapped", "image"):
        np.testing.assert_array_equal(
            query(bundle, "make it red", method=method), query(plain, "make it red", method=method)
        )
    # The path of `strength` leads from the image to the pulled query.
    image = query(plain, "make it red", strength=0)
    np.testing.assert_array_equal(query(bundle, "make it red", strength=0), image)
    expected = move_queries(image, query(bundle, "make it red"), 0.5)
    np.testing.assert_allclose(query(bundle, "make it red", strength=0.5), expected, atol=1e-6)


def test_the_text_alone_counts_where_it_has_a_word_for_a_detail(tmp_path: Path) -> None:
    entries: dict[str, Any] = {"detail_words": ("silk",), "detail_weight": 0.4}
    prototypes = Prototypes("prototypes.f16", 0.9, 0.05)
    bundle = with_entries(
        tmp_path, half(np.eye(D, dtype=np.float32)), prototypes=prototypes, **entries
    )
    plain = Bundle.load(tmp_path / "plain")
    expected = unit(query(plain, "in silk") + 0.4 * Retriever(plain).encode_texts(["in silk"]))
    np.testing.assert_allclose(query(bundle, "in silk"), expected, atol=1e-6)  # and is not pulled
    assert not np.allclose(query(bundle, "in wool"), query(plain, "in wool"), atol=1e-3)
    # What a text refuses must not come back by the vector of its words.
    refusing = write_tiny_bundle(tmp_path / "refusing", neutral_text="the same", **entries)
    alone = Retriever(plain).encode_texts(["silk", "red"])
    left = without_unwanted(query(plain, "silk")[0], [alone[1]], [])
    left = left / np.linalg.norm(left) + 0.4 * alone[0]
    expected = (left / np.linalg.norm(left))[None]
    np.testing.assert_allclose(query(refusing, "silk, not red"), expected, atol=1e-6)


WORDS: dict[str, Any] = {
    "neutral_text": "the same",
    "attribute_words": ("café", "dress", "women"),
    "detail_words": ("silk",),
    "detail_weight": 0.0,
}


@pytest.mark.parametrize(
    ("text", "composed"),
    [
        ("for a toddler", ""),
        ("with a dress", ""),  # a part
        ("with a silk dress", ""),
        ("con un dress", ""),
        ("add a dress", ""),
        ("no dress please", "please"),
        ("the same", ""),
        ("make a dress for a toddler", None),
        ("en cafe", None),  # without its accent
        ("make it rot for a toddler", None),  # a colour, in German
        ("in silk", None),
        ("in silk without sleeves", "in silk"),
        ("in rot, with a dress", "in rot"),
        ("with pockets in rot", "in rot"),
        ("with pockets rot", "rot"),
        ("red with a red dress", "red"),
        ("with red stripes", None),
        ("with dark red stripes", None),
        ("no longer red, now blue", "now blue"),
        ("plus size dress", None),
        ("no logo rot dress", "red dress"),
        ("a dress that goes with this", None),
        ("swap it with a dress", None),
        ("für women mit Gürtel", "for women"),
        ("sans capuche en rouge", "red"),
    ],
)
def test_a_text_is_composed_without_its_parts_and_a_neutral_one_if_nothing_is_left(
    tmp_path: Path, text: str, composed: str | None
) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    bundle = write_tiny_bundle(tmp_path / "b", **WORDS)
    left = text if composed is None else composed
    if left in ("", "please"):
        left = "the same"
    np.testing.assert_allclose(query(bundle, text), query(plain, left), atol=1e-6)
    assert "neutral_text" not in plain.manifest.to_dict()


def test_of_a_text_that_is_too_long_the_clauses_are_read_that_ask(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    bundle = write_tiny_bundle(tmp_path / "b", **WORDS)
    story = "it was a long day and we went home again. " * 12
    expected = query(plain, "we need one in rot, for women please.")
    found = query(bundle, f"Hello, {story}we need one in rot, for women please. {story}Bye!")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(query(bundle, story), query(plain, "the same"), atol=1e-6)


def test_a_neutral_text_keeps_closer_to_the_picture_by_its_strength(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    bundle = write_tiny_bundle(tmp_path / "b", neutral_strength=0.6, **WORDS)
    expected = query(plain, "the same", strength=0.6)
    np.testing.assert_allclose(query(bundle, "for a toddler"), expected, atol=1e-6)
    np.testing.assert_allclose(
        query(bundle, "for a toddler", strength=0.5),
        query(plain, "the same", strength=0.3),
        atol=1e-6,
    )
    red = Retriever(plain).encode_texts(["red"])
    left = without_unwanted(query(plain, "the same")[0], list(red), [])  # refusing is asking
    expected = (left / np.linalg.norm(left))[None]
    np.testing.assert_allclose(query(bundle, "not red"), expected, atol=1e-6)


def test_entries_of_earlier_bundles_are_read_over(tmp_path: Path) -> None:
    values = write_tiny_bundle(tmp_path / "b", **WORDS).manifest.to_dict()
    former = {"unknown_strength": 0.6, "part_strength": 0.35, "refused_weight": 0.4}
    assert Manifest.from_dict({**values, **former}).to_dict() == values


@pytest.mark.parametrize(
    ("stored", "entry", "sentence"),
    [
        (half(np.eye(D)), Prototypes("other", 0.3, 0.02), r"prototypes\.file.*one of the files"),
        (b"\0" * 7, Prototypes("prototypes.f16", 0.3, 0.02), "whole vectors of 8 bytes"),
        (b"", Prototypes("prototypes.f16", 0.3, 0.02), "whole vectors of 8 bytes"),
        (half(np.eye(D)), Prototypes("prototypes.f16", 1.5, 0.02), r"prototypes\.weight"),
        (half(np.eye(D)), Prototypes("prototypes.f16", 0.3, 0.0), r"prototypes\.temperature"),
    ],
)
def test_wrong_prototypes_are_refused_when_the_bundle_is_read(
    tmp_path: Path, stored: bytes, entry: Prototypes, sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        with_entries(tmp_path, stored, prototypes=entry)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_prototype_without_a_direction_is_refused_when_it_is_used(
    tmp_path: Path, value: float
) -> None:
    vectors = np.eye(D, dtype=np.float32)
    vectors[1] = value
    bundle = with_entries(
        tmp_path, half(vectors), prototypes=Prototypes("prototypes.f16", 0.3, 0.02)
    )
    with pytest.raises(BundleError, match="a vector that is zero or not finite"):
        query(bundle, "make it red")
    assert query(bundle, "make it red", method="text").shape == (1, D)


def test_prototypes_are_read_while_graphs_load_and_a_damaged_file_is_named_by_the_query(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_entries(
        tmp_path, half(np.eye(D)), prototypes=Prototypes("prototypes.f16", 0.3, 0.02)
    )
    retriever = Retriever(bundle, threads=1)
    with monkeypatch.context() as patch:
        started: list[str] = []
        patch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
        retriever.encoder.preload(["text_encoder"])  # of texts alone, which have no rules
        assert started
        assert not [name for name in started if "_read_quietly" in name]
    retriever.encoder.preload(["token_learner", "text_encoder"])
    deadline = time.monotonic() + 30
    while "_prototypes" not in vars(retriever.encoder._rules) and time.monotonic() < deadline:
        time.sleep(0.01)
    (bundle.path / "prototypes.f16").unlink()
    assert query_of(retriever, "make it red").shape == (1, D)  # it was read before
    other = Retriever(Bundle(bundle.path, bundle.manifest), threads=1)
    other.encoder.preload(["token_learner", "text_encoder"])
    with pytest.raises(BundleError, match=r"prototypes\.f16 .* cannot be read"):
        query_of(other, "make it red")
    assert not recwarn.list  # of a thread that ended with an error


def test_a_bundle_without_rules_has_no_entries_of_them(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "b").manifest
    written = manifest.to_dict()
    for entry in ("prototypes", "detail_words", "detail_weight", "attribute_words"):
        assert entry in asdict(manifest)
        assert entry not in written
