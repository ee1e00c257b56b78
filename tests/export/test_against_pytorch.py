"""Bundles against PyTorch, from the image file to the first ten hits.

Runs each configuration, precision and backend that this machine supports. PyTorch uses open_clip's
own transform and text encoder, the trained modules, and a plain matrix product.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import open_clip
import pytest
import torch
from export_cache import made_once
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from places import DATA
from test_tensorrt import refused
from tiny_siglip import write_siglip, write_vocabulary
from tiny_training import CONVNET, PARTS, VIT, tiny_model, unflushed

from export import agreement
from export.bundle import BundleSettings, export_bundle
from export.parity import randomised
from export.precision import Acceptance
from train.model import (
    BackboneConfig,
    ComposedModel,
    TextTower,
    create_backbone,
    mapped_ids,
    prompt_ids,
    prompts,
    text_ids,
    tower_tokenizer,
)
from train.model import vocabulary as tokenizer
from train.model.vocabulary import VocabularyError
from train.stages.recipes import load_recipe, recipe_names
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import DEMO_WORDINGS, demo_gallery, demo_queries, draw
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import METHODS

pytestmark = pytest.mark.usefixtures("export_cache")

Array = NDArray[np.float32]
PRECISIONS = ("fp32", "fp16", "int8")
BACKENDS = (("onnx", "cpu"), ("onnx", "cuda"), ("onnx-tensorrt", "cuda"), ("tensorrt", "cuda"))
COSINE = {"fp16": 1e-3, "int8": 2e-2}
"""Largest cosine distance from PyTorch; in fp32, each number may differ by 1e-4."""
PICTURES, QUERIES, DEPTH = 30, 12, 10
SIGLIP = "tiny-siglip"


class Words(dict[str, str]):
    """Fills every slot of a template with the same word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def __missing__(self, slot: str) -> str:
        return self._word


def same_up_to_ties(scores: Array, ranking: list[int], found: list[int], slack: float) -> bool:
    """Whether two rankings differ only where scores are equal up to `slack`."""
    return all(abs(scores[a] - scores[b]) <= slack for a, b in zip(ranking, found, strict=True))


@dataclass
class Case:
    """A model, its bundle, and PyTorch's embeddings of some images and queries."""

    model: ComposedModel
    bundle: Bundle
    photos: list[Path]
    references: list[int]
    texts: list[str]
    gallery: Array = field(init=False)
    queries: dict[str, Array] = field(init=False)

    @torch.no_grad()
    def __post_init__(self) -> None:
        backbone, slots = self.model.backbone, self.model.config.tokens
        cfg = open_clip.transform.PreprocessCfg(**backbone.preprocess_cfg)
        transform = open_clip.transform.image_transform_v2(cfg, is_train=False)
        pixels = [transform(Image.open(path).convert("RGB")) for path in self.photos]
        seen = [self.model.encode_image(one[None]) for one in pixels]
        self.gallery = torch.cat([v for v, _ in seen]).numpy()
        asked = [seen[place] for place in self.references]
        v, patches = (torch.cat(parts) for parts in zip(*asked, strict=True))
        learned = self.model.learn_token(v, patches)
        tower, count = backbone.tower, len(self.texts)
        index = torch.arange(count)

        def ask(ids: torch.Tensor, scale: float) -> Array:
            scales = torch.full((count,), scale)
            return self.model.encode_query(ids, index, scales, *learned).numpy()

        composed = prompt_ids(self.texts, tokens=slots, tower=tower)
        # open_clip's own text encoder, on texts padded to the whole context
        ids = text_ids(self.texts, tower=tower)
        padded = torch.zeros(count, backbone.context_length, dtype=torch.long)
        padded[:, : ids.shape[1]] = ids
        words = backbone.clip.encode_text(padded, normalize=True)
        both = torch.nn.functional.normalize(v + words, dim=-1)
        self.queries = {
            "composed": ask(composed, 1.0),
            "stage1": ask(composed, 0.0),
            "mapped": ask(mapped_ids(count, tokens=slots, tower=tower), 0.0),
            "image": v.numpy(),
            "text": words.numpy(),
            "sum": both.numpy(),
        }

    def check(self, precision: str, backend: str, device: str, index: Path) -> None:
        """Compare embeddings and the hits of a search."""
        try:
            retriever = Retriever(
                self.bundle, precision=precision, backend=backend, device=device, threads=1
            )
            gallery = retriever.encode_images(self.photos)
        except ZtcirError as error:
            if device == "cpu":
                raise
            pytest.skip(f"{backend} on {device} cannot be used here: {error}")
        far = compare(gallery, self.gallery, precision)
        references = retriever.references([self.photos[place] for place in self.references])
        slack: dict[str, float] = {}
        for method in METHODS:
            found = retriever.encode_queries(
                references, self.texts, np.arange(len(self.texts)), method
            )
            # a score moves by no more than both vectors do, and two scores may move apart
            slack[method] = 2 * (far + compare(found, self.queries[method], precision))
        retriever.index(self.photos[0].parent, to=index)
        for method in METHODS:
            hits = retriever.search_many(
                [
                    (self.photos[p], text)
                    for p, text in zip(self.references, self.texts, strict=True)
                ],
                k=DEPTH,
                method=method,
            )
            for row, own in enumerate(hits):
                scores = self.gallery @ self.queries[method][row]
                left = [p for p in range(len(self.photos)) if p != self.references[row]]
                if method == "mapped":  # its target is the reference itself
                    left = list(range(len(self.photos)))
                ranking = sorted(left, key=lambda place: -scores[place])[:DEPTH]
                places = [self.photos.index(Path(hit.path)) for hit in own]
                assert same_up_to_ties(scores, ranking, places, slack[method]), (method, row)


