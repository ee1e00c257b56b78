"""Precisions: what an fp16 or int8 graph really is, and that only what answers the same is kept."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_bundle import PREPROCESSING, TinyModel, tiny_parts, unit
from tiny_training import CONVNET, VIT, tiny_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from export import agreement, int8, precision, variants
from export.agreement import Agreement, Judge, Probe, calibration_pictures, folder_probe
from export.attention import attend, written_out_attention
from export.bundle import export_bundle
from export.graphs import GraphModule, export_graph
from export.half import HalfGraph, halved
from export.int8 import FIRST, LAST, fuse, narrow_tables, quantize_by_pictures, quantize_by_run
from export.precision import BOUNDS, Acceptance, PrecisionError, accept
from export.storage import row_scales
from train.model import Backbone
from ztcir_sdk import Retriever
from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, draw
from ztcir_sdk.errors import UsageError, ZtcirError

Array = NDArray[np.float32]
HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


class Remembered:
    """Graphs that torch exported, by name and kind, so that each is exported once."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, bool], bytes] = {}

    def __call__(self, graph: GraphModule, inputs: dict[str, Tensor], path: Path) -> Any:
        key = (graph.name, isinstance(graph.module, HalfGraph))
        if key not in self.made:
            export_graph(graph, inputs, path)
            self.made[key] = path.read_bytes()
        path.write_bytes(self.made[key])
        return onnx.load_model_from_string(self.made[key])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_model(VIT).backbone


@pytest.fixture(scope="module")
def remembered() -> Remembered:
    return Remembered()


def make_quick(patch: pytest.MonkeyPatch, remembered: Remembered) -> None:
    """Nothing is exported twice, and 80 drawings are enough."""
    patch.setattr(variants, "export_graph", remembered)
    patch.setattr(agreement, "EACH_COMBINATION", 2)
    patch.setattr(agreement, "QUERIES", 60)
    patch.setattr(agreement, "CALIBRATED_BY", 16)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, remembered: Remembered) -> None:
    make_quick(monkeypatch, remembered)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def bundle(
    backbone: Backbone,
    remembered: Remembered,
    said: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """All three precisions of a transformer at random weights, without trained parts."""
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch, remembered)
        return export_bundle(
            backbone,
            tmp_path_factory.mktemp("precisions") / "bundle",
            name="tiny",
            model_card={},
            precisions=("fp16", "fp32", "int8"),
            acceptance=Acceptance(trained=False),
            report=said.append,
        )


def proto_of(bundle: Bundle, graph: str, precision: str) -> onnx.ModelProto:
    return onnx.load(str(bundle.file(bundle.variant(graph, precision))))


