"""`Retriever`, `Reference` and `Hit`: hits equal to NumPy's, errors, threads, imports."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from places import ROOT
from tiny_bundle import PREPROCESSING, TinyModel, tiny_parts, unit, write_tiny_bundle

import ztcir_sdk
from ztcir_sdk import Bundle, Hit, Reference, Retriever, ZtcirError
from ztcir_sdk.answers import SearchOptions, SearchSettings
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.errors import (
    BundleError,
    ImageError,
    IndexMismatchError,
    MissingDependencyError,
    UsageError,
)
from ztcir_sdk.index import Index
from ztcir_sdk.index.default import default_index_path
from ztcir_sdk.names import METHODS, PROMPTS
from ztcir_sdk.settings import RetrieverOptions, RetrieverSettings
from ztcir_sdk.sources import read_image
from ztcir_sdk.tokenizer import TextTruncatedWarning

ABOUT_THE_TEXT = ("composed", "stage1", "text", "sum")

Array = NDArray[np.float32]


def picture(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Return an image of four quarters, each of another colour."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def png(image: Image.Image, comment: str = "") -> bytes:
    """Return PNG data; each comment gives other bytes for the same pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", comment)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection: 20 images in two folders."""
    photos = tmp_path_factory.mktemp("collection") / "photos"
    (photos / "more").mkdir(parents=True)
    for seed in range(20):
        name = f"more/{seed:02}.png" if seed % 3 == 0 else f"{seed:02}.png"
        (photos / name).write_bytes(png(picture(seed)))
    return photos


@pytest.fixture(scope="module")
def retriever(
    model: TinyModel, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Retriever:
    place = tmp_path_factory.mktemp("work")
    retriever = Retriever(write_tiny_bundle(place / "tiny", model), threads=1)
    report = retriever.index(folder, to=place / "photos.ztcir")
    assert (report.added, report.failed) == (20, [])
    return retriever


class ByHand:
    """The expected hits, computed in NumPy except for the token ids."""

    def __init__(self, model: TinyModel, retriever: Retriever, folder: Path) -> None:
        self.model = model
        self.tokenizer = retriever.encoder.tokenizer
        self.paths = sorted(folder.rglob("*.png"))
        self.gallery = model.encode_image(PREPROCESSING(self.paths))[0]

    def query(self, path: Path, text: str, method: str, weight: float = 0.5) -> Array:
        [pixels] = PREPROCESSING([path])
        if method in PROMPTS:
            asked = None if method == "mapped" else text
            ids = self.tokenizer.encode_prompt(PROMPTS[method], asked)
            return self.model.encode_prompt(ids, pixels, float(method == "composed"))
        image = np.asarray(self.model.encode_image(pixels[None])[0][0])
        if method == "image":
            return image
        word = self.model.encode_text(self.tokenizer.encode(text))
        return word if method == "text" else unit((1 - weight) * image + weight * word)

    def ranking(self, path: Path, query: Array, *, keep: bool) -> list[tuple[str, float]]:
        scores = zip(self.paths, (self.gallery @ query).tolist(), strict=True)
        kept = [(str(p), score) for p, score in scores if keep or p != path]
        return sorted(kept, key=lambda pair: -pair[1])


@pytest.fixture(scope="module")
def by_hand(model: TinyModel, retriever: Retriever, folder: Path) -> ByHand:
    return ByHand(model, retriever, folder)


def assert_hits(hits: Sequence[Hit], expected: Sequence[tuple[str, float]]) -> None:
    assert [hit.path for hit in hits] == [path for path, _ in expected]
    np.testing.assert_allclose([h.score for h in hits], [s for _, s in expected], atol=2e-5)
    assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))


# --- hits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_hits_are_those_computed_by_hand(
    retriever: Retriever, by_hand: ByHand, method: str
) -> None:
    for path in by_hand.paths[::4]:
        for text in ("make it red", "is more formal, please"):
            query = by_hand.query(path, text, method)
            expected = by_hand.ranking(path, query, keep=method == "mapped")
            assert_hits(retriever.search(path, text, 7, method=method), expected[:7])
            reference = retriever.reference(str(path))
            np.testing.assert_allclose(reference.encode(text, method), query, atol=2e-5)
            assert_hits(reference.search(text, 100, method=method, exact=True), expected)