def compare(found: Array, expected: Array, precision: str) -> float:
    """Compare vectors with PyTorch's; return the largest distance."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    if precision == "fp32":
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    else:
        distance = 1 - (found.astype(np.float64) * expected).sum(axis=1)
        assert float(distance.max()) <= COSINE[precision]
    return float(np.linalg.norm(found - expected, axis=1).max()) + 1e-6


def export_case(model: ComposedModel, folder: Path) -> None:
    """Export a model in every precision, beside some photos."""
    settings = BundleSettings("case", precisions=PRECISIONS, acceptance=Acceptance(trained=False))
    with pytest.MonkeyPatch.context() as patch, unflushed():
        patch.setattr(agreement, "DRAWINGS_PER_COMBINATION", 1)
        patch.setattr(agreement, "QUERIES", 40)
        patch.setattr(agreement, "CALIBRATION_IMAGES", 16)
        # All parts of these models are random already, and `test_export` tests this check.
        patch.setattr("export.bundle._check_randomised", lambda *_: None)
        export_bundle(model, folder / "bundle", settings)
    photos = folder / "photos"
    photos.mkdir()
    for number, drawing in enumerate(demo_gallery(1)[:PICTURES]):
        draw(drawing, (60, 80)).save(photos / f"{number:02}.png")


def load_case(model: ComposedModel, folder: Path) -> Case:
    """Load a bundle of `export_case`, and compute PyTorch's answers."""
    queries = demo_queries(demo_gallery(1)[:PICTURES], QUERIES)
    return Case(
        model,
        Bundle.load(folder / "bundle"),
        sorted((folder / "photos").iterdir()),
        [query.reference for query in queries],
        [query.text for query in queries],
    )


@pytest.fixture(scope="module", params=[VIT, CONVNET, SIGLIP])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name = request.param
    if name == SIGLIP:
        name = str(write_siglip(tmp_path_factory.mktemp(SIGLIP), "gemma"))
    model = tiny_model(name, PARTS)
    folder = made_once(tmp_path_factory, request.param, lambda folder: export_case(model, folder))
    return load_case(model, folder)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_returns_the_hits_that_pytorch_returns(
    case: Case, precision: str, backend: str, device: str, tmp_path: Path
) -> None:
    case.check(precision, backend, device, tmp_path / "photos.ztcir")


