"""Engines compiled by TensorRT for RTX, which needs no GPU for it, and graphs that it refuses.

These tests do not run the engines, because the machines that run the tests have no GPU; the code
that runs them is tested in `test_tensorrt_runtime`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from places import ROOT, SUPPORT
from tiny_bundle import write_tiny_bundle

from cli.main import main
from ztcir_sdk.bundle import Bundle, embedded_names
from ztcir_sdk.bundle.engines import build_engines
from ztcir_sdk.bundle.graph_source import BatchSizes, graph_source
from ztcir_sdk.errors import BundleError, UsageError, ZtcirError
from ztcir_sdk.runtime import GraphSource, OnnxGraph, RuntimeSettings, ShapeRange
from ztcir_sdk.runtime.tensorrt.architectures import architecture_of, gpu_names
from ztcir_sdk.runtime.tensorrt.build import (
    EngineBuildError,
    UnsupportedGraphError,
    build_engine,
)
from ztcir_sdk.runtime.tensorrt.cache import CACHE_VARIABLE, EngineCache
from ztcir_sdk.runtime.tensorrt.package import TensorRt, import_tensorrt
from ztcir_sdk.runtime.tensorrt.widen import widen_stored_weights

SUPPORTED = json.loads((SUPPORT / "tensorrt_10_3_operators.json").read_text())
TYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}
BUILT_WITH_TORCH = (
    *("tiny-vit", "tiny-convnet", "tiny-vit, small"),
    *("tiny-vit, fp16", "tiny-convnet, fp16"),
    *("tiny-siglip", "tiny-siglip, fp16"),
)
IN_THE_PACKAGE = tuple(embedded_names())
Building = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra trt-rtx)")
    return import_tensorrt("tensorrt_rtx")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """Return the graphs for GPUs of a tiny model, exported by PyTorch, or of an embedded bundle."""

    @cache
    def files(name: str) -> dict[str, Path]:
        if name in IN_THE_PACKAGE:
            bundle = Bundle.embedded(name)
            return {
                f"{graph} ({precision})": bundle.file(variant)
                for graph, variants in bundle.manifest.graphs.items()
                for precision, variant in variants.items()
                if precision != "int8"
            }
        pytest.importorskip("torch", reason="PyTorch is not installed (extra train)")
        from export_cache import cached_exports
        from tiny_siglip import write_siglip
        from tiny_training import tiny_model

        from export.graphs import export_graph, graph_modules, half_graphs, sample_inputs
        from export.storage import compress, round_weights

        name, _, way = name.partition(", ")
        small = way == "small"
        folder = tmp_path_factory.mktemp(name)
        model = tiny_model(str(write_siglip(folder, "gemma")) if name == "tiny-siglip" else name)
        model = round_weights(model) if small else model
        exported = {}
        with cached_exports(tmp_path_factory):
            for graph in half_graphs(model) if way == "fp16" else graph_modules(model):
                inputs = sample_inputs(model, graph.name, references=3, texts=4, length=9, seed=0)
                exported[graph.name] = file = folder / f"{graph.name}.onnx"
                proto = export_graph(graph, inputs, file)
                if small:  # weights are stored in fp16 and int8, as in the embedded bundle
                    onnx.save(compress(proto), file)
        return exported

    return files


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own folder of engines."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "engines"))
    return tmp_path / "engines"


# --- compiled engines ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_86", "sm_89"])
def test_the_three_engines_are_compiled_and_kept(
    rtx: TensorRt, tiny: Bundle, architecture: str, engines: Path, building: Building
) -> None:
    with building():
        reports = build_engines(tiny, gpu=architecture)
    assert [report.graph for report in reports] == list(tiny.manifest.graphs)
    for report in reports:
        assert report.built
        assert report.bytes == report.file.stat().st_size > 1000
        assert report.file.parent == engines
        metadata = json.loads(report.file.with_suffix(".json").read_text())
        assert metadata["key"]["architecture"] == report.architecture == architecture
        assert metadata["key"]["version"] == rtx.version
    inputs = {spec["name"]: spec for spec in metadata["inputs"]}
    assert inputs["input_ids"] == {"name": "input_ids", "dtype": "int64", "shape": ["B", "T"]}
    assert metadata["ranges"]["T"]["most"] == tiny.manifest.text.context_length
    times = [report.file.stat().st_mtime_ns for report in reports]
    again = build_engines(tiny, gpu=architecture)
    assert not any(report.built for report in again)
    assert [report.file.stat().st_mtime_ns for report in again] == times


@pytest.mark.parametrize("name", [*BUILT_WITH_TORCH, *IN_THE_PACKAGE])
def test_the_engines_of_real_graphs_are_compiled(
    rtx: TensorRt, graphs: Callable[[str], dict[str, Path]], name: str, building: Building
) -> None:
    ranges = {axis: ShapeRange(1, 2, 8) for axis in "RB"} | {"T": ShapeRange(1, 11, 77)}
    files = graphs(name)
    assert len(files) >= 3
    with building():
        for architecture, (where, file) in itertools.product(("sm_86", "sm_89"), files.items()):
            source = GraphSource(file, "digest", ranges=ranges)
            built = build_engine(source, rtx, architecture=architecture)
            assert len(built.plan) > 1000, where
            assert set(built.ranges) <= set(ranges)


def test_an_engine_depends_on_its_architecture_and_sizes(rtx: TensorRt, tiny: Bundle) -> None:
    def plan(architecture: str, **sizes: int) -> bytes:
        source = graph_source(tiny, "text_encoder", tiny.variant("text_encoder"))
        ranges = {**source.ranges, **{k: ShapeRange(1, 1, most) for k, most in sizes.items()}}
        source = GraphSource(source.path, source.digest, ranges=ranges)
        return build_engine(source, rtx, architecture=architecture, workspace=1 << 28).plan

    assert len({plan("sm_86"), plan("sm_89"), plan("sm_86", T=5)}) == 3


def test_the_command_needs_no_torch(rtx: TensorRt, tiny: Bundle, engines: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'open_clip'): sys.modules[name] = None\n"
        "from cli.main import main; main()"
    )
    arguments = ["export", str(tiny.path), "--trt", "--gpu", "RTX 3060", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["graph"] for one in found["engines"]] == list(tiny.manifest.graphs)
    assert {one["architecture"] for one in found["engines"]} == {"sm_86"}
    assert all(Path(one["file"]).parent == engines for one in found["engines"])
    assert "text_encoder (fp32) for sm_86: built in" in done.stderr


# --- errors --------------------------------------------------------------------------------------


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def save(path: Path, *nodes: onnx.NodeProto, domain: str = "") -> GraphSource:
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", sides[:1], sides[1:])
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return GraphSource.of_file(path, ranges={"B": ShapeRange(1, 1, 4)})


def test_an_operator_that_is_not_supported_is_named(rtx: TensorRt, tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example", name="odd_one")
    source = save(tmp_path / "strange.onnx", node, domain="com.example")
    with pytest.raises(UnsupportedGraphError, match="Frobnicate at odd_one in strange") as caught:
        build_engine(source, rtx, architecture="sm_86")
    assert "backend onnx" in one_sentence(caught.value)
    ok = save(tmp_path / "fine.onnx", helper.make_node("Relu", ["x"], ["y"]))
    assert build_engine(ok, rtx, architecture="sm_86").plan  # it still builds others


def test_an_int8_graph_is_refused(rtx: TensorRt, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    weights = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    save(tmp_path / "plain.onnx", node)
    proto = onnx.load(tmp_path / "plain.onnx")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(proto, tmp_path / "plain.onnx")
    quantization.quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "small.onnx")
    source = GraphSource(tmp_path / "small.onnx", "digest", "int8")
    with pytest.raises(UnsupportedGraphError, match="int8 graphs run only on CPUs") as caught:
        build_engine(source, rtx, architecture="sm_86")
    one_sentence(caught.value)


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_graph_is_refused(
    rtx: TensorRt, tiny: Bundle, tmp_path: Path, kept: float
) -> None:
    whole = (tiny.path / "text_encoder.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(EngineBuildError, match=r"cannot read .*cut\.onnx") as caught:
        build_engine(GraphSource(tmp_path / "cut.onnx", "d"), rtx, architecture="sm_86")
    assert "export or copy the bundle again" in one_sentence(caught.value)


def test_a_missing_graph_is_refused(rtx: TensorRt, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.onnx is missing"):
        build_engine(GraphSource(tmp_path / "gone.onnx", "d"), rtx, architecture="sm_86")


def test_a_dynamic_axis_without_sizes_is_refused(rtx: TensorRt, tiny: Bundle) -> None:
    source = GraphSource(tiny.path / "image_encoder.onnx", "digest")
    with pytest.raises(
        EngineBuildError, match="sizes of axis R of pixel_values in image_encoder are unknown"
    ) as caught:
        build_engine(source, rtx, architecture="sm_86")
    one_sentence(caught.value)


INTEGERS = np.array([[-127, 0, 1, 127]] * 4, dtype=np.int8)


def stored_in_int8(path: Path) -> Path:
    """Save y = x @ (w * 0.5), with w in int8."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in "xy"]
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "scale"], ["weights"]),
        helper.make_node("MatMul", ["x", "weights"], ["y"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(INTEGERS, "w"),
        onnx.numpy_helper.from_array(np.array(0.5, dtype=np.float32), "scale"),
    ]
    graph = helper.make_graph(nodes, "graph", sides[:1], sides[1:], weights)
    graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.INT8, [4, 4]))
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_weights_stored_in_int8_are_widened(rtx: TensorRt, tmp_path: Path) -> None:
    small = stored_in_int8(tmp_path / "small.onnx")
    (tmp_path / "wide").mkdir()
    wide = widen_stored_weights(small, tmp_path / "wide")
    assert wide != small
    x = np.eye(4, dtype=np.float32)
    for file in (small, wide):
        graph = OnnxGraph(file, RuntimeSettings(device="cpu", threads=1))
        np.testing.assert_array_equal(graph.run({"x": x})["y"], INTEGERS / np.float32(2))
    assert refused(onnx.load(small)) == ["Cast of int8"]
    assert refused(onnx.load(wide)) == []
    assert widen_stored_weights(wide, tmp_path) == wide  # nothing to widen
    source = GraphSource(small, "digest", ranges={"B": ShapeRange(1, 1, 4)})
    assert build_engine(source, rtx, architecture="sm_86").plan


