"""Graphs run by TensorRT, on the fake GPU of `fake_nvidia`."""

from __future__ import annotations

import gc
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_machine import TENSORRT, Machine
from fake_nvidia import Context, Engine, FakeCuda, FakeTensorRt, RuntimeConfig, cudaError_t
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_runtime import text_inputs
from tiny_bundle import D_T, D_VSI, SIZE, N, TinyModel, tiny_parts, write_tiny_bundle

from cli.main import main
from ztcir_sdk import Retriever
from ztcir_sdk.benchmark import BenchmarkSettings, benchmark
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.bundle.engines import build_engines
from ztcir_sdk.bundle.graph_source import BatchSizes, graph_source
from ztcir_sdk.doctor import Diagnosis, Finding
from ztcir_sdk.doctor.runtime import check_gpu
from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError
from ztcir_sdk.runtime import (
    GraphSource,
    OnnxGraph,
    RuntimeSettings,
    ShapeRange,
    open_graph,
)
from ztcir_sdk.runtime.tensorrt import cuda
from ztcir_sdk.runtime.tensorrt import package as tensorrt_package
from ztcir_sdk.runtime.tensorrt.cache import CACHE_VARIABLE, EngineCache, EngineError
from ztcir_sdk.runtime.tensorrt.cuda import CudaError, Gpu, OutOfGpuMemoryError
from ztcir_sdk.runtime.tensorrt.graph import SHAPES_KEPT, TensorRtGraph
from ztcir_sdk.runtime.tensorrt.open import Target, ensure_engine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    yield Machine(monkeypatch, tmp_path / "engines")
    tensorrt_package.import_tensorrt.cache_clear()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def source(bundle: Bundle, graph: str, **sizes: int) -> GraphSource:
    return graph_source(bundle, graph, bundle.variant(graph), BatchSizes(**sizes))


@pytest.fixture
def text_encoder(machine: Machine, bundle: Bundle) -> TensorRtGraph:
    return machine.open(source(bundle, "text_encoder"))


def pixels(pictures: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    shape = (pictures, 3, SIZE, SIZE)
    return {"pixel_values": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def same(graph: Any, reference: OnnxGraph, inputs: dict[str, NDArray[Any]]) -> None:
    found, expected = graph.run(inputs), reference.run(inputs)
    assert list(found) == list(expected)
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].flags.owndata or found[name].base.flags.owndata


# --- results -------------------------------------------------------------------------------------


def test_every_shape_and_repetition_equals_onnx_runtime(
    machine: Machine, bundle: Bundle, text_encoder: TensorRtGraph
) -> None:
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))

    @given(
        st.lists(
            st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(1, 4), st.integers(0, 99)),
            min_size=1,
            max_size=12,
        )
    )
    @settings(max_examples=25, deadline=None)
    def check(asked: list[tuple[int, int, int, int]]) -> None:
        for texts, tokens, references, seed in asked:
            same(text_encoder, reference, text_inputs(texts, tokens, references, seed))

    check()
    assert "cudaGraphLaunch" in machine.cuda.calls
    assert len(text_encoder._engine.plans) <= SHAPES_KEPT


def test_only_the_requested_outputs_are_copied_and_returned(
    machine: Machine, bundle: Bundle
) -> None:
    graph = machine.open(source(bundle, "image_encoder"))
    reference = OnnxGraph(bundle.path / "image_encoder.onnx", RuntimeSettings(threads=1))
    for names in (["patch_features"], ["image_embeds"], ["patch_features", "image_embeds"], None):
        for seed in range(3):  # run, recorded, replayed
            found = graph.run(pixels(2, seed), names)
            expected = reference.run(pixels(2, seed), names)
            assert list(found) == list(expected)
            for name, array in found.items():
                np.testing.assert_array_equal(array, expected[name])
    before = machine.cuda.calls.count("cudaMemcpyAsync")
    graph.run(pixels(3), ["image_embeds"])
    assert (
        machine.cuda.calls.count("cudaMemcpyAsync") == before + 2
    )  # one input, one of two outputs


def test_results_are_not_overwritten_by_the_next_run(text_encoder: TensorRtGraph) -> None:
    answers = [text_encoder.run(text_inputs(2, 5, 1, seed))["query_embeds"] for seed in range(4)]
    again = [text_encoder.run(text_inputs(2, 5, 1, seed))["query_embeds"] for seed in range(4)]
    np.testing.assert_array_equal(answers, again)
    assert len({answer.tobytes() for answer in answers}) == 4


