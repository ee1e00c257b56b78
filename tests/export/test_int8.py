"""int8 graphs: what is quantized, with how many bits, and by which images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported import Exported, initializers, run_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_training import CONVNET, tiny_model

from export import int8
from export.graphs import export_graph, graph_modules, sample_inputs
from export.int8 import (
    FIRST,
    LAST,
    fuse,
    narrow_tables,
    quantize_dynamic_int8,
    quantize_static_int8,
)
from export.storage import row_scales

pytestmark = pytest.mark.usefixtures("export_cache")


def test_a_text_graph_multiplies_integers(three_precisions: Exported) -> None:
    proto, exact = (three_precisions.graph("text_encoder", p) for p in ("int8", "fp32"))
    kinds = Counter(node.op_type for node in proto.graph.node)
    weights = initializers(exact)
    products = [
        node
        for node in exact.graph.node
        if node.op_type in ("MatMul", "Gemm") and set(node.input) & weights.keys()
    ]
    assert kinds["MatMulInteger"] == len(products) > 0
    assert kinds["DynamicQuantizeLinear"] > 0
    table = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    assert (table.data_type, table.dims[0]) == (TensorProto.INT8, 49408)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and tensor.dims[:1] != [49408]:
            assert np.abs(numpy_helper.to_array(tensor).astype(int)).max() <= 64  # 7 bits


def test_the_faster_bits_are_tried_first(three_precisions: Exported) -> None:
    lines = [
        line for line in three_precisions.lines if "image_encoder: " in line and "quantized" in line
    ]
    tried = ["int8-dynamic-7", "int8-static-7", "int8-dynamic-8", "int8-static-8"]
    assert [line.split()[0] for line in lines] == tried


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image encoder of a convnet, in float32."""
    path = tmp_path_factory.mktemp("convnet") / "image_encoder.onnx"
    model = tiny_model(CONVNET)
    graph = graph_modules(model.backbone)[0]
    inputs = sample_inputs(model.backbone, graph.name, references=3, texts=4, length=9, seed=0)
    export_graph(graph, inputs, path)
    return path