def test_a_missing_onnx_is_named_if_weights_cannot_be_widened(
    rtx: TensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = GraphSource(
        stored_in_int8(tmp_path / "small.onnx"), "digest", ranges={"B": ShapeRange(1, 1, 4)}
    )
    monkeypatch.setattr("ztcir_sdk.runtime.tensorrt.build.onnx_installed", lambda: False)
    with pytest.raises(EngineBuildError, match="pip install onnx") as caught:
        build_engine(source, rtx, architecture="sm_86")
    one_sentence(caught.value)


def test_quantized_weights_are_not_widened(tmp_path: Path) -> None:
    path = stored_in_int8(tmp_path / "graph.onnx")
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("DequantizeLinear", ["w", "scale"], ["wide"]))
    onnx.save(model, path)
    assert widen_stored_weights(path, tmp_path / "none") == path


def test_an_unsupported_architecture_is_refused(rtx: TensorRt, tiny: Bundle) -> None:
    with pytest.raises(EngineBuildError, match="does not compile for sm_90, only for") as caught:
        build_engines(tiny, gpu="H100")
    assert "sm_86" in one_sentence(caught.value)


def test_a_machine_without_a_gpu_needs_the_name_of_one(tiny: Bundle) -> None:
    from ztcir_sdk.runtime.tensorrt.cuda import count_gpus

    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    if count_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(ZtcirError, match="--gpu") as caught:
        build_engines(tiny)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--gpu", "sm_86"], 2, "--gpu is an option for engines: add --trt."),
        (["--max-texts", "4"], 2, "--max-texts is an option for engines: add --trt."),
        ([], 2, "or add --trt"),
        (["BUNDLE"], 2, "or add --trt"),
        (["BUNDLE", "--trt", "--gpu", "potato"], 2, "The GPU 'potato' is unknown"),
        (["BUNDLE", "--trt", "--workspace", "0"], 2, "--workspace"),
        (["BUNDLE", "--trt", "--trt-package", "other"], 2, "--trt-package"),
    ],
)
def test_the_command_reports_wrong_options(
    tiny: Bundle, arguments: list[str], code: int, sentence: str
) -> None:
    called = [str(tiny.path) if one == "BUNDLE" else one for one in arguments]
    result = CliRunner().invoke(main, ["export", *called])
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr


