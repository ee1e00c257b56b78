"""Exported graphs return what PyTorch returns, alone and as a whole query."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import open_clip
import pytest
import torch
from exported import (
    GRAPH_NAMES,
    Exported,
    files_of,
    run_graph,
    shallow_model,
    torch_embeddings,
)
from places import ROOT
from tiny_training import PARTS, SHALLOW, tiny_model

from export.graphs import export_graph, graph_modules, sample_inputs
from export.parity import check_parity
from export.storage import round_weights
from ztcir_sdk import Retriever

pytestmark = pytest.mark.usefixtures("export_cache")

TEXTS = ("make it red", "is blue, but for WOMEN!!", "costs $ 20", "naïve café, n° 5 — “so”")


@pytest.mark.parametrize(
    ("references", "texts", "length"), [(1, 1, 77), (4, 6, 12), (1, 9, 4), (6, 1, 33), (3, 3, 3)]
)
def test_graphs_return_what_pytorch_returns_at_any_size(
    vit: Exported, references: int, texts: int, length: int
) -> None:
    model, files = vit.model, files_of(vit.bundle)
    generator = torch.Generator().manual_seed(references)
    pixels = torch.randn(references, 3, 32, 32, generator=generator)
    ids = torch.randint(1, 49000, (texts, length), generator=generator)
    ids[:, 0], ids[:, 1], ids[:, -1] = 49406, -1, 49407
    index = torch.randint(references, (texts,), generator=generator)
    scale = torch.rand(texts, generator=generator) * 2
    with torch.no_grad():
        features = model.encode_image(pixels)
        learned = model.learn_token(*features)
        queries = model.encode_query(ids, index, scale, *learned)
    given = {
        "image_encoder": (pixels,),
        "token_learner": features,
        "text_encoder": (ids, index, scale, *learned),
    }
    found = []
    for graph, tensors in given.items():
        arrays = [tensor.numpy() for tensor in tensors]
        found += run_graph(files[graph], dict(zip(GRAPH_NAMES[graph][0], arrays, strict=True)))
    for got, expected in zip(found, (*features, *learned, queries), strict=True):
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit", "small_convnet"])
def test_graphs_have_the_documented_inputs_outputs_and_operators(
    name: str, request: pytest.FixtureRequest
) -> None:
    exported: Exported = request.getfixturevalue(name)
    assert exported.bundle.manifest.graphs.keys() == GRAPH_NAMES.keys()
    for graph, path in files_of(exported.bundle).items():
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto, full_check=True)
        standard = {own.domain: own.version for own in proto.opset_import}
        assert standard.pop("") <= 18
        assert not standard  # TensorRT knows no other domains
        inputs, outputs = (
            [v.name for v in side] for side in (proto.graph.input, proto.graph.output)
        )
        assert (inputs, outputs) == GRAPH_NAMES[graph]
        variant = exported.bundle.variant(graph)
        assert variant.precision == "fp32"
        for spec in (*variant.inputs, *variant.outputs):
            free = [axis for axis in spec.shape if isinstance(axis, str)]
            if spec.name == "input_ids":
                assert len(set(free)) == 2
            else:
                assert len(free) == 1
                assert isinstance(spec.shape[0], str)
            whole = spec.name in ("input_ids", "reference_index")
            assert spec.dtype == ("int64" if whole else "float32")
        root = str(ROOT).encode()
        assert root not in path.read_bytes()  # no path of the machine that exported it


def test_a_model_with_other_parts_has_other_graphs(tmp_path: Path) -> None:
    """Three pseudo-words, no injection, no adapters."""
    parts = dataclasses.replace(PARTS, tokens=3, vsi_layers=(), adapter_bottleneck=0)
    model = tiny_model(SHALLOW, parts)
    _, token_learner, text_encoder = graph_modules(model)
    assert token_learner.outputs == ("pseudo_tokens",)
    assert text_encoder.inputs == (*GRAPH_NAMES["text_encoder"][0][:3], "pseudo_tokens")
    for graph in (token_learner, text_encoder):
        path = tmp_path / f"{graph.name}.onnx"
        inputs = sample_inputs(model, graph.name, references=3, texts=4, length=9, seed=0)
        export_graph(graph, inputs, path)
        results = check_parity(model, graph, path)
        assert {result.output for result in results} == set(graph.outputs)
    words = torch.randn(2, 3, 32).numpy()
    asked = {
        "input_ids": np.array([[49406, -1, -1, -1, 320, 49407]]),
        "reference_index": np.array([1]),
        "adapter_scale": np.ones(1, np.float32),
    }
    one, other = (
        run_graph(path, {**asked, "pseudo_tokens": some})[0]
        for some in (words, words[:, [2, 1, 0]])
    )
    assert np.abs(one - other).max() > 1e-5


@pytest.mark.parametrize("name", ["vit", "small_convnet"])
def test_the_sdk_returns_the_embeddings_that_pytorch_returns(
    name: str, request: pytest.FixtureRequest, pictures: list[Path]
) -> None:
    exported: Exported = request.getfixturevalue(name)
    retriever = Retriever(exported.bundle.path, threads=1)
    model = exported.model if name == "vit" else round_weights(shallow_model())
    references = retriever.references(pictures)
    images = retriever.encode_images(pictures)
    np.testing.assert_allclose(images, torch_embeddings(model, pictures, "", "image"), atol=1e-4)
    answers = []
    for method in ("composed", "stage1", "mapped"):
        for text in TEXTS:
            expected = torch_embeddings(model, pictures, text, method)
            one_by_one = [reference.encode(text, method) for reference in references]
            np.testing.assert_allclose(one_by_one, expected, atol=1e-4)
            answers.append(expected)
    together = retriever.encode_queries(references, TEXTS, [2, 0, 2, 1])
    rows = [answers[row][at] for row, at in enumerate((2, 0, 2, 1))]
    np.testing.assert_allclose(together, rows, atol=1e-4)
    composed, stage1 = answers[0], answers[4]
    assert np.abs(composed - stage1).max() > 1e-2  # the adapters have an effect
    assert np.abs(answers[0] - answers[1]).max() > 1e-2  # and so has the text
    assert np.abs(composed[0] - composed[1]).max() > 1e-3  # and the picture


def test_texts_without_placeholder_are_encoded_as_by_open_clip(vit: Exported) -> None:
    texts = [*TEXTS, "a photo of a very long and very red dress " * 3]
    found = Retriever(vit.bundle.path, threads=1).encode_texts(texts)
    ids = open_clip.get_tokenizer("ViT-B-32")(texts)
    with torch.no_grad():
        expected = vit.model.backbone.clip.encode_text(ids, normalize=True).numpy()
    assert np.abs(found - expected).max() <= 1e-5