@given(weight=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_sum_uses_the_weight_of_the_text(
    retriever: Retriever, by_hand: ByHand, weight: float
) -> None:
    path = by_hand.paths[2]
    found = retriever.reference(path).encode("in blue", "sum", weight=weight)
    np.testing.assert_allclose(found, by_hand.query(path, "in blue", "sum", weight), atol=2e-5)


def test_every_part_of_the_method_counts(retriever: Retriever, folder: Path) -> None:
    """Pseudo-word, injection and adapters each change the hits."""
    one, other = retriever.references([folder / "01.png", folder / "02.png"])
    composed = one.encode("make it red")
    assert abs(composed - other.encode("make it red")).max() > 1e-3
    assert abs(composed - one.encode("make it blue")).max() > 1e-3
    assert abs(composed - one.encode("make it red", "stage1")).max() > 1e-3
    said = dict(one.encoded.learned or {})
    for name in ("pseudo_tokens", "vsi_values"):
        one.encoded.learned = {**said, name: said[name] + 0.5}
        assert abs(composed - one.encode("make it red")).max() > 1e-3
        one.encoded.learned = said
    np.testing.assert_array_equal(composed, one.encode("make it red"))


def test_a_dollar_in_a_text_is_no_placeholder(retriever: Retriever, folder: Path) -> None:
    one, other = retriever.references([folder / "01.png", folder / "02.png"])
    np.testing.assert_array_equal(
        one.encode("costs $ 20", "text"), other.encode("costs $ 20", "text")
    )


def test_many_texts_at_once_are_the_same_as_one_by_one(retriever: Retriever, folder: Path) -> None:
    reference = retriever.reference(folder / "04.png")
    texts = ["red", "a much longer text than the others", "with stripes"]
    many = reference.search_many(texts, 5)
    for hits, text in zip(many, texts, strict=True):
        alone = reference.search(text, 5)
        assert_hits(hits, [(hit.path, hit.score) for hit in alone])
    assert reference.search_many([], 5) == []


def test_k_larger_than_the_gallery_returns_all_but_the_reference(
    retriever: Retriever, folder: Path
) -> None:
    assert len(retriever.search(folder / "01.png", "red", k=1000)) == 19
    assert len(retriever.search(folder / "01.png", k=1000, method="mapped")) == 20


def test_a_hit_converts_to_json_values(retriever: Retriever, folder: Path) -> None:
    [hit] = retriever.search(folder / "01.png", "red", k=1)
    assert json.loads(json.dumps(hit.to_dict())) == {
        **{"path": hit.path, "score": hit.score, "rank": 1, "metadata": None},
        "content_hash": hashlib.sha256(Path(hit.path).read_bytes()).hexdigest(),
    }
    Image.open(hit.path).load()
    assert Path(hit.path).is_absolute()
    with pytest.raises(AttributeError):
        hit.rank = 2  # type: ignore[misc]


def test_hits_in_an_archive_have_metadata_and_are_references_in_turn(
    retriever: Retriever, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for seed in range(5):
            for suffix, content in (
                ("png", png(picture(seed))),
                ("json", json.dumps({"id": seed}).encode()),
            ):
                member = tarfile.TarInfo(f"item{seed}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    other = Retriever(retriever.bundle, threads=1)
    other.index(tmp_path / "shard.tar", to=tmp_path / "shard.ztcir")
    hits = other.search(picture(0), "red", k=10)
    assert sorted(hit.path for hit in hits) == [
        str(tmp_path / "shard.tar" / f"item{seed}.png") for seed in range(1, 5)
    ]
    for hit in hits:
        assert hit.metadata == {"id": int(hit.path[-5])}
        again = other.search(hit.path, "red", k=10)
        assert hit.path not in [found.path for found in again]
        assert len(again) == 4
        assert read_image(Path(), hit.path) == png(picture(int(hit.path[-5])))


# --- the reference is left out -------------------------------------------------------------------


KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "string": str,
    "bytes": Path.read_bytes,
    "stream": lambda path: io.BytesIO(path.read_bytes()),
    "image": lambda path: Image.open(io.BytesIO(path.read_bytes())),
    "array": lambda path: np.asarray(Image.open(io.BytesIO(path.read_bytes()))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_left_out_for_every_kind_of_image(
    retriever: Retriever, folder: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copy(folder / "05.png", tmp_path / "another name.png")
    image = KINDS[kind](tmp_path / "another name.png")
    for method in METHODS:
        paths = [hit.path for hit in retriever.search(image, "red", 99, method=method)]
        assert len(paths) == (20 if method == "mapped" else 19)
        assert (str(folder / "05.png") in paths) == (method == "mapped")


@pytest.mark.parametrize("copies", [1, 7, 8, 9, 70])
def test_copies_with_other_bytes_are_left_out(
    retriever: Retriever, tmp_path: Path, copies: int
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(copies):
        (tmp_path / "photos" / f"copy{number}.png").write_bytes(png(picture(1), str(number)))
    for seed in range(2, 6):
        (tmp_path / "photos" / f"other{seed}.png").write_bytes(png(picture(seed)))
    other = Retriever(retriever.bundle, threads=1)
    other.index(tmp_path / "photos", to=tmp_path / "photos.ztcir")
    names = [Path(hit.path).name for hit in other.search(picture(1), "red", k=3)]
    assert len(names) == 3
    assert all(name.startswith("other") for name in names)


def test_the_same_file_is_left_out_even_with_another_vector(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    """As after indexing in another precision."""
    index = Index.create(
        tmp_path / "x.ztcir",
        dim=retriever.dim,
        image_tower=retriever.image_tower,
        precision="int8",
        root=folder,
    )
    reference = retriever.reference(folder / "01.png")
    assert reference.content_hash is not None
    vector = unit(reference.embedding + np.array([0.01, 0, 0, 0], dtype=np.float32))
    with index.edit() as edit:
        for name, content_hash in (("01.png", reference.content_hash), ("02.png", "ab" * 32)):
            edit.put(name, vector, content_hash=content_hash, size=1, mtime_ns=1)
    for method in ("image", "composed"):
        hits = reference.search("red", index=index, method=method)
        assert [hit.path for hit in hits] == [str(folder / "02.png")]


# --- batches, laziness, threads ------------------------------------------------------------------


def test_vectors_do_not_depend_on_the_batch(retriever: Retriever) -> None:
    rng = np.random.default_rng(0)
    images = [picture(seed, (8 + seed % 9, 40 - seed % 11)) for seed in range(70)]
    texts = ["word " * (1 + int(n)) for n in rng.integers(0, 9, 150)]
    index = rng.integers(0, 70, 150)
    references = retriever.references(images)
    for method in METHODS:
        together = retriever.encode_queries(references, texts, index, method)
        assert together.shape == (150, 4)
        assert together.dtype == np.float32
        alone = [
            retriever.reference(images[i]).encode(text, method)
            for i, text in zip(index[:30], texts[:30], strict=True)
        ]
        np.testing.assert_allclose(together[:30], alone, atol=1e-6)
    np.testing.assert_allclose(
        retriever.encode_images(images), [one.embedding for one in references], atol=1e-6
    )
    np.testing.assert_allclose(
        retriever.encode_texts(texts),
        retriever.encode_queries(references, texts, index, "text"),
        atol=1e-6,
    )


def test_empty_batches_are_empty(retriever: Retriever) -> None:
    assert retriever.encode_images([]).shape == (0, 4)
    assert retriever.encode_texts([]).shape == (0, 4)
    assert retriever.references([]) == []
    for method in METHODS:
        assert retriever.encode_queries([], [], [], method).shape == (0, 4)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs that run, in order."""
    names: list[str] = []
    real = Encoder.graph

    def graph(self: Encoder, name: str) -> Any:
        names.append(name)
        return real(self, name)

    monkeypatch.setattr(Encoder, "graph", graph)
    return names


def test_a_method_runs_only_its_graphs(retriever: Retriever, folder: Path, runs: list[str]) -> None:
    retriever.encode_images([folder / "01.png"])
    assert runs == ["image_encoder"]
    runs.clear()
    reference = retriever.reference(png(picture(77)))  # one that nothing is remembered of
    reference.search("red", method="sum")
    reference.search(method="image")
    assert "token_learner" not in runs
    assert runs.count("image_encoder") == 1
    runs.clear()
    reference.search("make it red")
    assert set(runs) == {"text_encoder", "token_learner"}
    runs.clear()
    reference.search("make it blue")
    reference.search_many(["for women", "for men"], method="stage1")
    assert runs == ["text_encoder"] * 2


def test_threads_may_share_a_retriever(retriever: Retriever, folder: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    asked = [
        (paths[i % 20], f"make it {colour}", method)
        for i, colour in enumerate(["red", "blue and long", "green"] * 8)
        for method in METHODS
    ]

    def answers(one: Retriever, threads: int) -> list[tuple[list[Hit], list[Hit]]]:
        reference = one.reference(paths[3])

        def answer(question: tuple[Path, str, str]) -> tuple[list[Hit], list[Hit]]:
            path, text, method = question
            return (
                one.search(path, text, 5, method=method),
                reference.search(text, 5, method=method),
            )

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(answer, asked))

    # A new one, whose graphs and tokenizer are loaded by eight threads at once.
    fresh = Retriever(retriever.bundle, index=retriever.current_index, threads=1)
    assert answers(fresh, threads=8) == answers(retriever, threads=1)


# --- other bundles -------------------------------------------------------------------------------


def test_a_bundle_without_injection_gets_only_its_declared_inputs(
    tmp_path: Path, folder: Path
) -> None:
    model = TinyModel(vsi=False)
    retriever = Retriever(write_tiny_bundle(tmp_path / "b", model), threads=1)
    retriever.index(folder, to=tmp_path / "photos.ztcir")
    by_hand = ByHand(model, retriever, folder)
    for method in METHODS:
        path = by_hand.paths[1]
        query = by_hand.query(path, "make it red", method)
        expected = by_hand.ranking(path, query, keep=method == "mapped")
        assert_hits(retriever.search(path, "make it red", 20, method=method), expected)


def test_a_bundle_of_two_graphs_refuses_methods_that_need_three(
    tmp_path: Path, folder: Path
) -> None:
    parts = tiny_parts(TinyModel())
    del parts["graphs"]["token_learner"]
    bundle = Bundle.write(
        tmp_path / "b", **{**parts, "methods": ("image", "text", "sum"), "prompts": {}}
    )
    retriever = Retriever(bundle, threads=1)
    retriever.index(folder, to=tmp_path / "photos.ztcir")
    for method in ("image", "text", "sum"):
        assert len(retriever.search(folder / "01.png", "red", method=method)) == 10
    with pytest.raises(ZtcirError, match="tiny cannot answer 'composed': choose from image, te"):
        retriever.search(folder / "01.png", "red")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, folder: Path) -> None:
    model = TinyModel()
    model.image = np.full_like(model.image, np.nan)
    retriever = Retriever(write_tiny_bundle(tmp_path / "b", model), threads=1)
    with pytest.raises(ZtcirError, match=r"image_encoder of the bundle tiny .* not finite"):
        retriever.index(folder, to=tmp_path / "photos.ztcir")


def test_precision_is_chosen_and_recorded(tmp_path: Path, folder: Path) -> None:
    parts = tiny_parts(TinyModel(), precisions=("fp32", "fp16"))
    bundle = Bundle.write(tmp_path / "b", **parts)
    assert Retriever(bundle).precision == "fp32"
    retriever = Retriever(bundle, precision="fp16", threads=1)
    assert retriever.precision == "fp16"
    assert retriever.encoder.graph("text_encoder").provider == "CPUExecutionProvider"
    retriever.index(folder, to=tmp_path / "photos.ztcir")
    assert retriever.open_index(tmp_path / "photos.ztcir").precision == "fp16"
    with pytest.raises(ZtcirError, match="in fp32, fp16, not in int8"):
        Retriever(bundle, precision="int8")


def test_from_pretrained_loads_an_embedded_bundle_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztcir_sdk.bundle.bundle._embedded_folder", lambda: tmp_path / "bundles")
    with pytest.raises(BundleError, match="has no embedded bundles"):
        Retriever.from_pretrained()
    write_tiny_bundle(tmp_path / "bundles" / "fashion-lite", name="fashion-lite")
    assert Retriever.from_pretrained(threads=1).bundle.name == "fashion-lite"
    with pytest.raises(UsageError, match="'nothing': choose from fashion-lite"):
        Retriever.from_pretrained("nothing")


# --- bad calls -----------------------------------------------------------------------------------

Ask = Callable[[Retriever, Path], Any]

BAD_CALLS: dict[str, tuple[Ask, type[ZtcirError], str]] = {
    "k of 0": (lambda r, p: r.search(p, "red", k=0), UsageError, "k must be .* not 0"),
    "k of -1": (lambda r, p: r.reference(p).search("red", -1), UsageError, "not -1"),
    "k of 1.5": (lambda r, p: r.search(p, "red", 1.5), UsageError, "not 1.5"),  # type: ignore[arg-type]
    "method": (
        lambda r, p: r.search(p, "red", method="magic"),
        UsageError,
        "'magic': choose from composed, mapped, stage1, image, text, sum",
    ),
    "oracle": (lambda r, p: r.search(p, "red", method="oracle"), UsageError, "'oracle'"),
    "weight": (lambda r, p: r.search(p, "red", weight=0.3), UsageError, "takes no weight"),
    "weight of 2": (
        lambda r, p: r.search(p, "red", method="sum", weight=2),
        UsageError,
        "from 0 to 1, not 2",
    ),
    "weight of nan": (
        lambda r, p: r.search(p, "red", method="sum", weight=float("nan")),
        UsageError,
        "from 0 to 1",
    ),
    "one text for many": (
        lambda r, p: r.reference(p).search_many("red"),
        UsageError,
        "texts must be a list",
    ),
    "lengths": (
        lambda r, p: r.encode_queries([r.reference(p)], ["a", "b"], [0]),
        UsageError,
        "one number for each of 2",
    ),
    "range": (
        lambda r, p: r.encode_queries([r.reference(p)], ["a"], [1]),
        UsageError,
        "from 0 to 0",
    ),
    "missing picture": (
        lambda r, p: r.search(p.with_name("gone.png"), "red"),
        ImageError,
        "gone.png does not exist",
    ),
    "device": (lambda r, p: Retriever(r.bundle, device="tpu"), UsageError, "no device 'tpu'"),
    "bundle": (lambda r, p: Retriever(p), BundleError, "is not a bundle"),
    "index": (lambda r, p: r.search(p, "red", index=p.parent), ZtcirError, "is not an index"),
    "no index": (
        lambda r, p: Retriever(r.bundle).search(p, "red"),
        ZtcirError,
        "no index to search: build one with .*ztcir index",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_answered_with_a_sentence(
    retriever: Retriever, folder: Path, name: str
) -> None:
    call, kind, sentence = BAD_CALLS[name]
    with pytest.raises(ZtcirError, match=sentence) as caught:
        call(retriever, folder / "01.png")
    assert type(caught.value) is kind or kind is ZtcirError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["  \n", "&nbsp;"])
def test_a_blank_text_is_refused_before_any_work(
    retriever: Retriever, folder: Path, runs: list[str], text: str
) -> None:
    for method in ABOUT_THE_TEXT:
        with pytest.raises(UsageError, match=r"text .* is empty"):
            retriever.search(folder / "01.png", text, method=method)
    assert runs == []
    for method in ("mapped", "image"):
        assert retriever.search(folder / "01.png", text, method=method)


def test_unusable_images_are_refused(retriever: Retriever, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(stream.getvalue()[:-200])
    (tmp_path / "note.jpg").write_text("no picture")
    Image.new("1", (20_000, 6_000)).save(tmp_path / "huge.png")
    for name, sentence in (
        ("cut.jpg", "damaged or cut short"),
        ("note.jpg", "not an image"),
        ("huge.png", "100 megapixels"),
    ):
        with pytest.raises(ImageError, match=rf"{name} .*{sentence}"):
            retriever.search(tmp_path / name, "red")


def test_a_long_text_is_cut_with_a_warning(retriever: Retriever, folder: Path) -> None:
    with pytest.warns(TextTruncatedWarning, match="context of 77"):
        hits = retriever.search(folder / "01.png", "long " * 100, k=3)
    assert len(hits) == 3


def test_references_of_another_bundle_are_refused(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    reference = retriever.reference(folder / "01.png")
    other = Retriever(write_tiny_bundle(tmp_path / "b", TinyModel(seed=1)), threads=1)
    with pytest.raises(UsageError, match="another bundle"):
        other.encode_queries([reference], ["red"], [0])
    same = Retriever(retriever.bundle, threads=1)
    np.testing.assert_array_equal(
        same.encode_queries([reference], ["red"], [0])[0], reference.encode("red")
    )


def test_without_a_runtime_the_first_use_names_the_extra(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Retriever(retriever.bundle)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"ztcir\[cpu\]"):
        other.encode_images([folder / "01.png"])


# --- indexes -------------------------------------------------------------------------------------


def test_an_index_of_another_image_tower_is_refused(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    other = Retriever(write_tiny_bundle(tmp_path / "b", TinyModel(seed=1)), threads=1)
    index = retriever.current_index
    assert isinstance(index, Index)
    path = index.path
    with pytest.raises(IndexMismatchError, match="another image tower"):
        Retriever(other.bundle, index=path)
    for made in (path, index):
        with pytest.raises(IndexMismatchError, match="another image tower"):
            other.search(folder / "01.png", "red", index=made)
    with pytest.raises(IndexMismatchError, match="another image tower"):
        other.index(folder, to=path)


def test_retraining_the_text_side_keeps_the_index(
    retriever: Retriever, model: TinyModel, folder: Path, tmp_path: Path
) -> None:
    retrained = TinyModel()
    retrained.word, retrained.adapter = -model.word, -model.adapter
    other = Retriever(write_tiny_bundle(tmp_path / "b", retrained), threads=1)
    hits = other.search(folder / "01.png", "red", 19, index=retriever.current_index)
    assert {hit.path for hit in hits} == {
        h.path for h in retriever.search(folder / "01.png", "x", 19)
    }


def test_an_index_given_by_path_is_searched_in_its_newest_state(
    retriever: Retriever, tmp_path: Path
) -> None:
    photos, index = tmp_path / "photos", tmp_path / "photos.ztcir"
    photos.mkdir()
    (photos / "0.png").write_bytes(png(picture(0)))
    writer = Retriever(retriever.bundle, threads=1)
    writer.index(photos, to=index)
    reader = Retriever(retriever.bundle, index=str(index), threads=1)
    assert len(reader.search(picture(9), "red", index=index)) == 1
    (photos / "1.png").write_bytes(png(picture(1)))
    assert writer.index(photos, to=index).added == 1
    assert len(reader.search(picture(9), "red")) == 1  # the default one, until it is opened again
    assert len(reader.search(picture(9), "red", index=str(index))) == 2
    assert len(writer.search(picture(9), "red")) == 2
    shutil.rmtree(index)
    with pytest.raises(ZtcirError, match="no index"):
        reader.search(picture(9), "red", index=index)
    (photos / "0.png").unlink()
    writer.index(photos, to=index)
    assert [Path(h.path).name for h in reader.search(picture(9), "x", index=index)] == ["1.png"]
    # Made anew by another image tower.
    shutil.rmtree(index)
    Retriever(write_tiny_bundle(tmp_path / "b", TinyModel(seed=1)), threads=1).index(photos, index)
    with pytest.raises(IndexMismatchError):
        reader.search(picture(9), "red", index=index)


def test_a_remembered_reference_keeps_no_old_state_of_the_index(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    own = Retriever(retriever.bundle, threads=1)
    references, states = [], []
    gc.disable()  # a state closes its files at once, not when cycles are looked for
    try:
        for name in ("01", "02", "04"):
            (photos / f"new{name}.png").write_bytes(png(picture(50 + int(name))))
            own.index(photos, to=tmp_path / "some.ztcir")
            reference = own.reference(photos / f"{name}.png")
            assert len(reference.search("red", 3, where="path LIKE '%1%'")) == 3
            references.append(reference)
            assert isinstance(own.current_index, Index)
            states.append(weakref.ref(own.current_index.view))
        assert [state() is None for state in states] == [True, True, False]
    finally:
        gc.enable()
    found = [reference.search("red", 99) for reference in references]
    assert [len(hits) for hits in found] == [22] * 3  # without itself, in the newest state


def test_indexing_reports_progress(retriever: Retriever, folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    Retriever(retriever.bundle, threads=1).index(
        folder, to=tmp_path / "x.ztcir", progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (20, 20)


def test_the_default_index_is_the_variable_else_the_only_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZTCIR_INDEX", raising=False)
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    (tmp_path / "parent.ztcir").mkdir()
    (inner / "file.ztcir").write_text("no folder")
    with pytest.raises(ZtcirError, match=r"no index in .*ztcir index") as caught:
        default_index_path()
    assert caught.value.exit_code == 1
    (inner / "a.ztcir").mkdir()
    assert default_index_path() == inner / "a.ztcir"
    (inner / "b.ztcir").mkdir()
    with pytest.raises(UsageError, match=r"several .*\(a\.ztcir, b\.ztcir\)"):
        default_index_path()
    assert default_index_path(tmp_path) == tmp_path / "parent.ztcir"
    monkeypatch.setenv("ZTCIR_INDEX", "elsewhere.ztcir")
    assert default_index_path() == Path("elsewhere.ztcir")


# --- the package ---------------------------------------------------------------------------------


def in_a_fresh_interpreter(script: str, *arguments: str | os.PathLike[str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("options", "held"),
    [(RetrieverOptions, RetrieverSettings), (SearchOptions, SearchSettings)],
)
def test_editors_know_every_keyword_of_the_settings(options: Any, held: Any) -> None:
    assert options.__optional_keys__ == {field.name for field in dataclasses.fields(held)}


def test_an_unknown_keyword_is_refused(retriever: Retriever, folder: Path) -> None:
    with pytest.raises(TypeError, match="treads"):
        Retriever(retriever.bundle, treads=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="strenght"):
        retriever.search(folder / "01.png", "red", strenght=1)  # type: ignore[call-arg]


def test_importing_the_package_costs_nothing() -> None:
    script = (
        "import json, sys, time\n"
        "before = set(sys.modules); start = time.process_time()\n"
        "import ztcir_sdk\n"
        "seconds = time.process_time() - start\n"
        "print(json.dumps([seconds, sorted(set(sys.modules) - before)]))"
    )
    seconds, loaded = in_a_fresh_interpreter(script)
    assert seconds < 0.1
    assert [name for name in loaded if name.startswith("ztcir")] == [
        "ztcir_sdk",
        "ztcir_sdk.lazy_names",
        "ztcir_sdk.version",
    ]
    assert not {"numpy", "PIL", "onnxruntime", "tokenizers", "hnswlib"} & set(loaded)


@pytest.mark.skipif(sys.platform == "win32", reason="the variable is not for Windows")
@pytest.mark.parametrize("package", ["ztcir_sdk.runtime.onnx.providers", "export.bundle"])
def test_onnx_runtime_reports_nothing_to_its_maker(tmp_path: Path, package: str) -> None:
    if package.startswith("export"):
        pytest.importorskip("torch", reason="needs the train extra, which the SDK must not")
    script = f"import {package}, onnxruntime"
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI", "GITHUB_ACTIONS")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    environment = {**inherited, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert not list(tmp_path.rglob("deviceid"))


def test_importing_the_retriever_is_quick() -> None:
    def seconds(statement: str) -> float:
        script = (
            "import json, time\n"
            "start = time.process_time()\n"
            f"{statement}\n"
            "print(json.dumps(time.process_time() - start))"
        )
        return float(in_a_fresh_interpreter(script))

    rounds = [
        (seconds("from ztcir_sdk import Retriever"), seconds("import numpy")) for _ in range(6)
    ]
    ours, numpys = map(min, zip(*rounds, strict=True))  # in turn, so that other work slows both
    assert ours < 5 * numpys


def test_a_search_loads_no_torch_and_nothing_of_training(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    script = (
        "import json, sys\n"
        "from ztcir_sdk import Retriever\n"
        "retriever = Retriever(sys.argv[1], threads=1)\n"
        "report = retriever.index(sys.argv[2], to=sys.argv[3])\n"
        "hits = retriever.search(sys.argv[4], 'make it red')\n"
        "modules = sorted({name.split('.')[0] for name in sys.modules})\n"
        "print(json.dumps([len(hits), modules]))"
    )
    hits, modules = in_a_fresh_interpreter(
        script, retriever.bundle.path, folder, tmp_path / "x.ztcir", folder / "01.png"
    )
    assert hits == 10
    assert not {"torch", "torchvision", "open_clip", "timm", "onnx"} & set(modules)
    assert not {"train", "export", "cli"} & set(modules)


def test_the_package_offers_its_names() -> None:
    for name in ztcir_sdk.__all__:
        assert getattr(ztcir_sdk, name) is not None
        assert name in dir(ztcir_sdk)
    assert ztcir_sdk.Reference is Reference
    with pytest.raises(AttributeError, match="no attribute 'Retreiver'"):
        ztcir_sdk.Retreiver  # noqa: B018