def test_a_shape_is_recorded_on_its_second_run_and_replayed_afterwards(
    machine: Machine, text_encoder: TensorRtGraph
) -> None:
    calls = machine.cuda.calls

    def run(tokens: int) -> list[str]:
        calls.clear()
        text_encoder.run(text_inputs(1, tokens, 1))
        return [call for call in calls if "Capture" in call or call == "cudaGraphLaunch"]

    assert run(5) == []
    assert run(5) == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphLaunch"]
    assert run(5) == ["cudaGraphLaunch"]
    assert "cudaMemcpyAsync" not in calls
    assert run(6) == []
    assert run(5) == ["cudaGraphLaunch"]  # each shape has its own context


def test_recording_can_be_turned_off(machine: Machine, bundle: Bundle) -> None:
    graph = machine.open(source(bundle, "text_encoder"), cuda_graphs=False)
    for _ in range(4):
        graph.run(text_inputs(1, 5, 1))
    assert "cudaStreamBeginCapture" not in machine.cuda.calls


@pytest.mark.parametrize("function", ["cudaGraphInstantiate", "cudaStreamBeginCapture"])
def test_a_shape_that_cannot_be_recorded_still_runs(
    machine: Machine, bundle: Bundle, text_encoder: TensorRtGraph, function: str
) -> None:
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    same(text_encoder, reference, text_inputs(2, 5, 1, 0))
    machine.cuda.fail[function] = cudaError_t.cudaErrorStreamCaptureInvalidated
    for seed in range(1, 4):
        same(text_encoder, reference, text_inputs(2, 5, 1, seed))
    assert machine.cuda.calls.count("cudaStreamBeginCapture") == 1
    assert not machine.cuda.recordings


def test_threads_may_share_a_graph(machine: Machine, bundle: Bundle) -> None:
    graph = machine.open(source(bundle, "text_encoder"))
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    asked = [text_inputs(1 + i % 3, 3 + i % 4, 1 + i % 2, seed=i) for i in range(48)]
    with ThreadPoolExecutor(6) as pool:  # these threads have no current device yet
        found = list(pool.map(graph.run, asked))
    for inputs, outputs in zip(asked, found, strict=True):
        np.testing.assert_array_equal(
            outputs["query_embeds"], reference.run(inputs)["query_embeds"]
        )


