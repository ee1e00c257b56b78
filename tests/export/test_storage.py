"""Small bundles: weights are rounded, and stored in few bytes without another change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from exported import Exported, files_of, run_graph, shallow_model, torch_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.bundle import image_tower_fingerprint
from export.storage import compress, fold_norms, round_weights
from ztcir_sdk import Retriever

Array = NDArray[Any]


def stored(path: Path) -> dict[int, int]:
    """Return the bytes of weights by data type."""
    sizes: dict[int, int] = {}
    for tensor in onnx.load(str(path)).graph.initializer:
        values = numpy_helper.to_array(tensor)
        assert tensor.data_type != TensorProto.FLOAT or values.size < 4096, tensor.name
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + values.nbytes
    return sizes


def test_a_small_bundle_stores_few_bytes_of_the_rounded_weights(small_convnet: Exported) -> None:
    model = small_convnet.model
    sizes = {graph: stored(path) for graph, path in files_of(small_convnet.bundle).items()}
    table = model.backbone.vocab_size * model.backbone.text_width
    assert sizes["text_encoder"][TensorProto.INT8] >= table
    assert sizes["image_encoder"][TensorProto.FLOAT16] > 1e5
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert sum(sum(by_type.values()) for by_type in sizes.values()) < 0.5 * weights


def test_a_small_bundle_answers_with_the_rounded_weights(
    small_convnet: Exported, pictures: list[Path]
) -> None:
    """Its answers are the rounded model's, as `test_graphs` checks, not the original model's."""
    found = Retriever(small_convnet.bundle.path, threads=1).encode_images(pictures)
    unrounded = torch_embeddings(small_convnet.model, pictures, "", "image")
    difference = np.abs(found - unrounded).max()
    assert 1e-5 < difference < 2e-2
    assert small_convnet.bundle.manifest.image_tower != image_tower_fingerprint(small_convnet.model)


def test_rounding_changes_weights_little() -> None:
    before, after = shallow_model(), round_weights(shallow_model())
    table = before.backbone.text.token_embedding.weight
    ids = torch.arange(0, len(table), 97)
    rounded = after.backbone.text.token_embedding(ids)
    step = table[ids].abs().amax(1, keepdim=True) / 127
    assert ((rounded - table[ids]).abs() <= 0.51 * step + 1e-9).all()
    assert not rounded.equal(table[ids])
    own = dict(before.named_parameters())
    seen = 0
    for name, parameter in after.named_parameters():
        if "visual" in name or "token_embedding" in name or parameter.numel() < 4096:
            continue  # folded with their norms, or above, or left as they are
        seen += 1
        largest = own[name].abs().max()
        assert 0 < (parameter - own[name]).abs().max() <= 0.006 * largest, name
    assert seen > 3


@torch.no_grad()
def test_folding_norms_changes_no_answer() -> None:
    model = shallow_model()
    pixels = torch.randn(2, 3, 96, 64)
    expected = model.encode_image(pixels)
    fold_norms(model.backbone.clip.visual)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for got, before in zip(model.encode_image(pixels), expected, strict=True):
        unit = before.abs().max()
        assert (got - before).abs().max() <= 1e-4 * unit


def product_of(weight: Array) -> onnx.ModelProto:
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@settings(max_examples=25)
@given(
    st.sampled_from(["rows", "columns", "half", "full", "zeros", "few"]),
    st.sampled_from([(64, 64), (32, 200), (130, 40)]),
    st.integers(0, 1000),
    st.sampled_from([1e-4, 0.02, 3.0]),
)
def test_compression_changes_no_number(
    kind: str, shape: tuple[int, int], seed: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    if kind == "few":
        shape = (8, 8)
    weight = (rng.standard_normal(shape) * spread).astype(np.float32)
    if kind in ("rows", "columns"):
        axis = 1 if kind == "rows" else 0
        largest = np.abs(weight).max(axis=axis, keepdims=True)
        scales = np.nextafter((largest / 127).astype(np.float16), np.float16(np.inf))
        scales = scales.astype(np.float32)
        weight = np.rint(weight / scales).astype(np.float32) * scales
        # the largest entry is 127 steps, as where a row was rounded to its own largest
        edge = (np.arange(shape[0]), 0) if axis == 1 else (0, np.arange(shape[1]))
        weight[edge] = 127 * scales.reshape(-1)
    elif kind == "half":
        weight = weight.astype(np.float16).astype(np.float32)
    elif kind == "zeros":
        weight[:] = 0
    x = rng.standard_normal((3, shape[0])).astype(np.float32)
    plain = product_of(weight)
    small = compress(product_of(weight))
    onnx.checker.check_model(small)
    answers = []
    for proto in (plain, small):
        answers.append(run_graph(proto.SerializeToString(), {"x": x})[0])
    assert np.array_equal(answers[0], answers[1])
    types = {tensor.data_type for tensor in small.graph.initializer}
    expected = {
        "rows": TensorProto.INT8,
        "columns": TensorProto.INT8,
        "half": TensorProto.FLOAT16,
        "zeros": TensorProto.FLOAT16,
        "full": TensorProto.FLOAT,
        "few": TensorProto.FLOAT,
    }[kind]
    assert expected in types
