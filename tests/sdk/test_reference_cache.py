"""The cache of reference images and `search_many`: the same hits with less work."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import SIZE, TinyModel, write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.decoding import load_image
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.errors import ImageError, UsageError
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.names import METHODS
from ztcir_sdk.reference_cache import ReferenceCache, read_content, reference_bytes
from ztcir_sdk.runtime import OnnxGraph


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("collection") / "photos"
    photos.mkdir()
    for seed in range(12):
        (photos / f"{seed:02}.png").write_bytes(png(seed))
    return photos


@pytest.fixture(scope="module")
def index(folder: Path) -> Path:
    path = folder.parent / "photos.ztcir"
    Retriever(folder.parent / "tiny", threads=1).index(folder, to=path)
    return path


@pytest.fixture(scope="module", autouse=True)
def bundle(folder: Path) -> Path:
    return write_tiny_bundle(folder.parent / "tiny", TinyModel()).path


@pytest.fixture
def retriever(bundle: Path, index: Path) -> Retriever:
    """A retriever with an empty cache."""
    return Retriever(bundle, index=index, threads=1, device="cpu")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of the image encoder's runs."""
    counts: list[int] = []
    real = OnnxGraph.run

    def look(self: OnnxGraph, inputs: Any, *outputs: Any) -> Any:
        if "pixel_values" in inputs:
            counts.append(len(inputs["pixel_values"]))
        return real(self, inputs, *outputs)

    monkeypatch.setattr(OnnxGraph, "run", look)
    return counts


def plain(hits: Sequence[Hit]) -> list[tuple[str, Any]]:
    return [(hit.path, pytest.approx(hit.score, abs=1e-6)) for hit in hits]


# --- least recently used -------------------------------------------------------------------------