def test_a_retriever_gives_the_same_embeddings_as_on_the_cpu(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(40)]
    sizes = BatchSizes(images=7, texts=3)
    build_engines(bundle, sizes=sizes)
    on_gpu = Retriever(bundle, backend="tensorrt", device="cuda")
    on_cpu = Retriever(bundle, device="cpu", threads=1)
    np.testing.assert_allclose(
        on_gpu.encode_images(pictures), on_cpu.encode_images(pictures), atol=1e-6
    )
    texts = [f"make it {word}" for word in ("red", "blue", "a bit longer", "x", "yy", "zzz", "w")]
    for one in (on_gpu, on_cpu):
        assert len(one.encoder.encode_texts(texts)) == 7
    np.testing.assert_allclose(
        on_gpu.encoder.encode_texts(texts), on_cpu.encoder.encode_texts(texts), atol=1e-6
    )
    questions = [one.encoder.questions("composed", texts) for one in (on_gpu, on_cpu)]
    found, expected = (
        one.encoder.encode_queries(
            question, one.encoder.encode_references(pictures[:7]), np.arange(7)
        )
        for one, question in zip((on_gpu, on_cpu), questions, strict=True)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for name in bundle.manifest.graphs:
        assert on_gpu.encoder.graph(name).provider == "TensorRT 10.3.0"


# --- TensorRT for RTX ----------------------------------------------------------------------------


def test_tensorrt_for_rtx_records_by_itself_and_keeps_its_kernels(
    machine: Machine, bundle: Bundle
) -> None:
    machine.install(machine.cuda, ("tensorrt_rtx", "1.7.1"))
    graph = machine.open(source(bundle, "text_encoder"))
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    for seed in range(4):
        same(graph, reference, text_inputs(2, 5, 1, seed))
    assert "cudaStreamBeginCapture" not in machine.cuda.calls
    assert graph._engine._config is not None
    assert graph._engine._config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    [kernels] = machine.folder.glob("*.kernels")
    assert kernels.read_bytes().startswith(b"kernels of")
    graph.run(text_inputs(1, 7, 1))
    graph.close()
    assert b"7" in kernels.read_bytes()
    again = machine.open(source(bundle, "text_encoder"))
    assert again._engine.engine.kernels == kernels.read_bytes()
    off = machine.open(source(bundle, "text_encoder"), cuda_graphs=False)
    assert off._engine._config is not None
    assert off._engine._config.cuda_graph_strategy.name == "DISABLED"


# --- memory --------------------------------------------------------------------------------------


def test_buffers_grow_only_as_needed(machine: Machine, text_encoder: TensorRtGraph) -> None:
    text_encoder.run(text_inputs(1, 5, 1))
    small = machine.cuda.used
    text_encoder.run(text_inputs(40, 40, 40))
    large = machine.cuda.used
    assert large > small + 40 * 40 * 8
    text_encoder.run(text_inputs(1, 5, 1))
    text_encoder.run(text_inputs(40, 40, 40))
    assert machine.cuda.used == large


def test_closing_or_deleting_a_graph_frees_all_memory(machine: Machine, bundle: Bundle) -> None:
    for close in (True, False):
        graph = machine.open(source(bundle, "text_encoder"))
        for _ in range(3):
            graph.run(text_inputs(1, 5, 1))
        assert machine.cuda.used
        assert machine.cuda.recordings
        if close:
            graph.close()
            graph.close()
            with pytest.raises(UsageError, match="text_encoder was closed"):
                graph.run(text_inputs(1, 5, 1))
        del graph
        gc.collect()
        assert (machine.cuda.used, machine.cuda.host, machine.cuda.streams) == (0, {}, {})
        assert not machine.cuda.recordings


def test_low_memory_keeps_nothing_between_runs(machine: Machine, bundle: Bundle) -> None:
    graph = machine.open(source(bundle, "text_encoder"), low_memory=True)
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    for seed in range(3):
        same(graph, reference, text_inputs(2, 5, 1, seed))
        assert machine.cuda.used == machine.trt.scratch
        assert not machine.cuda.host


def test_out_of_gpu_memory_is_one_sentence_and_the_graph_still_works(
    machine: Machine, bundle: Bundle, text_encoder: TensorRtGraph
) -> None:
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    for seed in range(3):
        same(text_encoder, reference, text_inputs(1, 5, 1, seed))
    machine.cuda.total = machine.cuda.used + 5000
    with pytest.raises(OutOfGpuMemoryError, match=r"^text_encoder: cuda:0 is out of memory: "):
        text_encoder.run(text_inputs(60, 70, 60))
    assert machine.cuda.used == machine.trt.scratch  # all buffers are freed
    for seed in range(3):
        same(text_encoder, reference, text_inputs(1, 5, 1, seed))
    machine.cuda.total = 1 << 30
    same(text_encoder, reference, text_inputs(60, 70, 60))


def test_buffers_of_other_shapes_are_freed_when_memory_is_short(
    machine: Machine, bundle: Bundle, text_encoder: TensorRtGraph
) -> None:
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    same(text_encoder, reference, text_inputs(64, 4, 64))  # 13 kB, most of it for the references
    machine.cuda.total = machine.trt.scratch + 25_000
    same(text_encoder, reference, text_inputs(60, 40, 1))  # 22 kB, most of it for the tokens
    assert machine.cuda.used > machine.trt.scratch + 20_000


def test_a_failed_allocation_of_pinned_memory_leaks_nothing(
    machine: Machine, bundle: Bundle, text_encoder: TensorRtGraph
) -> None:
    machine.cuda.fail["cudaMallocHost"] = cudaError_t.cudaErrorInvalidValue
    with pytest.raises(CudaError, match="cuda:0 failed in cudaMallocHost"):
        text_encoder.run(text_inputs(1, 5, 1))
    reference = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(threads=1))
    same(text_encoder, reference, text_inputs(1, 5, 1))
    text_encoder.close()
    assert (machine.cuda.used, machine.cuda.host) == (0, {})


def test_the_memory_limit_of_a_graph_is_respected(machine: Machine, bundle: Bundle) -> None:
    graph = machine.open(source(bundle, "image_encoder"), gpu_memory_mb=1)
    large = np.zeros((32, 3, SIZE, SIZE), dtype=np.float32)
    graph.run(pixels(2))
    graph._engine.buffers._limit = 20_000
    with pytest.raises(OutOfGpuMemoryError, match="gpu_memory_mb allows") as caught:
        graph.run({"pixel_values": large})
    assert_sentence(caught.value)
    graph.run(pixels(2))