def test_a_folder_that_cannot_be_written_to_is_named(
    rtx: TensorRt, tiny: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ZtcirError, match=CACHE_VARIABLE) as caught:
        build_engines(tiny, gpu="sm_86", folder=tmp_path / "file")
    one_sentence(caught.value)


def test_precisions_that_share_a_variant_share_its_engine(rtx: TensorRt, tiny: Bundle) -> None:
    reports = build_engines(tiny, gpu="sm_86", precisions=["fp32", "fp32"])
    assert len(reports) == len({report.file for report in reports}) == 3


def test_another_graph_of_the_same_name_has_another_engine(
    rtx: TensorRt, tiny: Bundle, tmp_path: Path
) -> None:
    from tiny_bundle import TinyModel

    other = write_tiny_bundle(tmp_path / "other", TinyModel(seed=1))
    files = {report.file for one in (tiny, other) for report in build_engines(one, gpu="sm_86")}
    assert len(files) == 6
    assert EngineCache().has_engine_of(
        graph_source(other, "text_encoder", other.variant("text_encoder")).digest
    )


# --- names of GPUs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("sm_86", "sm_86"),
        ("SM86", "sm_86"),
        ("86", "sm_86"),
        ("8.6", "sm_86"),
        ("12.0", "sm_120"),
        ("compute_90", "sm_90"),
        ("rtx3090", "sm_86"),
        ("NVIDIA GeForce RTX 3060 Ti", "sm_86"),
        ("RTX A4000", "sm_86"),
        ("RTX 4090", "sm_89"),
        ("RTX 6000 Ada", "sm_89"),
        ("L4", "sm_89"),
        ("T4", "sm_75"),
        ("Jetson AGX Orin", "sm_87"),
        ("jetson-orin-nano", "sm_87"),
        ("H100", "sm_90"),
        ("GeForce RTX 5090", "sm_120"),
        ("DGX Spark", "sm_121"),
    ],
)
def test_architectures_are_found_by_the_name_of_a_gpu(name: str, architecture: str) -> None:
    assert architecture_of(name) == architecture