def initializers(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def dtypes(proto: onnx.ModelProto) -> dict[str, int]:
    """The element type of everything in a graph, as its operators determine it."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return known | {name: tensor.data_type for name, tensor in initializers(inferred).items()}


def drawings(count: int) -> list[Image.Image]:
    return [draw(drawing, (60, 80)) for drawing in demo_gallery(1)[:count]]


# --- the bundle ----------------------------------------------------------------------------------


def test_a_bundle_holds_several_precisions(bundle: Bundle) -> None:
    loaded = Bundle.load(bundle.path)  # every checksum is right
    assert loaded.precisions == ("fp32", "fp16", "int8")
    assert loaded.methods == ("image", "text", "sum")
    for graph in ("image_encoder", "text_encoder"):
        files = {name: loaded.variant(graph, name).file for name in loaded.precisions}
        assert files == {
            "fp32": f"{graph}.onnx",
            "fp16": f"fp16/{graph}.onnx",
            "int8": f"int8/{graph}.onnx",
        }
        sizes = {name: loaded.manifest.files[file].bytes for name, file in files.items()}
        assert sizes["fp16"] < 0.7 * sizes["fp32"]
    assert sizes["int8"] < 0.4 * sizes["fp32"]  # the text encoder is mostly its token rows
    stored = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*.*")}
    assert stored == {*loaded.manifest.files, "bundle.json"}


def test_the_figures_of_the_check_are_in_the_manifest(bundle: Bundle, said: list[str]) -> None:
    for name in ("fp16", "int8"):
        check = bundle.manifest.precisions[name].check
        assert check is not None
        assert check["compared_with"] == "fp32"
        assert check["weights"] == "random"
        assert check["gallery"] == "80 drawings"
        assert check["queries"] == 60
        assert check["cosine_distance"].keys() == {"gallery", "image", "text", "sum"}
        assert all(0 <= v <= BOUNDS[name].cosine for v in check["cosine_distance"].values())
        assert "top10_overlap" not in check  # rankings of random weights mean nothing
        assert "kept_in_fp32" not in check
        assert any(line.startswith(f"{name}: passed") for line in said)
    assert check["cosine_distance"]["gallery"] > 1e-9  # it is not float32 that was measured
    half = bundle.variant("text_encoder", "fp16").check
    assert half is not None
    assert 0 < half["cosine_distance_from_pytorch"]["query_embeds"] <= 1e-3
    eight = bundle.variant("text_encoder", "int8").check
    assert eight is not None
    assert eight["quantization"] == "dynamic"
    nodes = eight["nodes"]
    assert nodes["exported"] > nodes["fused"] > 0
    assert nodes["fusions"]
    assert any(f"{nodes['exported']} nodes exported, {nodes['fused']} fused" in s for s in said)
    image = bundle.variant("image_encoder", "int8").check
    assert image is not None
    assert image["quantization"] == "dynamic"  # it is a transformer


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_retriever_runs_the_precision_it_is_asked_for(bundle: Bundle, name: str) -> None:
    exact, other = (Retriever(bundle, precision=p, device="cpu", threads=1) for p in (None, name))
    assert exact.encoder.precisions == {"image_encoder": "fp32", "text_encoder": "fp32"}
    assert other.encoder.precisions == {"image_encoder": name, "text_encoder": name}
    texts = ["make it red", "in blue", "a much longer wish, with many words in it"]
    pictures = drawings(6)
    for a, b in (
        (exact.encode_images(pictures), other.encode_images(pictures)),
        (exact.encode_texts(texts), other.encode_texts(texts)),
    ):
        assert a.dtype == b.dtype == np.float32
        distance = float((1 - (a.astype(np.float64) * b).sum(axis=1)).max())
        assert 1e-10 < distance < BOUNDS[name].cosine
    with pytest.raises(ZtcirError, match=r"in (fp32|fp16), .*, not in int4"):
        Retriever(bundle, precision="int4")


def test_only_what_is_asked_for_is_kept(backbone: Backbone, quick: None, tmp_path: Path) -> None:
    made = export_bundle(
        backbone,
        tmp_path / "b",
        name="tiny",
        model_card={},
        precisions=("fp16",),
        acceptance=Acceptance(trained=False),
    )
    assert made.precisions == ("fp16",)
    assert sorted(made.manifest.files) == [
        *("fp16/image_encoder.onnx", "fp16/text_encoder.onnx", "tokenizer.json")
    ]
    assert Retriever(made, device="cpu").encoder.precisions["text_encoder"] == "fp16"
    for wrong in ((), ("fp64",)):
        with pytest.raises(UsageError, match="fp32, fp16, int8"):
            export_bundle(backbone, tmp_path / "w", name="tiny", model_card={}, precisions=wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_half_graph_that_strays_stays_in_float32(
    backbone: Backbone, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(variants, "HALF_TOLERANCE", 5e-8)
    with pytest.raises(PrecisionError, match=r"in fp16 \(image_encoder, image_embeds is .* from"):
        export_bundle(backbone, tmp_path / "b", name="t", model_card={}, precisions=("fp16",))
    assert list(tmp_path.iterdir()) == []


# --- fp16 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
def test_an_fp16_graph_is_strongly_typed(bundle: Bundle, graph: str) -> None:
    proto = proto_of(bundle, graph, "fp16")
    onnx.checker.check_model(proto, full_check=True)
    assert {own.domain for own in proto.opset_import} == {""}
    types, weights = dtypes(proto), initializers(proto)
    counted: Counter[str] = Counter()
    for node in proto.graph.node:
        taken = [types[name] for name in node.input if name in types]
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            counted["product"] += 1
            assert set(taken) == {HALF}, node.name
        elif node.op_type in ("Softmax", "LayerNormalization", "ReduceL2"):
            counted[node.op_type] += 1
            assert set(taken) - {TensorProto.INT64} == {FULL}, node.name
    assert counted["product"] >= 8
    assert counted["Softmax"] == 2  # one a block
    assert counted["LayerNormalization"] >= 5
    big = [t for t in weights.values() if np.prod(t.dims) >= 200]
    assert big
    assert {tensor.data_type for tensor in big} == {HALF}
    for tensor in weights.values():
        if tensor.data_type in (HALF, FULL):
            assert np.isfinite(numpy_helper.to_array(tensor)).all()  # masks, too
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.elem_type in (FULL, TensorProto.INT64)


class Residual(nn.Module):
    """Everything that sums squares or exponentials, as a tower does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.LayerNorm(64)
        self.to_qkv = nn.Linear(64, 192)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x * 300)).chunk(3, dim=-1)
        mask = torch.full((5, 5), -1.0e4).triu(1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        return F.normalize(x.mean(dim=1), dim=-1)


class Types(TorchDispatchMode):
    """Notes the type of each operator's first tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if args and isinstance(args[0], Tensor):
            self.seen.setdefault(func.overloadpacket.__name__, set()).add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_what_would_overflow_is_computed_in_float32() -> None:
    module, x = Residual().eval(), torch.randn(3, 5, 64) * 2
    half = halved(module)
    assert half.norm.weight.dtype == torch.float32
    assert half.to_qkv.weight.dtype == torch.float16
    assert module.to_qkv.weight.dtype == torch.float32  # a copy was cast
    with written_out_attention(), Types() as types:
        [found] = HalfGraph(half, ["image_embeds"])(x)
    assert types.seen["native_layer_norm"] == {torch.float32}
    assert types.seen["_softmax"] == {torch.float32}
    assert types.seen["mean"] == {torch.float32}
    assert types.seen["linalg_vector_norm"] == {torch.float32}
    assert types.seen["bmm"] == {torch.float16}
    assert torch.float16 in types.seen.get("addmm", types.seen.get("mm"))
    assert found.dtype == torch.float32
    assert float((1 - (found * module(x)).sum(dim=-1)).max()) < 1e-3
    np.testing.assert_allclose(found.norm(dim=-1).numpy(), 1, atol=1e-6)


@given(
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    mask=st.sampled_from(["none", "added", "bool", "causal"]),
    scale=st.none() | st.floats(0.05, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_attention_written_out_is_torchs(
    lengths: tuple[int, int], mask: str, scale: float | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    (t, s), options = lengths, {}
    q, k, v = noise(2, 3, t, 8), noise(2, 3, s, 8), noise(2, 3, s, 5)
    if mask == "added":
        options["attn_mask"] = noise(t, s)
    elif mask == "bool":
        seen = torch.rand(t, s, generator=generator) < 0.5
        seen[:, 0] = True  # a position that sees nothing has no answer
        options["attn_mask"] = seen
    elif mask == "causal":
        options["is_causal"] = True
    expected = F.scaled_dot_product_attention(q, k, v, scale=scale, **options)
    torch.testing.assert_close(attend(q, k, v, scale=scale, **options), expected)


def test_attention_of_large_halves_is_finite() -> None:
    q = torch.full((1, 4, 64), 80.0, dtype=torch.float16)  # whose products sum up to 409 600
    mask = torch.full((4, 4), -1.0e4, dtype=torch.float16).triu(1)
    with Types() as types:
        found = attend(q, q, torch.ones(1, 4, 8, dtype=torch.float16), attn_mask=mask)
    assert types.seen["_softmax"] == {torch.float32}
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.ones_like(found))


# --- int8 ----------------------------------------------------------------------------------------


def test_a_text_graph_multiplies_integers(bundle: Bundle) -> None:
    proto, exact = (proto_of(bundle, "text_encoder", p) for p in ("int8", "fp32"))
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


def test_the_faster_bits_are_tried_first(bundle: Bundle, said: list[str]) -> None:
    lines = [line for line in said if "image_encoder: " in line and "quantized" in line]
    tried = ["int8-dynamic-7", "int8-static-7", "int8-dynamic-8", "int8-static-8"]
    assert [line.split()[0] for line in lines] == tried


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image encoder of a convnet, in float32."""
    path = tmp_path_factory.mktemp("convnet") / "image_encoder.onnx"
    model = tiny_model(CONVNET)
    from export.graphs import graph_modules, sample_inputs

    graph = graph_modules(model.backbone)[0]
    inputs = sample_inputs(model.backbone, graph.name, references=3, texts=4, length=9, seed=0)
    export_graph(graph, inputs, path)
    return path


@pytest.mark.parametrize("bits", [7, 8])
def test_an_image_graph_of_convolutions_is_quantized_by_pictures(
    convnet: Path, bits: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).standard_normal((24, 3, 96, 64)).astype(np.float32)
    done = quantize_by_pictures(convnet, tmp_path / "q.onnx", pixels, bits=bits)
    proto = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert done["quantization"] == "static"
    assert done["weight_bits"] == bits
    assert done["calibration_pictures"] == 24
    assert done["nodes"]["quantized"] == len(proto.graph.node)
    weights = initializers(proto)
    made_by = {node.output[0]: node for node in proto.graph.node}
    weighty = [node for node in proto.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    depthwise = 0
    for place, node in enumerate(weighty):
        source = made_by.get(node.input[1])
        if FIRST <= place < len(weighty) - LAST:
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
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
            None, {"pixel_values": pixels}
        )[0]
        for path in (convnet, tmp_path / "q.onnx")
    )
    cosines = (exact * found).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert 1e-9 < float((1 - cosines).max()) < 0.02