@pytest.mark.parametrize("at", ["engine", "context"])
def test_an_engine_that_does_not_fit_into_memory_is_named(
    machine: Machine, bundle: Bundle, at: str
) -> None:
    text = source(bundle, "text_encoder")
    graph = machine.open(text)
    machine.cuda.total = machine.cuda.used + 100
    if at == "engine":
        machine.trt.refuses = "Requested amount of GPU memory (1 bytes) could not be allocated"
        with pytest.raises(
            OutOfGpuMemoryError, match="not have enough memory for the engine of text_enc"
        ):
            machine.open(text)
    else:
        machine.trt.no_context = True
        with pytest.raises(OutOfGpuMemoryError, match="not have enough memory for another shape"):
            graph.run(text_inputs(1, 5, 1))
        machine.trt.no_context = False
        machine.cuda.total = 1 << 30
        graph.run(text_inputs(1, 5, 1))


# --- errors --------------------------------------------------------------------------------------


def assert_sentence(error: BaseException) -> None:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    own = re.sub(r"\([^()]*\)", "", text)  # messages of libraries are in parentheses
    assert not re.search(r"\. [A-Z]", own), text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"input_ids": np.zeros((2, 5), np.int32)}, r"must be int64 \(B, T\), not int32"),
        ({"pseudo_tokens": np.zeros((3, 1, 9), np.float32)}, r"float32 \(R, 1, 4\)"),
        ({"pseudo_tokens": np.zeros((3, 1, D_T), np.float64)}, "must be float32 .* not float64"),
        ({"vsi_keys": np.zeros((2, 1, N, D_VSI), np.float32)}, "R = 3"),
        ({"surplus": np.zeros(1)}, "needs the inputs input_ids, .*surplus"),
    ],
)
def test_wrong_inputs_are_named_and_the_graph_still_works(
    text_encoder: TensorRtGraph, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        text_encoder.run({**text_inputs(2, 5, 3), **change})
    with pytest.raises(UsageError, match="no output logits: choose from query_embeds"):
        text_encoder.run(text_inputs(2, 5, 3), ["logits"])
    text_encoder.run(text_inputs(2, 5, 3))


def test_sizes_above_the_engines_limits_are_named(text_encoder: TensorRtGraph) -> None:
    assert text_encoder.limits == {"B": 64, "R": 64, "T": 77}
    with pytest.raises(
        UsageError, match=r"T = 78, but its engine accepts 1 to 77.*--trt"
    ) as caught:
        text_encoder.run(text_inputs(1, 78, 1))
    assert_sentence(caught.value)
    with pytest.raises(UsageError, match="B = 65"):
        text_encoder.run(text_inputs(65, 5, 1))


def test_a_failed_run_is_one_sentence_and_the_graph_still_works(
    machine: Machine, text_encoder: TensorRtGraph
) -> None:
    machine.trt.breaks = "IExecutionContext::enqueueV3: Error Code 1\nof something"
    with pytest.raises(CudaError, match=r"TensorRT 10\.3\.0 failed in text_encoder") as caught:
        text_encoder.run(text_inputs(1, 5, 1))
    assert "Error Code 1 of something" in str(caught.value)
    assert_sentence(caught.value)
    text_encoder.run(
        text_inputs(9, 30, 9)
    )  # needs other buffers: no enqueued copy uses the old ones
    machine.cuda.fail["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(CudaError, match=r"IllegalAddress.*restart the process"):
        text_encoder.run(text_inputs(1, 5, 1))


def test_an_engine_that_tensorrt_refuses_is_named(machine: Machine, bundle: Bundle) -> None:
    machine.trt.refuses = "Version tag does not match.\nNote: 0 != 1"
    with pytest.raises(EngineError, match=r"cannot be loaded \(Version tag.*--rebuild") as caught:
        machine.open(source(bundle, "text_encoder"))
    assert_sentence(caught.value)


def test_an_engine_whose_tensors_differ_from_its_metadata_is_refused(
    machine: Machine, bundle: Bundle
) -> None:
    trt = tensorrt_package.import_tensorrt("tensorrt")
    gpu = Gpu(0)
    text, image = (source(bundle, name) for name in ("text_encoder", "image_encoder"))
    stored, _ = ensure_engine(text, trt, Target.of(gpu))
    other, _ = ensure_engine(image, trt, Target.of(gpu))
    swapped = type(stored)(**{**vars(stored), "plan": other.plan})
    with pytest.raises(EngineError, match=r"inputs or outputs .* differ from its metadata"):
        TensorRtGraph(swapped, trt, gpu, TENSORRT)


def test_a_missing_package_is_named_with_its_extra(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = source(bundle, "text_encoder")
    machine.packages = {}
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    tensorrt_package.import_tensorrt.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"ztcir\[trt\].*ztcir\[trt-rtx\]") as caught:
        open_graph(text, TENSORRT)
    assert_sentence(caught.value)
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match="cuda-python is not installed") as caught:
        open_graph(text, TENSORRT)
    assert_sentence(caught.value)


def test_a_package_that_cannot_be_loaded_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise FileNotFoundError('libnvinfer.so.10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    tensorrt_package.import_tensorrt.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"cannot be loaded: libnvinfer\.so\.10"):
        tensorrt_package.import_tensorrt("tensorrt")


# --- choice of the engine ------------------------------------------------------------------------


def test_auto_uses_a_cached_engine_and_builds_none(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Graph:
        provider = "CUDAExecutionProvider"

    monkeypatch.setattr("ztcir_sdk.runtime.OnnxGraph", lambda source, settings: Graph())
    auto = RuntimeSettings(device="cuda:0")
    text = source(bundle, "text_encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_graph(text, auto).provider == "CUDAExecutionProvider"
    assert not machine.trt.builds
    build_engines(bundle)
    assert open_graph(text, auto).provider == "TensorRT 10.3.0"
    machine.install(FakeCuda(), ("tensorrt", "10.4.0"))
    with pytest.warns(UserWarning, match=r"built by tensorrt 10\.3\.0 .* not by tensorrt 10\.4"):
        assert open_graph(text, auto).provider == "CUDAExecutionProvider"
    assert not machine.trt.builds


@pytest.mark.parametrize(
    "other",
    [
        {"version": "10.4.0"},
        {"gpu": FakeCuda(capability=(8, 9))},
        {"gpu": FakeCuda(name="Another RTX")},
    ],
    ids=["version", "architecture", "model"],
)
def test_an_engine_of_another_version_or_gpu_is_rebuilt_or_refused(
    machine: Machine, bundle: Bundle, other: dict[str, Any]
) -> None:
    text = source(bundle, "text_encoder")
    machine.open(text)
    machine.install(other.get("gpu", machine.cuda), ("tensorrt", other.get("version", "10.3.0")))
    strict = RuntimeSettings(**{**vars(TENSORRT), "build_engines": False})
    with pytest.raises(EngineError, match=r"was built by tensorrt 10\.3\.0.*--trt") as caught:
        open_graph(text, strict)
    assert_sentence(caught.value)
    assert not machine.trt.builds
    with pytest.warns(UserWarning, match="Building the TensorRT"):
        graph = open_graph(text, TENSORRT)
    assert len(machine.trt.builds) == 1
    graph.run(text_inputs(1, 5, 1))


def test_an_rtx_engine_runs_on_other_models_of_its_architecture(
    machine: Machine, bundle: Bundle
) -> None:
    machine.install(machine.cuda, ("tensorrt_rtx", "1.7.1"))
    machine.open(source(bundle, "text_encoder"))
    machine.install(FakeCuda(name="Another RTX"), ("tensorrt_rtx", "1.7.1"))
    machine.open(source(bundle, "text_encoder"))
    assert not machine.trt.builds


def test_the_package_with_a_cached_engine_is_used(machine: Machine, bundle: Bundle) -> None:
    both = (("tensorrt", "10.3.0"), ("tensorrt_rtx", "1.7.1"))
    machine.install(machine.cuda, *both)
    build_engines(bundle, package="tensorrt_rtx")
    assert machine.open(source(bundle, "text_encoder")).provider == "TensorRT-RTX 1.7.1"
    assert not machine.packages["tensorrt"].builds


def test_a_corrupt_engine_is_rebuilt(machine: Machine, bundle: Bundle) -> None:
    text = source(bundle, "text_encoder")
    machine.open(text)
    [file] = machine.folder.glob("*.engine")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    machine.open(text)
    assert len(machine.trt.builds) == 2
    assert file.read_bytes() == good


# --- builds --------------------------------------------------------------------------------------


def test_networks_are_strongly_typed_without_tf32_for_the_requested_sizes(
    machine: Machine, bundle: Bundle
) -> None:
    build_engines(bundle, sizes=BatchSizes(images=4, texts=6, tokens=20), workspace_mb=3)
    image, learner, text = machine.trt.builds
    assert image["shapes"] == {"pixel_values": tuple((n, 3, SIZE, SIZE) for n in (1, 4, 4))}
    assert learner["shapes"]["patch_features"] == tuple((n, N, 3) for n in (1, 1, 4))
    assert text["shapes"]["input_ids"] == ((1, 1), (1, 16), (6, 20))
    assert text["shapes"]["vsi_keys"] == tuple((n, 1, N, D_VSI) for n in (1, 1, 6))
    for built in machine.trt.builds:
        assert built["flags"] == 1 << 1  # STRONGLY_TYPED
        assert [flag.name for flag in built["cleared"]] == ["TF32"]
        assert built["workspace"] == 3 << 20


def test_an_engine_is_rebuilt_for_other_sizes_only_on_request(
    machine: Machine, bundle: Bundle
) -> None:
    builds = machine.trt.builds
    build_engines(bundle)
    assert not any(report.built for report in build_engines(bundle))
    assert len(builds) == 3
    reports = build_engines(bundle, sizes=BatchSizes(texts=5))
    assert [report.built for report in reports] == [False, False, True]
    assert machine.open(source(bundle, "text_encoder")).limits["B"] == 5
    assert not any(report.built for report in build_engines(bundle))
    assert all(report.built for report in build_engines(bundle, rebuild=True))


def test_bench_measures_only_sizes_that_the_engines_accept(
    machine: Machine, bundle: Bundle
) -> None:
    build_engines(bundle, sizes=BatchSizes(images=4, texts=5, tokens=70))
    settings = BenchmarkSettings(repeat=2, gallery=20, pictures=6)
    measured = benchmark(bundle, settings=settings, backend="tensorrt")["graphs"]
    assert [one["images"] for one in measured["image_encoder"]] == [1, 4]
    assert [one["references"] for one in measured["token_learner"]] == [1, 4]
    shapes = [(one["texts"], one["tokens"]) for one in measured["text_encoder"]]
    assert shapes == [(1, 8), (1, 16), (1, 32), (1, 70), (5, 16)]


def test_the_timing_cache_is_passed_to_the_next_build(machine: Machine, bundle: Bundle) -> None:
    build_engines(bundle)
    given = [built["timing cache"] for built in machine.trt.builds]
    assert given == [b"", b"timed ", b"timed timed "]
    machine.install(machine.cuda, ("tensorrt_rtx", "1.7.1"))
    build_engines(bundle)
    assert all("timing cache" not in built for built in machine.trt.builds)


def test_a_gpu_of_another_machine_needs_tensorrt_for_rtx(machine: Machine, bundle: Bundle) -> None:
    with pytest.raises(ZtcirError, match=r"only for the GPU it runs on.*ztcir\[trt-rtx\]"):
        build_engines(bundle, gpu="RTX 4090")
    machine.install(machine.cuda, ("tensorrt", "10.3.0"), ("tensorrt_rtx", "1.7.1"))
    [report, *_] = build_engines(bundle, gpu="RTX 4090")
    assert (report.package, report.architecture) == ("tensorrt_rtx", "sm_89")
    assert machine.packages["tensorrt_rtx"].builds[0]["for"] == "SM89"
    [report, *_] = build_engines(bundle, gpu="RTX 3090")  # the GPU of this machine
    assert report.package == "tensorrt"


@pytest.mark.parametrize(
    ("options", "built", "message"),
    [
        ([], ["fp32", "fp16"], ""),
        (["--precision", "fp16"], ["fp16"], ""),
        (["--precision", "fp32,fp16"], ["fp32", "fp16"], ""),
        (["--precision", "int8", "--precision", "fp16"], ["fp16"], "int8 graphs run only on CPUs"),
    ],
)
def test_engines_are_built_in_the_requested_precisions(
    machine: Machine, tmp_path: Path, options: list[str], built: list[str], message: str
) -> None:
    bundle = in_precisions(tmp_path, "fp32", "fp16", "int8")
    result = CliRunner().invoke(main, ["export", str(bundle.path), "--trt", *options, "--json"])
    assert result.exit_code == 0, result.output
    engines = json.loads(result.stdout)["engines"]
    graphs = list(bundle.manifest.graphs)
    assert [(one["precision"], one["graph"]) for one in engines] == [
        (precision, graph) for precision in built for graph in graphs
    ]
    assert len(machine.trt.builds) == len(engines)
    assert message in result.stderr


@pytest.mark.parametrize(
    ("precisions", "options", "code", "sentence"),
    [
        (["fp32", "int8"], ["--precision", "int8"], 2, "add fp32 or fp16, or leave out --trt"),
        (["int8"], [], 1, "has only int8, which runs on CPUs"),
        (["fp32"], ["--precision", "fp16"], 1, "in fp32, not in fp16"),
    ],
)
def test_no_engine_is_built_without_a_precision_for_gpus(
    machine: Machine,
    tmp_path: Path,
    precisions: list[str],
    options: list[str],
    code: int,
    sentence: str,
) -> None:
    bundle = in_precisions(tmp_path, *precisions)
    result = CliRunner().invoke(main, ["export", str(bundle.path), "--trt", *options])
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert not machine.trt.builds


def in_precisions(folder: Path, *precisions: str) -> Bundle:
    return Bundle.write(folder / "tiny", **tiny_parts(TinyModel(), precisions=precisions))


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [({"images": 0}, "number of images"), ({"texts": -1}, "texts"), ({"tokens": 0}, "tokens")],
)
def test_sizes_below_one_are_refused(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        BatchSizes(**sizes)


def test_sizes_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="not in ascending order"):
        ShapeRange(1, 5, 4)


# --- the GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (FakeCuda(gpus=0), "No NVIDIA GPU is visible.*CUDA_VISIBLE_DEVICES"),
        (FakeCuda(gpus=2), "There is no cuda:2, 2 GPUs are visible to this process"),
    ],
)
def test_a_missing_gpu_is_named(machine: Machine, broken: FakeCuda, sentence: str) -> None:
    machine.install(broken)
    with pytest.raises(ZtcirError, match=sentence) as caught:
        Gpu(2)
    assert_sentence(caught.value)


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (None, "There is no NVIDIA driver"),
        ("12.6", r"driver supports CUDA up to 12\.6, .* needs 13\.0: .*'cuda-python<13'"),
    ],
)
def test_an_old_or_missing_driver_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, driver: str | None, sentence: str
) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda: driver)
    machine.cuda.fail["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(CudaError, match=sentence) as caught:
        Gpu(0)
    assert_sentence(caught.value)


def test_a_gpu_has_a_name_and_an_architecture(machine: Machine) -> None:
    machine.install(FakeCuda(capability=(12, 1), name="GB10"))
    gpu = Gpu(0)
    assert (gpu.name, gpu.architecture, str(gpu)) == ("GB10", "sm_121", "cuda:0")
    assert gpu.memory() == (1 << 30, 1 << 30)


# --- doctor --------------------------------------------------------------------------------------


def findings_by_name(gpus: list[str]) -> dict[str, Finding]:
    diagnosis = Diagnosis()
    check_gpu(diagnosis, gpus)
    return {finding.name: finding for finding in diagnosis.findings}


def test_doctor_builds_an_engine_and_runs_it(machine: Machine) -> None:
    found = findings_by_name(["Fake RTX, 1 GB, 580.1"])
    assert found["TensorRT"].status == "ok"
    assert found["TensorRT"].detail == "10.3.0, built an engine and ran it on the GPU"
    assert (machine.cuda.used, machine.cuda.streams) == (0, {})
    for name in ("CUDA driver", "CUDA", "cuDNN"):
        assert found[name].status == "ok" or found[name].fix
    machine.trt.breaks = "it is broken"
    assert "did not build" not in (broken := findings_by_name([])["TensorRT"]).detail
    assert (broken.status, "it is broken" in broken.detail) == ("note", True)


@pytest.mark.parametrize(
    ("package", "detail"),
    [
        ("tensorrt", "did not build an engine: No NVIDIA GPU is visible"),
        ("tensorrt_rtx", "compiled an engine ahead of time, but did not run it: No NVIDIA GPU"),
    ],
)
def test_doctor_reports_what_a_package_can_do_without_a_gpu(
    machine: Machine, package: str, detail: str
) -> None:
    machine.install(FakeCuda(gpus=0), (package, "9.9"))
    found = findings_by_name([])[tensorrt_package.PACKAGES[package]]
    assert found.status == "note"
    assert found.detail.startswith(f"9.9, {detail}")


def test_doctor_reports_why_a_package_cannot_be_loaded(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10 is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt")
    tensorrt_package.import_tensorrt.cache_clear()
    found = findings_by_name([])["TensorRT"]
    assert (found.status, found.detail) == ("note", "cannot be loaded")
    assert "libnvinfer.so.10 is missing" in found.fix


# --- the fakes against the real packages ---------------------------------------------------------


def fake_functions(owner: type) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(owner).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


def test_the_fake_cuda_has_the_functions_of_the_real_one() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    for name, function in fake_functions(FakeCuda).items():
        # The first line of its docstring is the signature: "cudaMalloc(size_t size)".
        takes = re.match(rf"{name}\((.*)\)", getattr(real, name).__doc__.splitlines()[0])
        assert takes, name
        expected = [part for part in takes[1].split(",") if part.strip()]
        assert len(inspect.signature(function).parameters) == len(expected) + 1, name
    for name in cudaError_t.__members__:
        assert int(getattr(real.cudaError_t, name)) == cudaError_t[name]
    for owner in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name, value in vars(getattr(FakeCuda, owner)).items():
            assert int(getattr(getattr(real, owner), name)) == value
    attribute = real.cudaDeviceAttr
    assert int(attribute.cudaDevAttrComputeCapabilityMajor) == 75
    assert int(attribute.cudaDevAttrComputeCapabilityMinor) == 76


def test_the_real_cuda_python_accepts_our_arguments() -> None:
    """Without a driver every call fails with CUDA's own error, not because of its arguments."""
    real = pytest.importorskip("cuda.bindings.runtime")
    if cuda.count_gpus():
        pytest.skip("there is a GPU")
    gpu = Gpu.__new__(Gpu)
    gpu._api, gpu.number = real, 0
    stream = real.cudaStream_t(5)
    calls: list[Callable[[], Any]] = [
        gpu.use,
        gpu.create_stream,
        gpu.memory,
        lambda: Gpu(0),
        lambda: gpu.allocate(10),
        lambda: gpu.allocate_pinned(10),
        lambda: gpu.wait(stream),
        lambda: gpu.upload(1, 2, 3, stream),
        lambda: gpu.download(1, 2, 3, stream),
        lambda: gpu.record(stream, lambda: None),
        lambda: gpu.replay(real.cudaGraphExec_t(7), stream),
        lambda: gpu.call("cudaStreamEndCapture", stream),
        lambda: gpu.call("cudaGraphInstantiate", real.cudaGraph_t(7), 0),
        lambda: gpu.call("cudaGetDeviceProperties", 0),
        lambda: gpu.call(
            "cudaDeviceGetAttribute",
            real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor,
            0,
        ),
    ]
    for call in calls:
        with pytest.raises(CudaError, match="no NVIDIA driver"):
            call()
    for quiet in (gpu.free, gpu.free_pinned):
        quiet(0)
    gpu.destroy_stream(stream)
    gpu.destroy_recording(real.cudaGraphExec_t(7))


def test_the_fake_tensorrt_has_the_functions_of_the_real_one() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    fake = FakeTensorRt(FakeCuda(), "tensorrt_rtx")
    for name in ("DataType", "TensorIOMode", "NetworkDefinitionCreationFlag", "BuilderFlag"):
        wanted = ["STRONGLY_TYPED"] if "Creation" in name else []
        wanted = ["TF32"] if name == "BuilderFlag" else wanted
        for member in wanted or getattr(FakeTensorRt, name).__members__:
            assert hasattr(getattr(real, name), member), (name, member)
    for owner, theirs in (
        (fake.Builder, real.Builder),
        (fake.OnnxParser, real.OnnxParser),
        (fake.Runtime, real.Runtime),
        (Engine, real.ICudaEngine),
        (Context, real.IExecutionContext),
        (RuntimeConfig, real.IRuntimeConfig),
    ):
        for name, function in fake_functions(owner).items():
            assert hasattr(theirs, name), (theirs, name)
            said = getattr(theirs, name).__doc__ or ""
            for parameter in list(inspect.signature(function).parameters)[1:]:
                assert parameter in said or parameter == "strategy", (name, parameter)
    for attribute in ("num_io_tensors", "device_memory_size_v2"):
        assert hasattr(real.ICudaEngine, attribute)
    for attribute in ("num_inputs", "num_outputs", "get_input", "get_output"):
        assert hasattr(real.INetworkDefinition, attribute)
    for attribute in ("get_dimension_name", "shape", "dtype", "name"):
        assert hasattr(real.ITensor, attribute)
    for attribute in ("set_memory_pool_limit", "clear_flag", "create_timing_cache"):
        assert hasattr(real.IBuilderConfig, attribute)
    for attribute in ("node_operator", "node_name", "desc"):
        assert hasattr(real.ParserError, attribute)


def test_engines_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert EngineCache().folder.parts[-2:] == ("ztcir", "engines")
    monkeypatch.setenv(CACHE_VARIABLE, "/somewhere")
    assert EngineCache().folder == Path("/somewhere")
    assert EngineCache("/else").folder == Path("/else")
