"""Several changes one after another: former images and texts count, and are not found again."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Hit, ImageError, Query, Retriever, UsageError
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.modification import MAX_FORMER, join_texts, mix_queries
from ztcir_sdk.modification.trail import FORMER_SHARE

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection") / "photos"
    (folder / "more").mkdir(parents=True)
    for seed in range(14):
        colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        name = f"more/{seed:02}.png" if seed % 3 == 0 else f"{seed:02}.png"
        Image.fromarray(colours).resize((24, 16)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def retriever(photos: Path) -> Retriever:
    retriever = Retriever(write_tiny_bundle(photos.parent / "tiny"), threads=1)
    retriever.index(photos, to=photos.parent / "photos.ztcir")
    return retriever


def unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def test_every_image_is_composed_with_what_was_asked_of_it_and_since(
    retriever: Retriever, photos: Path
) -> None:
    first, second, third = retriever.references([photos / f"{n:02}.png" for n in (1, 2, 4)])
    share = FORMER_SHARE
    two = first.refine(photos / "02.png", "for women", asked="make it red")
    expected = second.encode("for women") + share * first.encode("make it red, for women")
    np.testing.assert_allclose(two.encode(), unit(expected), atol=1e-6)

    three = two.refine(photos / "04.png", asked="").encode("with stripes", "stage1")
    expected = (
        third.encode("with stripes", "stage1")
        + share * second.encode("for women, with stripes", "stage1")
        + share**2 * first.encode("make it red, for women, with stripes", "stage1")
    )
    np.testing.assert_allclose(three, unit(expected), atol=1e-6)


def test_a_hit_knows_what_it_was_found_with(retriever: Retriever, photos: Path) -> None:
    reference = retriever.reference(photos / "01.png")
    hit = reference.search("make it red")[2]
    by_hit = reference.refine(hit, "for women")
    by_path = reference.refine(hit.path, "for women", asked="make it red")
    np.testing.assert_array_equal(by_hit.encode(), by_path.encode())
    assert by_hit.search() == by_path.search()
    again = by_hit.search("with stripes")[0]
    assert again.asked == "for women, with stripes"
    np.testing.assert_array_equal(
        by_hit.refine(again, "long").encode(),
        by_path.refine(again.path, "long", asked="with stripes").encode(),
    )
    for found in (
        retriever.search(photos / "01.png", "make it red")[2],
        retriever.search_many([(photos / "01.png", "make it red")])[0][2],
    ):
        assert found.asked == "make it red"
        assert found == hit
    assert "asked" not in json.loads(json.dumps(hit.to_dict()))


def test_the_text_can_be_given_to_refine_or_to_search(retriever: Retriever, photos: Path) -> None:
    reference = retriever.reference(photos / "01.png")
    hit = reference.search("make it red")[0]
    early, late = reference.refine(hit, "for women"), reference.refine(hit)
    assert early.search() == late.search("for women")
    assert early.search_many(["", "long"])[1] == late.search("for women, long")
    assert early.wish == "for women"
    similar = retriever.search(hit.path, k=20)
    assert [one.path for one in late.search()] == [
        one.path for one in similar if one.path != str(photos / "01.png")
    ][:10]
    with pytest.raises(UsageError, match="texts must be a list"):
        early.search_many("red")


def test_every_search_with_a_refined_reference_asks_its_change(
    retriever: Retriever, photos: Path
) -> None:
    reference, other = retriever.references([photos / "01.png", photos / "04.png"])
    refined = reference.refine(reference.search("make it red")[0], "for women")
    expected, longer = refined.search(), refined.search("long")
    assert expected != reference.refine(reference.search("make it red")[0]).search()
    assert retriever.search(refined) == retriever.search(Query(refined)) == expected
    assert retriever.search(refined, "long") == retriever.search(Query(refined, "long")) == longer
    many = retriever.search_many([(refined, ""), Query(refined, "long", strength=1)])
    assert many == [expected, longer]
    assert {hit.asked for hit in many[0]} == {"for women"}
    assert {hit.asked for hit in many[1]} == {"for women, long"}
    beside = Query([refined, (other, 2)], "long")
    [found] = retriever.search_many([beside], 1)
    total = refined.encode("long") + 2 * other.encode("long")
    assert found[0].score == pytest.approx(
        float(retriever.encode_images([found[0].path])[0] @ unit(total)), abs=1e-5
    )
    assert beside.asked == "for women, long"
    image = retriever.search(Query(refined), method="image")
    assert image == retriever.search(refined, "long", method="image")
    assert {hit.asked for hit in image} == {""}


def test_without_what_was_asked_only_the_hits_image_is_used(
    retriever: Retriever, photos: Path
) -> None:
    reference, other = retriever.references([photos / "01.png", photos / "02.png"])
    blind = reference.refine(photos / "02.png", "for women")
    np.testing.assert_array_equal(blind.encode(), other.encode("for women"))
    foreign = Hit(str(photos / "02.png"), 0.5, 1)
    np.testing.assert_array_equal(reference.refine(foreign, "x").encode(), other.encode("x"))
    similar = reference.search(method="image")[0]
    assert similar.asked == ""  # nothing was asked of the first image, so it may help


def test_no_image_of_the_trail_is_found_again(retriever: Retriever, photos: Path) -> None:
    reference = retriever.reference(photos / "01.png")
    seen, changes = [str(photos / "01.png")], ["red", "for women", "long"]
    hits = reference.search("blue", 20)
    for change in changes:
        assert len(hits) == 14 - len(seen)
        seen.append(hits[0].path)
        reference = reference.refine(hits[0], change)
        for method in ("composed", "image", "sum"):
            paths = [hit.path for hit in reference.search(k=20, method=method)]
            assert not set(paths) & set(seen)
            assert len(paths) == 14 - len(seen)
        hits = reference.search(k=20)
    assert [Path(one.retriever.bundle.name).name for one in reference.former] == ["tiny"] * 3


def test_other_methods_use_the_last_image_and_its_text(retriever: Retriever, photos: Path) -> None:
    reference, other = retriever.references([photos / "01.png", photos / "02.png"])
    refined = reference.refine(photos / "02.png", "for women", asked="red")
    np.testing.assert_array_equal(refined.embedding, other.embedding)
    for method in ("image", "mapped", "text", "sum"):
        expected = other.encode("for women", method)
        np.testing.assert_array_equal(refined.encode("", method), expected)


def test_strength_moves_between_the_hits_image_and_the_mixed_query(
    retriever: Retriever, photos: Path
) -> None:
    refined = retriever.reference(photos / "01.png").refine(
        photos / "02.png", "for women", asked="red"
    )
    v, q = refined.embedding, refined.encode()
    np.testing.assert_array_equal(refined.encode(strength=0), v)
    np.testing.assert_array_equal(refined.encode(strength=1), q)
    np.testing.assert_allclose(refined.encode(strength=0.5), unit(v + q), atol=1e-6)


def test_the_text_graph_runs_once_for_a_whole_trail(
    retriever: Retriever, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = retriever.reference(photos / "01.png")
    refined = reference.refine(reference.search("red")[0], "for women")
    refined.search()
    ran: list[str] = []
    real = Encoder.graph

    def graph(self: Encoder, name: str) -> Any:
        ran.append(name)
        return real(self, name)

    monkeypatch.setattr(Encoder, "graph", graph)
    refined.search_many(["red", "blue"])
    assert ran == ["text_encoder"]


def test_a_reference_stays_as_it_was(retriever: Retriever, photos: Path) -> None:
    reference = retriever.reference(photos / "01.png")
    before = reference.encode("red")
    hit = reference.search("red")[0]
    picked = retriever.reference(hit.path).encode("x")
    reference.refine(hit, "for women").search("long")
    np.testing.assert_array_equal(reference.encode("red"), before)
    np.testing.assert_array_equal(retriever.reference(hit.path).encode("x"), picked)
    assert (reference.wish, reference.former) == ("", ())


def test_a_long_trail_keeps_its_last_images_and_fits_the_context(
    retriever: Retriever, photos: Path
) -> None:
    reference = retriever.reference(photos / "01.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(MAX_FORMER + 3):
            [hit] = reference.search("it", 1)
            reference = reference.refine(hit)
            assert len(reference.encoded.former) == min(number + 1, MAX_FORMER)
    assert len(reference.former) == MAX_FORMER + 3


def test_a_former_image_whose_texts_are_too_long_together_does_not_count(
    retriever: Retriever, photos: Path
) -> None:
    reference, other = retriever.references([photos / "01.png", photos / "02.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the letters of the tiny vocabulary are tokens
        refined = reference.refine(photos / "02.png", "for women " * 5, asked="make it red " * 4)
        np.testing.assert_array_equal(refined.encode(), other.encode("for women " * 5))
        short = reference.refine(photos / "02.png", "for women", asked="make it red " * 4)
        assert abs(short.encode() - other.encode("for women")).max() > 1e-3


def test_a_hit_is_an_image_a_path_or_an_item_of_the_index(
    retriever: Retriever, photos: Path
) -> None:
    reference = retriever.reference(photos / "01.png")
    content = (photos / "more" / "03.png").read_bytes()
    kinds: list[Any] = [
        *("more/03.png", Path("more/03.png"), photos / "more" / "03.png"),
        *(content, io.BytesIO(content), Image.open(io.BytesIO(content))),
    ]
    expected = retriever.reference(photos / "more" / "03.png").embedding
    for kind in kinds:
        np.testing.assert_allclose(reference.refine(kind, "red").embedding, expected, atol=1e-6)
    with pytest.raises(ImageError, match=r"nowhere\.png does not exist"):
        reference.refine("nowhere.png", "red")


@given(
    st.lists(st.integers(0, 3), max_size=5),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_mixed_queries_are_unit_vectors_and_others_are_untouched(
    owners: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def vectors(count: int) -> Array:
        rows = rng.standard_normal((count, 8))
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    queries, former = vectors(4), vectors(len(owners))
    mixed = mix_queries(queries, former, owners)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-6)
    for row in set(range(4)) - set(owners):
        assert mixed[row].tobytes() == queries[row].tobytes()
    for row in set(owners):
        shares = FORMER_SHARE ** np.arange(1, owners.count(row) + 1)
        total = queries[row] + shares @ former[np.equal(owners, row)]
        np.testing.assert_allclose(mixed[row], unit(total), atol=1e-6)


def test_texts_are_joined_without_empty_ones() -> None:
    assert join_texts("make it red", " ", "", " for women ") == "make it red, for women"
    assert join_texts("", "") == ""