def test_pictures_are_seen_one_by_one_and_their_ranges_are_those_of_all(
    convnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps all activations, of a large transformer more than a gigabyte a picture."""
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
            monkeypatch.setattr(int8, "PICTURES_AT_ONCE", at_once)
        quantize_by_pictures(convnet, tmp_path / "q.onnx", pixels, bits=7)
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


def test_eight_bits_are_nearer_than_seven(
    backbone: Backbone, bundle: Bundle, tmp_path: Path
) -> None:
    source = bundle.file(bundle.variant("text_encoder"))
    ids = np.random.default_rng(0).integers(1, 49000, (32, 12))
    ids[:, -1] = 49407
    answers = [_run(source, ids)]
    for bits in (7, 8):
        target = tmp_path / f"{bits}.onnx"
        assert quantize_by_run(source, target, bits=bits)["weight_bits"] == bits
        answers.append(_run(target, ids))
    seven, eight = (np.linalg.norm(answers[0] - other, axis=1).mean() for other in answers[1:])
    assert 0 < eight < seven < 0.2


def _run(path: Path, ids: NDArray[np.int64]) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"input_ids": ids})[0]
    return found


@given(
    seed=st.integers(0, 1000),
    size=st.floats(1e-4, 100),
    ids=st.lists(st.integers(0, 127), min_size=1, max_size=9),
)
@settings(max_examples=40, deadline=None)
def test_token_rows_are_kept_as_bytes(seed: int, size: float, ids: list[int]) -> None:
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
        tensor.data_type != FULL or tensor.dims[1] == 1 for tensor in narrow.graph.initializer
    )
    session = onnxruntime.InferenceSession(
        narrow.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(None, {"ids": np.array(ids)})
    step = np.maximum(np.abs(rows[ids]).max(axis=1, keepdims=True), 1e-6) / 127
    assert (np.abs(found - rows[ids]) <= 0.51 * step + 1e-7).all()


def test_a_table_that_is_used_elsewhere_stays(bundle: Bundle) -> None:
    table = numpy_helper.from_array(np.ones((128, 40), dtype=np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "across"], ["y"]),
        helper.make_node("Transpose", ["table"], ["across"], perm=[1, 0]),
    ]
    graph = helper.make_graph(nodes[:1] + nodes[2:] + nodes[1:2], "tied", [], [], [table])
    narrow = narrow_tables(helper.make_model(graph))
    assert [tensor.name for tensor in narrow.graph.initializer] == ["table"]


def test_rows_are_scaled_so_that_nothing_is_cut() -> None:
    rows = np.array([[1.0, -2.0], [0.0, 0.0], [300.0, 1e-3]], dtype=np.float32)
    integers, scales = row_scales(rows)
    assert integers.dtype == np.int8
    assert scales.shape == (3, 1)
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert (np.abs(integers * scales - rows) <= 0.5001 * scales).all()


def test_fusing_is_told_and_changes_no_answer(bundle: Bundle, tmp_path: Path) -> None:
    source = bundle.file(bundle.variant("text_encoder"))
    nodes = fuse(source, tmp_path / "fused.onnx")
    fused = onnx.load(str(tmp_path / "fused.onnx"))
    assert nodes["exported"] == len(onnx.load(str(source)).graph.node)
    assert nodes["fused"] == len(fused.graph.node) < nodes["exported"]
    kinds = Counter(node.op_type for node in fused.graph.node if node.domain == "com.microsoft")
    assert nodes["fusions"] == dict(kinds)
    ids = np.array([[49406, 320, 1000, 49407]])
    np.testing.assert_allclose(_run(tmp_path / "fused.onnx", ids), _run(source, ids), atol=1e-5)


# --- judged by its answers -----------------------------------------------------------------------


Spoil = Callable[[onnx.ModelProto], None]


def shifted(name: str, by: float) -> Spoil:
    """A graph one of whose weights is moved at random."""

    def spoil(proto: onnx.ModelProto) -> None:
        tensor = initializers(proto)[name]
        values = numpy_helper.to_array(tensor)
        noise = np.random.default_rng(0).standard_normal(values.shape) * by
        tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), name))

    return spoil


def lost(proto: onnx.ModelProto) -> None:
    shifted("image" if "image" in initializers(proto) else "adapter", np.nan)(proto)


def numpy_bundle(folder: Path, spoilt: Mapping[str, Mapping[str, Spoil]]) -> Bundle:
    """The NumPy model's bundle, with spoilt copies of its graphs as variants by key."""
    parts = tiny_parts(TinyModel())
    graphs = {graph: dict(own) for graph, own in parts["graphs"].items()}
    for graph, own in spoilt.items():
        for key, spoil in own.items():
            proto = onnx.load_model_from_string(parts["files"][f"{graph}.onnx"])
            spoil(proto)
            variant = graphs[graph]["fp32"]
            graphs[graph][key] = replace(variant, file=f"{key}-{graph}.onnx", precision=key)
            parts["files"][f"{key}-{graph}.onnx"] = proto.SerializeToString()
    return Bundle.write(folder, **{**parts, "graphs": graphs})


def noise_probe(pictures: int = 60, queries: int = 40) -> Probe:
    rng = np.random.default_rng(1)
    return Probe(
        rng.standard_normal((pictures, 3, 8, 8)).astype(np.float32),
        [number % pictures for number in range(queries)],
        [f"wish {number}" for number in range(queries)],
        "noise",
    )


def fine(proto: onnx.ModelProto) -> None:
    shifted("adapter" if "adapter" in initializers(proto) else "image", 1e-6)(proto)


def test_agreement_is_what_a_search_shows(tmp_path: Path) -> None:
    bundle = numpy_bundle(tmp_path / "b", {"image_encoder": {"int8-a": shifted("image", 1.5)}})
    judge = Judge(bundle, noise_probe())
    full = dict.fromkeys(bundle.manifest.graphs, "fp32")
    exact = judge.answers(full)
    same = judge.agreement(exact, judge.answers(full))
    assert set(same.overlap.values()) == {1.0}
    assert max(same.cosine_distance.values()) < 1e-12
    other = judge.answers({**full, "image_encoder": "int8-a"})
    found = judge.agreement(exact, other)
    probe = judge.probe
    for method in ("image", "composed"):
        shared = []
        for row, own in enumerate(probe.references):
            tops = []
            for answers in (exact, other):
                scores = answers.gallery @ answers.queries[method][row]
                scores[own] = -np.inf  # the reference is left out
                tops.append(set(np.argsort(-scores)[:10].tolist()))
            shared.append(len(tops[0] & tops[1]) / 10)
        assert found.overlap[method] == pytest.approx(np.mean(shared))
        assert 0.2 < found.overlap[method] < 0.95
    model = TinyModel()
    np.testing.assert_allclose(exact.gallery, model.encode_image(probe.pixel_values)[0], atol=1e-5)
    spoilt = model.image + np.random.default_rng(0).standard_normal(model.image.shape) * 1.5
    moved = unit(
        probe.pixel_values.mean(axis=(2, 3)) @ spoilt.astype(np.float32) + model.image_bias
    )
    distance = (1 - (exact.gallery * moved).sum(axis=1)).max()
    assert found.cosine_distance["gallery"] == pytest.approx(distance, rel=1e-3)


def judged(
    folder: Path,
    spoilt: Mapping[str, Mapping[str, Spoil]],
    *,
    trained: bool = True,
    **options: Any,
) -> tuple[Any, dict[str, dict[str, Any]], list[str]]:
    bundle = numpy_bundle(folder, spoilt)
    said: list[str] = []
    chosen, checks = accept(
        Judge(bundle, noise_probe()),
        "int8",
        {graph: list(own) for graph, own in spoilt.items()},
        Acceptance(trained=trained),
        report=said.append,
        **options,
    )
    return chosen, checks, said


def test_the_first_variant_that_passes_is_taken(tmp_path: Path) -> None:
    chosen, checks, said = judged(
        tmp_path / "b",
        {
            "image_encoder": {"int8-7": shifted("image", 0.5), "int8-8": fine, "int8-9": fine},
            "text_encoder": {"int8-7": fine},
        },
    )
    assert chosen.graphs == {
        "image_encoder": "int8-8",
        "token_learner": "fp32",
        "text_encoder": "int8-7",
    }
    assert "kept_in_fp32" not in chosen.check
    assert min(chosen.check["top10_overlap"].values()) >= 0.95
    assert chosen.check["weights"] == "trained"
    assert checks["image_encoder"]["top10_overlap"].keys() == {"image", "text", "composed"}
    assert "int8-7 image_encoder: the first ten by" in said[0]
    assert said[1].startswith("int8-8 image_encoder: passed")
    assert not any("int8-9" in line for line in said)


def test_a_graph_that_does_not_pass_stays_in_float32(tmp_path: Path) -> None:
    chosen, checks, _ = judged(
        tmp_path / "b",
        {
            "image_encoder": {"int8-7": shifted("image", 0.5)},
            "text_encoder": {"int8-7": fine},
        },
        refused={"token_learner": "it cannot be"},
    )
    assert chosen.graphs["image_encoder"] == "fp32"
    assert chosen.graphs["text_encoder"] == "int8-7"
    kept = chosen.check["kept_in_fp32"]
    assert kept["token_learner"] == "it cannot be"
    assert "int8-7: the first ten by" in kept["image_encoder"]
    assert "under 0.95" in kept["image_encoder"]
    assert set(checks) == {"text_encoder"}


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_not_finite_never_passes(tmp_path: Path, trained: bool) -> None:
    chosen, _, said = judged(
        tmp_path / "b",
        {"image_encoder": {"int8-7": lost}, "text_encoder": {"int8-7": lost, "int8-8": fine}},
        trained=trained,
    )
    assert chosen.graphs == {
        "image_encoder": "fp32",
        "token_learner": "fp32",
        "text_encoder": "int8-8",
    }
    assert "not finite" in said[0]


def test_random_weights_are_bounded_by_cosine(tmp_path: Path) -> None:
    chosen, checks, _ = judged(
        tmp_path / "b",
        {
            "image_encoder": {"int8-7": shifted("image", 0.02)},
            "text_encoder": {"int8-7": shifted("table", 3.0)},
        },
        trained=False,
    )
    assert chosen.graphs["image_encoder"] == "int8-7"
    assert chosen.graphs["text_encoder"] == "fp32"
    assert "over 2e-02" in chosen.check["kept_in_fp32"]["text_encoder"]
    assert "top10_overlap" not in checks["image_encoder"]


def test_a_precision_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        PrecisionError, match=r"in int8 \(image_encoder, .*nothing was exported.*cal"
    ):
        judged(tmp_path / "b", {"image_encoder": {"int8-7": shifted("image", 0.5)}})