@pytest.mark.parametrize("bits", [7, 8])
def test_an_image_graph_of_convolutions_is_quantized_statically(
    convnet: Path, bits: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).standard_normal((24, 3, 96, 64)).astype(np.float32)
    done = quantize_static_int8(convnet, tmp_path / "q.onnx", pixels, bits=bits)
    proto = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert done["quantization"] == "static"
    assert done["weight_bits"] == bits
    assert done["calibration_pictures"] == 24
    assert done["nodes"]["quantized"] == len(proto.graph.node)
    weights = initializers(proto)
    made_by = {node.output[0]: node for node in proto.graph.node}
    weighted = [node for node in proto.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    depthwise = 0
    for place, node in enumerate(weighted):
        source = made_by.get(node.input[1])
        if FIRST <= place < len(weighted) - LAST:
            assert source is not None, place
            stored = numpy_helper.to_array(weights[source.input[0]])
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            depthwise += groups > 1
            largest = int(np.abs(stored.astype(int)).max())
            if groups > 1:
                assert stored.dtype == np.int8
                assert largest > 64  # all eight bits
            elif bits == 7:
                assert stored.dtype == np.int8
                assert largest <= 64
            else:
                assert stored.dtype == np.uint8
                assert set(numpy_helper.to_array(weights[source.input[2]]).tolist()) <= {127, 128}
            scales = numpy_helper.to_array(weights[source.input[1]])
            assert scales.size == stored.shape[0 if node.op_type == "Conv" else -1]  # a channel
        else:
            assert source is None, place  # float32
    assert depthwise >= 2
    exact, found = (
        run_graph(path, {"pixel_values": pixels})[0] for path in (convnet, tmp_path / "q.onnx")
    )
    cosines = (exact * found).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert 1e-9 < float((1 - cosines).max()) < 0.02


def test_calibration_reads_one_image_at_a_time_and_measures_the_ranges_of_all(
    convnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps all activations: over a gigabyte per image for a large transformer."""
    sizes: list[int] = []
    real = int8._Calibration.get_next

    def seen(self: Any) -> Any:
        batch = real(self)
        sizes.extend([] if batch is None else [len(batch["pixel_values"])])
        return batch

    monkeypatch.setattr(int8._Calibration, "get_next", seen)
    pixels = np.random.default_rng(0).standard_normal((5, 3, 96, 64)).astype(np.float32)
    stored = []
    for at_once in (None, 5):
        if at_once is not None:
            monkeypatch.setattr(int8, "CALIBRATION_BATCH", at_once)
        quantize_static_int8(convnet, tmp_path / "q.onnx", pixels, bits=7)
        stored.append(initializers(onnx.load(str(tmp_path / "q.onnx"))))
    assert sizes == [1, 1, 1, 1, 1, 5]
    one_by_one, together = stored
    assert one_by_one.keys() == together.keys()
    for name in one_by_one:
        a, b = (numpy_helper.to_array(side[name]) for side in stored)
        rounded = np.issubdtype(a.dtype, np.integer)  # a zero point may fall between two
        np.testing.assert_allclose(
            a.astype(float), b.astype(float), rtol=1e-4, atol=int(rounded), err_msg=name
        )


def test_eight_bits_are_more_exact_than_seven(three_precisions: Exported, tmp_path: Path) -> None:
    bundle = three_precisions.bundle
    source = bundle.file(bundle.variant("text_encoder"))
    ids = np.random.default_rng(0).integers(1, 49000, (32, 12))
    ids[:, -1] = 49407
    answers = [run_graph(source, {"input_ids": ids})[0]]
    for bits in (7, 8):
        target = tmp_path / f"{bits}.onnx"
        assert quantize_dynamic_int8(source, target, bits=bits)["weight_bits"] == bits
        answers.append(run_graph(target, {"input_ids": ids})[0])
    seven, eight = (np.linalg.norm(answers[0] - other, axis=1).mean() for other in answers[1:])
    assert 0 < eight < seven < 0.2


@given(
    seed=st.integers(0, 1000),
    size=st.floats(1e-4, 100),
    ids=st.lists(st.integers(0, 127), min_size=1, max_size=9),
)
@settings(max_examples=40, deadline=None)
def test_token_rows_are_stored_in_int8(seed: int, size: float, ids: list[int]) -> None:
    rows = (np.random.default_rng(seed).standard_normal((128, 40)) * size).astype(np.float32)
    rows[5] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["x"], axis=0)],
        "look_up",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 40])],
        [numpy_helper.from_array(rows, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    narrow = narrow_tables(model)
    onnx.checker.check_model(narrow, full_check=True)
    assert all(
        tensor.data_type != TensorProto.FLOAT or tensor.dims[1] == 1
        for tensor in narrow.graph.initializer
    )
    [found] = run_graph(narrow.SerializeToString(), {"ids": np.array(ids)})
    step = np.maximum(np.abs(rows[ids]).max(axis=1, keepdims=True), 1e-6) / 127
    assert (np.abs(found - rows[ids]) <= 0.51 * step + 1e-7).all()


def test_a_table_with_another_use_stays_in_float32() -> None:
    table = numpy_helper.from_array(np.ones((128, 40), dtype=np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "across"], ["y"]),
        helper.make_node("Transpose", ["table"], ["across"], perm=[1, 0]),
    ]
    graph = helper.make_graph(nodes[:1] + nodes[2:] + nodes[1:2], "tied", [], [], [table])
    narrow = narrow_tables(helper.make_model(graph))
    assert [tensor.name for tensor in narrow.graph.initializer] == ["table"]


def test_rows_are_scaled_so_that_no_value_is_clipped() -> None:
    rows = np.array([[1.0, -2.0], [0.0, 0.0], [300.0, 1e-3]], dtype=np.float32)
    integers, scales = row_scales(rows)
    assert integers.dtype == np.int8
    assert scales.shape == (3, 1)
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert (np.abs(integers * scales - rows) <= 0.5001 * scales).all()


def test_fusing_changes_no_answer_and_its_nodes_are_counted(
    three_precisions: Exported, tmp_path: Path
) -> None:
    bundle = three_precisions.bundle
    source = bundle.file(bundle.variant("text_encoder"))
    nodes = fuse(source, tmp_path / "fused.onnx")
    fused = onnx.load(str(tmp_path / "fused.onnx"))
    assert nodes["exported"] == len(onnx.load(str(source)).graph.node)
    assert nodes["fused"] == len(fused.graph.node) < nodes["exported"]
    kinds = Counter(node.op_type for node in fused.graph.node if node.domain == "com.microsoft")
    assert nodes["fusions"] == dict(kinds)
    ids = np.array([[49406, 320, 1000, 49407]])
    before, after = (
        run_graph(path, {"input_ids": ids})[0] for path in (source, tmp_path / "fused.onnx")
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
