"""ONNX Runtime's execution providers: their options, and the errors of unusable ones."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper
from test_runtime import text_inputs
from tiny_bundle import SIZE, TinyModel, write_tiny_bundle

from cli.options import Engine
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.bundle.graph_source import graph_source
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings, open_graph
from ztcir_sdk.runtime.onnx import devices
from ztcir_sdk.runtime.onnx.preload import preload
from ztcir_sdk.runtime.onnx.trial import ProviderRun, run_tiny_graph
from ztcir_sdk.runtime.tensorrt.cache import CACHE_VARIABLE

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# --- bound arrays --------------------------------------------------------------------------------


def test_runs_with_bound_arrays_equal_plain_runs(bundle: Bundle) -> None:
    file = bundle.path / "text_encoder.onnx"
    graph = OnnxGraph(file, RuntimeSettings(device="cpu", threads=1))
    session = onnxruntime.InferenceSession(file)
    for seed in range(20):
        inputs = text_inputs(1 + seed % 5, 2 + seed % 7, 1 + seed % 3, seed)
        [expected] = session.run(None, inputs)
        found = graph.run(inputs)["query_embeds"]
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
        assert found.flags.writeable


def test_results_are_not_overwritten_by_later_runs(bundle: Bundle) -> None:
    graph = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(device="cpu"))
    first = graph.run(text_inputs(2, 5, 1, 0))["query_embeds"]
    kept = first.copy()
    graph.run(text_inputs(2, 5, 1, 1))
    np.testing.assert_array_equal(first, kept)


def test_output_shapes_may_depend_on_the_data(tmp_path: Path) -> None:
    sides = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("where", TensorProto.INT64, [1, "found"]),
        helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["N"]),
    ]
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Add", ["x", "x"], ["twice"]),
    ]
    graph = helper.make_graph(nodes, "graph", sides[:1], sides[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "g.onnx")
    loaded = OnnxGraph(tmp_path / "g.onnx", RuntimeSettings(device="cpu"))
    x = np.array([0, 1, 0, 2], dtype=np.float32)
    found = loaded.run({"x": x})
    assert found["where"].tolist() == [[1, 3]]
    assert found["twice"].tolist() == [0, 2, 0, 4]
    assert list(loaded.run({"x": x}, ["twice", "where"])) == ["twice", "where"]
    assert loaded.run({"x": np.zeros(0, np.float32)})["twice"].shape == (0,)


def test_threads_may_share_a_graph_with_bound_arrays(bundle: Bundle) -> None:
    graph = OnnxGraph(bundle.path / "text_encoder.onnx", RuntimeSettings(device="cpu", threads=1))
    asked = [text_inputs(1 + i % 5, 2 + i % 7, 1 + i % 3, seed=i) for i in range(64)]
    serial = [graph.run(inputs)["query_embeds"] for inputs in asked]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(serial, pool.map(graph.run, asked), strict=True):
            np.testing.assert_array_equal(one, other["query_embeds"])


def test_out_of_memory_is_one_sentence_and_the_graph_still_works(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = OnnxGraph(bundle.path / "image_encoder.onnx", RuntimeSettings(device="cpu"))
    inputs = {"pixel_values": np.zeros((1, 3, SIZE, SIZE), dtype=np.float32)}

    class Session:
        def io_binding(self) -> Any:
            return types.SimpleNamespace(
                bind_cpu_input=lambda *_: None, bind_output=lambda *_: None
            )

        def run_with_iobinding(self, *_: Any) -> None:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer\nat x.cc")

    with monkeypatch.context() as patch:
        patch.setattr(graph, "_session", Session())
        with pytest.raises(
            ZtcirError, match="not enough memory to run the graph image_enc"
        ) as caught:
            graph.run(inputs)
        one_sentence(caught.value)
    assert graph.run(inputs)


# --- settings ------------------------------------------------------------------------------------


class Options(types.SimpleNamespace):
    def add_session_config_entry(self, name: str, value: str) -> None:
        setattr(self, name, value)


class Runtime(types.ModuleType):
    """An ONNX Runtime that offers providers, of which it uses those from `first_used` on."""

    def __init__(
        self,
        *,
        offers: tuple[str, ...] = (TENSORRT, CUDA, CPU),
        first_used: int = 0,
        fails: str | None = None,
        places: dict[str, int] | None = None,
    ) -> None:
        super().__init__("onnxruntime")
        self.__version__ = "1.99"
        self.GraphOptimizationLevel = types.SimpleNamespace(ORT_ENABLE_ALL=99)
        self.SessionOptions, self.offers = Options, offers
        self.run_options: dict[str, str] = {}
        self.options: Any = None
        self.providers: Any = None
        fake = self

        class RunOptions:
            def add_run_config_entry(self, name: str, value: str) -> None:
                fake.run_options[name] = value

        class InferenceSession:
            def __init__(self, path: str, options: Any, *, providers: Any, **_: Any) -> None:
                fake.options, fake.providers = options, providers
                if fails is not None:
                    raise RuntimeError(fails)

            def get_providers(self) -> list[str]:
                names = [one if isinstance(one, str) else one[0] for one in fake.providers]
                return names[first_used:]

            def disable_fallback(self) -> None: ...

            def get_provider_graph_assignment_info(self) -> list[Any]:
                return [
                    types.SimpleNamespace(ep_name=name, get_nodes=lambda n=count: [None] * n)
                    for name, count in (places or {}).items()
                ]

            def get_inputs(self) -> list[Any]:
                return []

            get_outputs = get_inputs

        self.RunOptions, self.InferenceSession = RunOptions, InferenceSession

    def get_available_providers(self) -> list[str]:
        return list(self.offers)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Replace ONNX Runtime; each test has its own folder of engines."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "engines"))
    devices._cuda_runs.cache_clear()

    def replace(runtime: Runtime) -> Runtime:
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        return runtime

    yield replace
    devices._cuda_runs.cache_clear()


def test_threads_and_memory_settings_apply_to_the_cpu(bundle: Bundle, install: Any) -> None:
    runtime = install(Runtime())
    file = bundle.path / "text_encoder.onnx"
    OnnxGraph(file, RuntimeSettings(device="cpu", threads=3))
    assert runtime.options.intra_op_num_threads == 3
    assert not hasattr(runtime.options, "enable_cpu_mem_arena")
    assert runtime.providers == [CPU]
    OnnxGraph(file, RuntimeSettings(device="cpu", low_memory=True))
    assert runtime.options.enable_cpu_mem_arena is False


def test_memory_settings_apply_to_cuda(bundle: Bundle, install: Any) -> None:
    runtime = install(Runtime())
    file = bundle.path / "text_encoder.onnx"
    graph = OnnxGraph(file, RuntimeSettings(device="cuda:1"))
    assert runtime.providers == [(CUDA, {"device_id": "1", "use_tf32": "0"}), CPU]
    assert (graph.provider, graph.limits, graph.nodes) == (CUDA, {}, {})
    install(Runtime(places={CUDA: 40, CPU: 2}))
    assert OnnxGraph(file, RuntimeSettings(device="cuda:1")).nodes == {CUDA: 40, CPU: 2}
    runtime = install(Runtime())
    OnnxGraph(file, RuntimeSettings(device="cuda:1", gpu_memory_mb=5, low_memory=True))
    [(_, options), _] = runtime.providers
    assert options["gpu_mem_limit"] == str(5 << 20)
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert runtime.run_options == {"memory.enable_memory_arena_shrinkage": "gpu:1"}


def test_the_tensorrt_provider_gets_the_sizes_and_the_folder_of_its_engines(
    bundle: Bundle, install: Any, tmp_path: Path
) -> None:
    runtime = install(Runtime())
    source = graph_source(bundle, "text_encoder", bundle.variant("text_encoder"))
    settings = RuntimeSettings(backend="onnx-tensorrt", gpu_memory_mb=7)
    graph = open_graph(source, settings)
    assert graph.provider == TENSORRT
    assert graph.limits == {"B": 64, "R": 64, "T": 77}
    (name, options), (then, _), last = runtime.providers
    assert (name, then, last) == (TENSORRT, CUDA, CPU)
    assert options["device_id"] == "0"
    assert options["trt_max_workspace_size"] == str(7 << 20)
    shapes = dict(part.split(":") for part in options["trt_profile_max_shapes"].split(","))
    assert shapes == {
        "input_ids": "64x77",
        "reference_index": "64",
        "adapter_scale": "64",
        "pseudo_tokens": "64x1x4",
        "vsi_keys": "64x1x4x4",
        "vsi_values": "64x1x4x4",
    }
    assert options["trt_profile_min_shapes"].startswith("input_ids:1x1,")
    assert options["trt_profile_opt_shapes"].startswith("input_ids:1x16,")
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_relative_to(tmp_path / "engines")
    assert "onnxruntime-1.99" in folder.parts
    # ONNX Runtime needs booleans here.
    assert options["trt_engine_cache_enable"] is options["trt_timing_cache_enable"] is True
    # The graph determines the precision.
    assert not any("fp16" in option or "int8" in option for option in options)


def test_each_graph_has_its_own_folder_of_engines(
    bundle: Bundle, install: Any, tmp_path: Path
) -> None:
    runtime = install(Runtime())
    other = write_tiny_bundle(tmp_path / "other", TinyModel(seed=1))
    folders = set()
    for one in (bundle, other, bundle):
        source = graph_source(one, "text_encoder", one.variant("text_encoder"))
        open_graph(source, RuntimeSettings(backend="onnx-tensorrt"))
        folders.add(runtime.providers[0][1]["trt_engine_cache_path"])
    assert len(folders) == 2


@pytest.mark.parametrize(
    "wrong",
    [{"backend": "tvm"}, {"threads": 0}, {"gpu_memory_mb": 0}, {"threads": -1}],
)
def test_wrong_settings_are_named(bundle: Bundle, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))) as caught:
        Retriever(bundle, **wrong)
    one_sentence(caught.value)


def test_a_retriever_passes_its_settings_to_the_encoder(bundle: Bundle) -> None:
    given = {
        "backend": "onnx",
        "threads": 2,
        "gpu_memory_mb": 9,
        "low_memory": True,
        "build_engines": False,
        "cuda_graphs": False,
    }
    retriever = Retriever(bundle, device="cpu", **given)  # type: ignore[arg-type]
    for name, value in given.items():
        assert getattr(retriever.encoder.settings, name) == value
    assert retriever.encoder.device == "cpu"
    picture = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    plain = Retriever(bundle, device="cpu")
    np.testing.assert_array_equal(
        retriever.encode_images([picture]), plain.encode_images([picture])
    )


def test_the_command_line_has_the_same_choices(bundle: Bundle) -> None:
    engine = Engine(
        bundle.path,
        {"backend": "onnx", "device": "cpu", "threads": 2, "gpu_memory_mb": 3, "low_memory": True},
    )
    settings = engine.retriever().encoder.settings
    assert (settings.backend, settings.device, settings.threads) == ("onnx", "cpu", 2)
    assert (settings.gpu_memory_mb, settings.low_memory) == (3, True)


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["tensorrt", "onnx-tensorrt"])
def test_tensorrt_is_for_gpus(backend: str) -> None:
    assert devices.resolve_device("auto", backend) == "cuda:0"
    assert devices.resolve_device("cuda:2", backend) == "cuda:2"
    with pytest.raises(UsageError, match=f"{backend} runs on a GPU") as caught:
        devices.resolve_device("cpu", backend)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("gpus", "runs", "device"), [(1, True, "cuda:0"), (1, False, "cpu"), (0, True, "cpu")]
)
def test_auto_is_the_gpu_only_if_a_graph_runs_on_it(
    monkeypatch: pytest.MonkeyPatch, install: Any, gpus: int, runs: bool, device: str
) -> None:
    install(Runtime())
    monkeypatch.setattr(devices, "count_gpus", lambda: gpus)
    tried = []

    def run(ort: Any, provider: str) -> ProviderRun:
        tried.append(provider)
        return ProviderRun(provider, runs, "" if runs else "libcudnn.so.9 is missing")

    monkeypatch.setattr(devices, "run_tiny_graph", run)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert devices.resolve_device("auto") == device
        assert devices.resolve_device("auto") == device
    assert tried == [CUDA] * (gpus > 0)  # once per process
    messages = [str(one.message) for one in caught]
    assert len(messages) == (gpus > 0 and not runs)
    for sentence in messages:
        assert "libcudnn.so.9 is missing" in sentence
        assert "ztcir doctor" in sentence


def test_auto_is_the_cpu_if_onnx_runtime_has_no_cuda(
    monkeypatch: pytest.MonkeyPatch, install: Any
) -> None:
    install(Runtime(offers=(CPU,)))
    monkeypatch.setattr(devices, "count_gpus", lambda: 1)
    assert devices.resolve_device("auto") == "cpu"


def test_int8_runs_only_on_the_cpu(tmp_path: Path, install: Any) -> None:
    """With CUDA's provider, the CPU would run it node by node under CUDA's name."""
    whole = write_tiny_bundle(tmp_path / "int8")
    graphs = {
        graph: {"int8": replace(variants["fp32"], precision="int8")}
        for graph, variants in whole.manifest.graphs.items()
    }
    eight = Bundle(whole.path, replace(whole.manifest, graphs=graphs, precisions={}))
    assert Retriever(eight).encoder.device == "cpu"
    assert Retriever(eight, device="cpu").encode_texts(["red"]).shape[0] == 1
    for backend in ("auto", "onnx"):
        with pytest.raises(ZtcirError, match=r"int8 graphs .*CPU only, not on cuda:0") as one:
            Retriever(eight, device="cuda", backend=backend)
        one_sentence(one.value)
    assert Retriever(whole, device="cuda").encoder.device == "cuda:0"


# --- unusable providers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "runtime", "sentence"),
    [
        (
            {"device": "cuda:0"},
            Runtime(offers=(CPU,)),
            r"cuda:0 cannot be used .*built without CUDA.*ztcir\[gpu\].*device cpu",
        ),
        (
            {"device": "cuda:0"},
            Runtime(first_used=1),
            "ONNX Runtime would run CPUExecutionProvider instead",
        ),
        (
            {"backend": "onnx-tensorrt"},
            Runtime(offers=(CUDA, CPU)),
            "TensorRT on cuda:0 cannot be used .*built without TensorRT.*backend onnx",
        ),
        (
            {"backend": "onnx-tensorrt"},
            Runtime(first_used=1),
            "TensorRT .*would run CUDAExecutionProvider instead",
        ),
        (
            {"backend": "onnx-tensorrt"},
            Runtime(first_used=2),
            "TensorRT .*would run CPUExecutionProvider instead",
        ),
        (
            {"backend": "onnx-tensorrt"},
            Runtime(places={CUDA: 40, CPU: 2}),
            "supports no node of text_encoder, and CPUExecutionProvider, CUDAExecution.* would run",
        ),
        (
            {"device": "cuda:0"},
            Runtime(places={CPU: 42}),
            "it supports no node of text_encoder, and CPUExecutionProvider would run",
        ),
        (
            {"device": "cuda:0"},
            Runtime(fails="CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED"),
            "cuda:0 cannot be used .*CUDNN failure",
        ),
        (
            {"device": "cuda:0"},
            Runtime(fails="CUDA failure 2: out of memory ; GPU=0"),
            "not enough memory to load the graph text_encoder on cuda:0 .*close other",
        ),
        (
            {"device": "cpu"},
            Runtime(fails="std::bad_alloc"),
            "not enough memory to load the graph text_encoder on cpu",
        ),
        (
            {"device": "cuda:0"},
            Runtime(fails="Fatal error: Frobnicate(-1) is not a registered function/op"),
            r"text_encoder.onnx cannot be loaded \(.*Frobnicate.*export or copy",
        ),
        (
            {"device": "cuda:0"},
            Runtime(fails="[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model failed"),
            "cannot be loaded .*INVALID_GRAPH.*export or copy",
        ),
    ],
)
def test_a_requested_device_is_never_replaced_silently(
    bundle: Bundle, install: Any, settings: dict[str, str], runtime: Runtime, sentence: str
) -> None:
    install(runtime)
    with pytest.raises(ZtcirError, match=sentence) as caught:
        open_graph(bundle.path / "text_encoder.onnx", RuntimeSettings(**settings))  # type: ignore[arg-type]
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("missing", "fix"),
    [
        ("libcuda.so.1", "install NVIDIA's driver"),
        ("libcublasLt.so.12", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("libcudnn.so.99", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("libnvinfer.so.10", r"pip install 'tensorrt==10\.\*'"),
    ],
)
def test_a_missing_library_is_named_with_its_package(
    bundle: Bundle, install: Any, tmp_path: Path, missing: str, fix: str
) -> None:
    """With a real library of a provider, linked to a missing one."""
    compiler = shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs gcc on Linux")
    with contextlib.suppress(OSError):
        ctypes.CDLL(missing)
        pytest.skip(f"{missing} is there")
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    tensorrt = "nvinfer" in missing
    provider = "tensorrt" if tensorrt else "cuda"
    (tmp_path / "empty.c").write_text("int here(void) { return 1; }\n")

    def build(to: Path, *links: str) -> None:
        names = [f"-Wl,-soname,{to.name}", "-Wl,--no-as-needed", *links]
        subprocess.run(
            [compiler, "-shared", "-o", to, tmp_path / "empty.c", *names], check=True, timeout=60
        )

    build(tmp_path / missing)
    build(folder / "libonnxruntime_providers_shared.so")
    library = folder / f"libonnxruntime_providers_{provider}.so"
    build(library, str(tmp_path / missing))
    (tmp_path / missing).unlink()
    runtime = install(Runtime())
    runtime.__file__ = str(folder.parent / "__init__.py")
    backend = "onnx-tensorrt" if tensorrt else "onnx"
    with pytest.raises(ZtcirError, match=fix) as caught:
        open_graph(
            bundle.path / "text_encoder.onnx", RuntimeSettings(backend=backend, device="cuda:0")
        )
    assert missing in one_sentence(caught.value)
    run = run_tiny_graph(runtime, TENSORRT if tensorrt else CUDA)
    assert not run.ran
    assert missing in run.why_not


def test_preloading_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime = types.SimpleNamespace(
        preload_dlls=lambda: print("Failed to load libcublasLt.so.12"), __file__=None
    )
    assert preload(runtime) == ""
    assert capsys.readouterr() == ("", "")


def test_a_tiny_graph_runs_on_the_cpu() -> None:
    run = run_tiny_graph(onnxruntime, CPU)
    assert run.ran
    assert run.nodes in ({}, {CPU: 1})  # older versions do not report it
    assert run.to_dict()["ran"] is True


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_tiny_graph_does_not_fall_back_to_another_provider() -> None:
    run = run_tiny_graph(onnxruntime, CUDA)
    assert not run.ran
    assert run.why_not
    assert run.to_dict()["why_not"] == run.why_not


# --- devices by name -----------------------------------------------------------------------------


NAMED = {
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
}


@pytest.mark.parametrize(("device", "provider"), NAMED.items())
def test_a_named_device_runs_its_provider_and_is_never_replaced(
    bundle: Bundle, install: Any, device: str, provider: str
) -> None:
    file = bundle.path / "text_encoder.onnx"
    for backend in ("auto", "onnx"):
        runtime = install(Runtime(offers=(provider, CPU)))
        graph = open_graph(file, RuntimeSettings(device=device, backend=backend, threads=3))
        assert graph.provider == provider
        (name, _), last = runtime.providers
        assert (name, last) == (provider, CPU)
    refused = {
        f"The device {device} cannot be used .*has no {provider}.*choose device cpu": Runtime(
            offers=(CPU,)
        ),
        f"{device} cannot be used .*would run CPUExecutionProvider instead": Runtime(
            offers=(provider, CPU), first_used=1
        ),
        f"{device} cannot be used .*supports no node of text_encoder": Runtime(
            offers=(provider, CPU), places={CPU: 42}
        ),
        f"{device} cannot be used .*driver not found": Runtime(
            offers=(provider, CPU), fails="driver not found\nat x.cc"
        ),
    }
    for sentence, fake in refused.items():
        install(fake)
        with pytest.raises(ZtcirError, match=sentence) as caught:
            open_graph(file, RuntimeSettings(device=device))
        one_sentence(caught.value)
    with pytest.raises(UsageError, match=f"NVIDIA GPU, not on {device}") as wrong:
        devices.resolve_device(device, "tensorrt")
    one_sentence(wrong.value)


def test_openvino_computes_in_fp32_with_the_threads_that_were_asked_for(
    bundle: Bundle, install: Any
) -> None:
    runtime = install(Runtime(offers=(NAMED["openvino"], CPU)))
    settings = RuntimeSettings(device="openvino", threads=3, low_memory=True)
    open_graph(bundle.path / "text_encoder.onnx", settings)
    (_, options), _ = runtime.providers
    assert options == {"device_type": "CPU", "precision": "FP32", "num_of_threads": "3"}
    assert runtime.options.enable_cpu_mem_arena is False
    assert runtime.run_options == {}  # there is no memory of a GPU to release


def test_directml_plans_no_memory_ahead(bundle: Bundle, install: Any) -> None:
    """Its provider refuses a session that does."""
    runtime = install(Runtime(offers=(NAMED["directml"], CPU)))
    open_graph(bundle.path / "text_encoder.onnx", RuntimeSettings(device="directml"))
    assert runtime.options.enable_mem_pattern is False


def test_an_unknown_device_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="choose auto, cpu, cuda, cuda:0, openvino, coreml") as one:
        devices.resolve_device("npu")
    one_sentence(one.value)