class Told:
    """A judge that was told how well each choice agrees with float32."""

    methods = ("image",)

    def __init__(
        self, graphs: Sequence[str], overlap: Callable[[Mapping[str, str]], float]
    ) -> None:
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(graphs=dict.fromkeys(graphs)))
        self.probe = SimpleNamespace(description="none", texts=[])
        self._overlap = overlap

    def answers(self, choice: Mapping[str, str]) -> dict[str, str]:
        return dict(choice)

    def agreement(self, exact: object, choice: Mapping[str, str]) -> Agreement:
        return Agreement({"gallery": 0.0}, {"image": self._overlap(choice)})


@given(
    losses=st.lists(
        st.dictionaries(st.sampled_from(["int8-7", "int8-8"]), st.floats(0, 0.1), max_size=2),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=200, deadline=None)
def test_what_is_chosen_passes_alone_and_together(losses: list[dict[str, float]]) -> None:
    graphs = [f"graph {number}" for number in range(len(losses))]
    by_graph = dict(zip(graphs, losses, strict=True))

    def overlap(choice: Mapping[str, str]) -> float:
        return 1 - sum(by_graph[graph].get(key, 0) for graph, key in choice.items())

    candidates = {graph: sorted(own) for graph, own in by_graph.items()}
    judge: Any = Told(graphs, overlap)
    possible = any(1 - loss >= 0.95 for own in losses for loss in own.values())
    try:
        chosen, checks = accept(judge, "int8", candidates, Acceptance())
    except PrecisionError:
        assert not possible
        return
    narrow = {graph: key for graph, key in chosen.graphs.items() if key != "fp32"}
    assert possible
    assert narrow
    assert overlap(chosen.graphs) >= 0.95
    assert narrow.keys() == checks.keys()
    kept = (chosen.check or {}).get("kept_in_fp32", {})
    for graph, own in by_graph.items():
        passing = [key for key in candidates[graph] if 1 - own[key] >= 0.95]
        assert chosen.graphs[graph] in ("fp32", *passing[:1])
        assert (graph in kept) == (graph not in narrow and bool(own))


def test_the_quality_may_fall_by_half_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(precision.BOUNDS, "int8", precision.Bounds(0.0, 2.0))  # type: ignore[index]
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            photos / f"{number:02}.png"
        )
    spoilt = {
        "image_encoder": {"int8-7": fine},
        "text_encoder": {"int8-7": shifted("adapter", 9.0)},
    }
    bundle = numpy_bundle(tmp_path / "b", spoilt)
    retriever = Retriever(bundle, device="cpu", threads=1)
    paths = sorted(photos.iterdir())
    gallery = retriever.encode_images(paths)
    lines = []
    for number in range(20):
        query = retriever.reference(paths[number]).encode("make it red")
        scores = gallery @ query
        scores[number] = -2
        target = paths[int(scores.argmax())].stem  # float32 is always right
        entry = {"id": str(number), "kind": "colour", "reference": paths[number].stem}
        lines.append(json.dumps({**entry, "text": "make it red", "targets": [target]}))
    triplets = tmp_path / "triplets.jsonl"
    triplets.write_text("\n".join(lines))
    chosen, _ = accept(
        Judge(bundle, folder_probe(photos, PREPROCESSING)),
        "int8",
        {graph: list(own) for graph, own in spoilt.items()},
        Acceptance(gallery=photos, triplets=triplets),
    )
    assert chosen.graphs["image_encoder"] == "int8-7"
    assert chosen.graphs["text_encoder"] == "fp32"
    assert chosen.check is not None
    assert chosen.check["mAP@10"] == {"fp32": 1.0, "int8": 1.0}
    assert "mAP@10 falls from 1.0000 to" in chosen.check["kept_in_fp32"]["text_encoder"]
    assert chosen.check["gallery"] == "60 pictures"