def test_every_graph_has_every_precision(case: Case) -> None:
    assert case.bundle.precisions == PRECISIONS
    for precision in PRECISIONS:
        for graph in case.bundle.manifest.graphs:
            assert case.bundle.variant(graph, precision).precision == precision


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_every_configuration_returns_the_hits_that_pytorch_returns(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> None:
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with FileLock(shared / "large-models.lock"):  # the largest take gigabytes: one at a time
        _check_configuration(name, tmp_path)


def _check_configuration(name: str, tmp_path: Path) -> None:
    configuration = load_recipe(name)
    # a recipe whose backbone is trained first has the configuration of its own name
    backbone = (configuration.backbone or name).partition(":")[0]
    torch.manual_seed(0)
    model = ComposedModel(create_backbone(BackboneConfig(backbone)), configuration.parts()).eval()
    with randomised(model), some_vocabulary(model.backbone.tower, tmp_path / "vocabulary"):
        export_case(model, tmp_path)
        made = load_case(model, tmp_path)
        assert made.bundle.precisions == PRECISIONS
        for precision in PRECISIONS[:2]:  # those that TensorRT takes
            for graph in made.bundle.manifest.graphs:
                file = made.bundle.file(made.bundle.variant(graph, precision))
                assert not refused(onnx.load(str(file))), (precision, graph)
        for number, (precision, (backend, device)) in enumerate(
            itertools.product(PRECISIONS, BACKENDS)
        ):
            with contextlib.suppress(pytest.skip.Exception):  # no such device here
                made.check(precision, backend, device, tmp_path / f"{number}.ztcir")


@contextlib.contextmanager
def some_vocabulary(tower: TextTower, folder: Path) -> Iterator[None]:
    """Replace a vocabulary that is not available here: random weights work with any."""
    try:
        tower_tokenizer(tower)
    except VocabularyError:
        write_vocabulary(folder, "gemma")
        load = tokenizer._hugging_face
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizer, "_hugging_face", lambda _: load(str(folder)))
            yield
        prompts._tokenizer.cache_clear()
    else:
        yield


# --- texts of any length -------------------------------------------------------------------------


def many_texts() -> Iterator[str]:
    """Yield thousands of texts: real ones, and others from one letter to more than the context."""
    words = (
        "red",
        "a much longer",
        "sleeveless",
        "ünïcode",
        "x",
        "dotted!",
        "$ 20",
        "1,234",
        "for",
    )
    for wordings in DEMO_WORDINGS.values():
        for wording, one, other in itertools.product(wordings, words, words):
            yield wording.format_map(Words(f"{one} {other}"))
    rng = np.random.default_rng(0)
    for length in range(1, 90):
        for _ in range(8):
            yield " ".join(rng.choice(words, size=length))
    annotations = DATA and DATA / "cir-annotations"
    for file in sorted(annotations.glob("**/cap.dress.val.json")) if annotations else ():
        for entry in json.loads(file.read_text(encoding="utf-8")):
            yield " and ".join(entry["captions"])


@pytest.mark.filterwarnings("ignore::ztcir_sdk.tokenizer.TextTruncatedWarning")
def test_a_cut_prompt_has_the_embedding_of_the_padded_one(case: Case) -> None:
    if case.bundle.manifest.text.pad_to is not None:
        pytest.skip("this tower pads every text")
    texts = list(dict.fromkeys(many_texts()))
    assert len(texts) >= 2000
    encoder = Retriever(case.bundle, device="cpu", threads=1).encoder
    found = encoder.encode_texts(texts)
    graph, context = encoder.graph("text_encoder"), case.model.backbone.context_length
    lengths: set[int] = set()
    worst = 0.0
    for start in range(0, len(texts), 64):
        rows = [encoder.tokenizer.encode(text) for text in texts[start : start + 64]]
        lengths |= {len(row) for row in rows}
        padded = np.zeros((len(rows), context), dtype=np.int64)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        given: dict[str, Any] = {
            "input_ids": padded,
            "reference_index": np.zeros(len(rows), dtype=np.int64),
            "adapter_scale": np.zeros(len(rows), dtype=np.float32),
            **encoder._empty_reference,
        }
        whole = graph.run({spec.name: given[spec.name] for spec in graph.inputs})["query_embeds"]
        worst = max(worst, float(np.abs(found[start : start + 64] - whole).max()))
    assert worst <= 1e-6
    assert min(lengths) == 3
    assert max(lengths) == context
    assert len(lengths) > 40
