"""`strength`: from the image's own neighbours over the trained query to what lies beyond it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever, UsageError
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.modification import move_queries
from ztcir_sdk.names import MAX_STRENGTH, METHODS, PROMPTED_METHODS

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection") / "photos"
    folder.mkdir()
    for seed in range(16):
        colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((24, 16)).save(folder / f"{seed:02}.png")
    return folder


@pytest.fixture(scope="module")
def retriever(photos: Path) -> Retriever:
    retriever = Retriever(write_tiny_bundle(photos.parent / "tiny"), threads=1)
    retriever.index(photos, to=photos.parent / "photos.ztcir")
    return retriever


def paths(hits: Any) -> list[str]:
    return [hit.path for hit in hits]


@pytest.mark.parametrize("method", PROMPTED_METHODS)
def test_strength_1_is_the_trained_query_to_the_last_bit(
    retriever: Retriever, photos: Path, method: str
) -> None:
    reference = retriever.reference(photos / "03.png")
    trained = reference.encode("make it red", method)
    moved = reference.encode("make it red", method, strength=1)
    assert trained.tobytes() == moved.tobytes()
    assert reference.search("make it red", method=method) == reference.search(
        "make it red", method=method, strength=1.0
    )


@pytest.mark.parametrize("method", PROMPTED_METHODS)
def test_strength_0_finds_what_the_image_alone_finds(
    retriever: Retriever, photos: Path, method: str
) -> None:
    for path in sorted(photos.iterdir())[:5]:
        alone = retriever.search(path, k=16, method="image")
        assert retriever.search(path, "make it red", 16, method=method, strength=0) == alone
        many = retriever.search_many([(path, "in blue")] * 2, 16, method=method, strength=0)
        assert many == [alone, alone]


def test_the_hits_are_those_nearest_to_the_moved_query(retriever: Retriever, photos: Path) -> None:
    reference = retriever.reference(photos / "03.png")
    v, q = reference.embedding.astype(float), reference.encode("make it red").astype(float)
    angle = np.arccos(v @ q)
    for strength in (0.25, 0.5, 1.5, 2.0):
        # Shoemake's formula, which is another form of the one in the code
        weights = np.sin([(1 - strength) * angle, strength * angle]) / np.sin(angle)
        expected = weights[0] * v + weights[1] * q
        moved = reference.encode("make it red", strength=strength)
        np.testing.assert_allclose(moved, expected, atol=1e-6)
        hits = reference.search("make it red", 15, strength=strength, exact=True)
        gallery = retriever.encode_images(paths(hits)).astype(float)
        np.testing.assert_allclose([hit.score for hit in hits], gallery @ expected, atol=1e-5)
        assert np.all(np.diff(gallery @ expected) < 1e-5)
        assert hits == retriever.search(photos / "03.png", "make it red", 15, strength=strength)


def unit_vectors(size: int = 6) -> st.SearchStrategy[Array]:
    numbers = st.floats(-1, 1, width=32)
    whole = arrays.arrays(np.float32, size, elements=numbers)
    long_enough = whole.filter(lambda vector: bool(np.linalg.norm(vector) > 0.1))
    return long_enough.map(lambda v: np.asarray(v / np.linalg.norm(v), dtype=np.float32))


@given(
    image=unit_vectors(),
    query=unit_vectors(),
    strengths=st.lists(st.floats(0, MAX_STRENGTH), min_size=2, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_a_stronger_text_turns_the_query_further_from_the_image(
    image: Array, query: Array, strengths: list[float]
) -> None:
    whole = np.arctan2(np.linalg.norm(query - (query @ image) * image), query @ image)
    angles = []
    for strength in sorted(strengths):
        [moved] = move_queries(image[None], query[None], strength)
        assert moved.dtype == np.float32
        assert np.linalg.norm(moved) == pytest.approx(1, abs=1e-6)
        angle = 2 * np.arctan2(np.linalg.norm(moved - image), np.linalg.norm(moved + image))
        if 1e-3 < whole < np.pi - 1e-3:
            assert angle == pytest.approx(min(strength * whole, np.pi), abs=2e-3)
        angles.append(angle)
    assert np.all(np.diff(angles) >= -2e-3)


@given(same=unit_vectors(), strength=st.floats(0, MAX_STRENGTH))
@settings(max_examples=30, deadline=None)
def test_a_text_that_changes_nothing_stays_at_the_image(same: Array, strength: float) -> None:
    [moved] = move_queries(same[None], same[None], strength)
    np.testing.assert_allclose(moved, same, atol=1e-5)


def test_each_row_moves_on_its_own_path(retriever: Retriever, photos: Path) -> None:
    references = retriever.references([photos / "01.png", photos / "02.png"])
    texts, index = ["red", "a much longer text", "blue"], [1, 0, 1]
    together = retriever.encode_queries(references, texts, index, strength=0.6)
    alone = [references[i].encode(text, strength=0.6) for i, text in zip(index, texts, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert retriever.encode_queries([], [], [], strength=0.6).shape == (0, 4)


def test_the_text_graph_runs_once_whatever_the_strength(
    retriever: Retriever, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = retriever.reference(photos / "03.png")
    reference.encode("red")
    ran: list[str] = []
    real = Encoder.graph

    def graph(self: Encoder, name: str) -> Any:
        ran.append(name)
        return real(self, name)

    monkeypatch.setattr(Encoder, "graph", graph)
    reference.search("red", strength=1.7)
    assert ran == ["text_encoder"]
    ran.clear()
    reference.search("red", strength=0)
    assert ran == []


@pytest.mark.parametrize("strength", [-0.1, 2.01, float("nan"), float("inf"), "much"])
def test_a_strength_out_of_range_is_refused(
    retriever: Retriever, photos: Path, strength: Any
) -> None:
    with pytest.raises(UsageError, match=r"from 0 .* to 2, not ") as caught:
        retriever.search(photos / "03.png", "red", strength=strength)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(PROMPTED_METHODS)))
def test_other_methods_take_no_strength(retriever: Retriever, photos: Path, method: str) -> None:
    way_out = "use weight" if method == "sum" else "leave it out"
    with pytest.raises(UsageError, match=f"'{method}' takes no strength: {way_out}"):
        retriever.search(photos / "03.png", "red", method=method, strength=0.5)