# --- what it is measured on ----------------------------------------------------------------------


def test_triplets_need_their_gallery() -> None:
    with pytest.raises(UsageError, match="need the gallery"):
        Acceptance(triplets=Path("triplets.jsonl"))


def test_pictures_are_spread_over_the_folder_and_damaged_ones_left_out(tmp_path: Path) -> None:
    for number in range(120):
        grey = Image.new("RGB", (9, 9), (number * 2,) * 3)
        stream = io.BytesIO()
        grey.save(stream, "PNG")
        damaged = number % 30 == 0
        (tmp_path / f"{number:03}.png").write_bytes(stream.getvalue()[: 40 if damaged else None])
    probe = folder_probe(tmp_path, PREPROCESSING)
    assert probe.description == "116 pictures"
    assert probe.pixel_values.shape == (116, 3, 8, 8)
    assert max(probe.references) < 116
    pixels = calibration_pictures(tmp_path, PREPROCESSING)
    levels = (pixels[:, 0, 0, 0] * 0.25 + 0.5) * 255 / 2
    assert 85 <= len(levels) <= 96
    assert levels.min() < 5
    assert levels.max() > 115


def test_too_few_pictures_are_a_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(ZtcirError, match=r"holds 1 pictures .* at least 50"):
        folder_probe(tmp_path, PREPROCESSING)
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(ZtcirError, match="holds no picture that can be used"):
        calibration_pictures(tmp_path, PREPROCESSING)


def test_calibration_and_check_look_at_other_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "EACH_COMBINATION", 1)
    monkeypatch.setattr(agreement, "QUERIES", 60)
    monkeypatch.setattr(agreement, "CALIBRATED_BY", 40)
    calibrated = calibration_pictures(None, PREPROCESSING)
    checked = agreement.drawn_probe(PREPROCESSING)
    assert calibrated.shape == (40, 3, 8, 8)
    assert checked.pixel_values.shape == (40, 3, 8, 8)
    seen = {row.tobytes() for row in calibrated}
    assert not any(row.tobytes() in seen for row in checked.pixel_values)