@pytest.mark.parametrize("name", ["", "potato", "rtx", "sm_", "sm_0", "8", "rtx30900", "RTX 6000"])
def test_unknown_gpus_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is unknown: give its architecture"):
        architecture_of(name)


def test_every_gpu_in_the_table_is_found_by_its_name() -> None:
    for architecture in ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120"):
        for name in gpu_names(architecture):
            assert architecture_of(name) == architecture


# --- operators of TensorRT 10.3 ------------------------------------------------------------------


# In the reverse order of the test above: two workers then wait less for each other's exports.
@pytest.mark.parametrize("name", [*IN_THE_PACKAGE, *reversed(BUILT_WITH_TORCH)])
def test_exported_graphs_have_only_operators_that_tensorrt_10_3_supports(
    graphs: Callable[[str], dict[str, Path]], name: str, tmp_path: Path
) -> None:
    for where, file in graphs(name).items():
        assert not refused(onnx.load(widen_stored_weights(file, tmp_path))), where


def refused(proto: onnx.ModelProto) -> list[str]:
    """Return what TensorRT 10.3 does not document in a graph: opset, operators, types, axes."""
    found = []
    for opset in proto.opset_import:
        least, most = SUPPORTED["opsets"]
        if opset.domain in ("", "ai.onnx") and not least <= opset.version <= most:
            found.append(f"opset {opset.version}")
    typed = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    dtypes = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*typed.input, *typed.value_info, *typed.output)
    }
    for tensor in typed.initializer:
        dtypes[tensor.name] = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    fixed = {tensor.name for tensor in typed.initializer}
    fixed |= {node.output[0] for node in typed.node if node.op_type == "Constant"}
    for node in typed.node:
        takes = SUPPORTED["operators"].get(node.op_type)
        if node.domain not in ("", "ai.onnx") or takes is None:
            found.append(f"{node.domain} {node.op_type}".strip())
            continue
        # An operator computes in the type of its output, except for these.
        computed = node.input[0] if node.op_type in _COMPARES else node.output[0]
        if node.op_type not in _OF_SHAPES and TYPES.get(dtypes[computed]) not in takes:
            found.append(f"{node.op_type} of {dtypes[computed]}")
        if node.op_type in _WITH_AXES and len(node.input) > 1 and node.input[1] not in fixed:
            found.append(f"{node.op_type} with computed axes")
    return found


_COMPARES = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "ArgMax", "Cast")
_OF_SHAPES = ("Shape", "Size")
_WITH_AXES = ("Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "CumSum")


def test_the_check_finds_unsupported_operators(tmp_path: Path) -> None:
    def found(*nodes: onnx.NodeProto, opset: int = 18) -> list[str]:
        path = tmp_path / "graph.onnx"
        save(path, *nodes)
        proto = onnx.load(path)
        proto.opset_import[0].version = opset
        return refused(proto)

    assert found(helper.make_node("Relu", ["x"], ["y"])) == []
    assert found(helper.make_node("Relu", ["x"], ["y"]), opset=21) == ["opset 21"]
    assert found(helper.make_node("Bernoulli", ["x"], ["y"])) == ["Bernoulli"]
    cast = helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64)
    back = helper.make_node("Cast", ["e"], ["y"], to=TensorProto.FLOAT)
    assert found(cast, helper.make_node("Erf", ["i"], ["e"]), back) == ["Erf of int64"]


def test_text_sizes_do_not_exceed_the_context_length(tiny: Bundle) -> None:
    def most(tokens: int | None) -> int:
        sizes = BatchSizes(tokens=tokens)
        variant = tiny.variant("text_encoder")
        return graph_source(tiny, "text_encoder", variant, sizes).ranges["T"].most

    assert (most(None), most(20), most(500)) == (77, 20, 77)