@given(
    capacity=st.integers(0, 4),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_the_least_recently_used_image_is_dropped_first(
    capacity: int, steps: list[tuple[bool, int]]
) -> None:
    cache = ReferenceCache(capacity)
    kept: list[int] = []  # by last use
    images = {n: EncodedImage(np.full(2, n, dtype=np.float32), None) for n in range(7)}
    for puts, number in steps:
        if puts:
            cache.put(str(number), images[number])
            kept = [*(n for n in kept if n != number), number][-capacity or len(kept) + 1 :]
        else:
            found = cache.get(str(number))
            assert (found is images[number]) == (number in kept)
            assert found is None or number in kept
            if number in kept:
                kept = [*(n for n in kept if n != number), number]
        assert len(cache) == len(kept)


# --- by content ----------------------------------------------------------------------------------


def test_the_same_content_is_encoded_once(
    retriever: Retriever, folder: Path, tmp_path: Path, seen: list[int]
) -> None:
    copy = tmp_path / "copy.png"
    shutil.copy(folder / "03.png", copy)
    content = copy.read_bytes()
    first = retriever.reference(folder / "03.png")
    assert seen == [1]
    with copy.open("rb") as stream:
        stream.seek(5)
        others = retriever.references([str(copy), content, bytearray(content), stream])
    assert seen == [1]
    assert {id(other.encoded) for other in others} == {id(first.encoded)}
    assert {other.content_hash for other in others} == {first.content_hash}


def test_new_content_at_the_same_path_is_encoded_again(
    retriever: Retriever, tmp_path: Path, seen: list[int]
) -> None:
    file = tmp_path / "changing.png"
    file.write_bytes(png(50))
    before = retriever.reference(file)
    file.write_bytes(png(51))
    after = retriever.reference(file)
    assert seen == [1, 1]
    expected = retriever.encode_images([png(50), png(51)])
    np.testing.assert_allclose([before.embedding, after.embedding], expected, atol=1e-6)


def test_the_hashed_bytes_are_the_decoded_bytes(tmp_path: Path) -> None:
    file = tmp_path / "changing.png"
    file.write_bytes(png(60))
    source, content_hash = read_content(file)
    file.write_bytes(png(61))  # between the two looks
    assert np.array_equal(np.asarray(load_image(source)), np.asarray(load_image(png(60))))
    assert content_hash == read_content(png(60))[1]


def test_images_without_a_file_are_encoded_each_time(retriever: Retriever, seen: list[int]) -> None:
    image = Image.open(io.BytesIO(png(3)))
    references = retriever.references([image, np.asarray(image), image])
    assert seen == [3]
    assert [reference.content_hash for reference in references] == [None] * 3
    np.testing.assert_allclose(
        [one.embedding for one in references],
        np.repeat(retriever.encode_images([png(3)]), 3, axis=0),
        atol=1e-6,
    )


def test_the_token_learner_runs_once_for_each_content(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever.search(folder / "02.png", "make it red", k=1)
    monkeypatch.setattr(
        Encoder,
        "graph",
        lambda self, name, real=Encoder.graph: _only("text_encoder", self, name, real),
    )
    hits = retriever.search(folder / "02.png", "for women", k=3)
    assert len(hits) == 3


def _only(allowed: str, encoder: Encoder, name: str, real: Any) -> Any:
    assert name == allowed
    return real(encoder, name)


def test_error_messages_name_the_file(retriever: Retriever, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(png(1)[:60])
    with pytest.raises(ImageError, match=r"damaged\.png is damaged or cut short"):
        retriever.reference(damaged)
    with pytest.raises(ImageError, match=r"missing\.png does not exist"):
        retriever.reference(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="cannot be read"):
        retriever.reference(tmp_path)


# --- memory --------------------------------------------------------------------------------------


def test_the_cache_stays_within_its_memory(bundle: Path, index: Path, seen: list[int]) -> None:
    none = Retriever(bundle, index=index, threads=1, device="cpu", reference_cache_mb=0)
    none.reference(png(1))
    none.reference(png(1))
    assert seen == [1, 1]
    assert len(none._cache) == 0
    with pytest.raises(UsageError, match="reference_cache_mb must be at least 0, not -1"):
        Retriever(bundle, reference_cache_mb=-1)


def test_reference_bytes_is_the_memory_of_an_encoded_image(retriever: Retriever) -> None:
    references = retriever.references([png(seed) for seed in range(4)])
    for reference in references:
        reference.encode("make it red")
        encoded = reference.encoded
        assert encoded.learned is not None
        assert encoded.patches is not None
        arrays = [encoded.embedding, encoded.patches, *encoded.learned.values()]
        assert sum(array.nbytes for array in arrays) == reference_bytes(retriever.bundle.manifest)
        assert all(array.base is None for array in arrays)  # none keeps its whole batch alive


# --- many queries at once ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_search_many_gives_the_hits_of_single_searches(
    retriever: Retriever, folder: Path, method: str
) -> None:
    asked: list[tuple[Any, str]] = [
        (folder / "01.png", "make it red"),
        (folder / "05.png", "a much longer text than any of the others here"),
        (png(5), "in blue"),
        (folder / "01.png", "make it red"),
        (np.asarray(Image.open(folder / "07.png")), "x"),
        (png(99), "for women"),
    ]
    many = retriever.search_many(asked, k=4, method=method)
    for (image, text), hits in zip(asked, many, strict=True):
        assert plain(hits) == plain(retriever.search(image, text, k=4, method=method))


def test_search_many_encodes_each_file_once(
    retriever: Retriever, folder: Path, seen: list[int]
) -> None:
    asked = [(folder / f"{n % 3:02}.png", text) for n in range(9) for text in ("red", "blue")]
    many = retriever.search_many(asked, k=2)
    assert [len(hits) for hits in many] == [2] * 18
    assert seen == [3]
    assert retriever.search_many([]) == []


def test_a_wrong_query_is_refused_before_any_work(
    retriever: Retriever, folder: Path, seen: list[int]
) -> None:
    with pytest.raises(UsageError, match="is empty"):
        retriever.search_many([(folder / "01.png", "red"), (folder / "02.png", " ")])
    with pytest.raises(UsageError, match="k must be"):
        retriever.search_many([(folder / "01.png", "red")], k=0)
    assert seen == []
