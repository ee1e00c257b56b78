"""Graphs: correct results, refused inputs, and no silent change of the device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_bundle import D_T, D_VSI, END, SIZE, N, TinyModel, spec

from ztcir_sdk.errors import BundleError, MissingDependencyError, UsageError, ZtcirError
from ztcir_sdk.runtime import (
    OnnxGraph,
    RuntimeSettings,
    available_cores,
    cores,
    open_graph,
    resolve_device,
)

Inputs = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="module")
def files(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    paths = {}
    for name, proto in model.graphs().items():
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(proto.SerializeToString())
    return paths


@pytest.fixture(scope="module")
def text_encoder(files: dict[str, Path]) -> OnnxGraph:
    return OnnxGraph(files["text_encoder"], RuntimeSettings(threads=1))


def text_inputs(texts: int, tokens: int, references: int, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    ids = rng.integers(1, END, (texts, tokens))
    ids[:, rng.integers(0, tokens)] = -1
    ids[np.arange(texts), rng.integers(0, tokens, texts)] = END
    return {
        "input_ids": ids,
        "reference_index": rng.integers(0, references, texts),
        "adapter_scale": rng.random(texts).astype(np.float32),
        "pseudo_tokens": normal(references, 1, D_T),
        "vsi_keys": normal(references, 1, N, D_VSI),
        "vsi_values": normal(references, 1, N, D_VSI),
    }


# --- results -------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_any_number_of_texts_tokens_and_references(
    text_encoder: OnnxGraph,
    model: TinyModel,
    texts: int,
    tokens: int,
    references: int,
    seed: int,
) -> None:
    inputs = text_inputs(texts, tokens, references, seed)
    found = text_encoder.run(inputs)
    assert list(found) == ["query_embeds"]
    np.testing.assert_allclose(
        found["query_embeds"], model.encode_query(*inputs.values()), atol=2e-5
    )


def test_a_graph_has_its_declared_inputs_and_outputs(files: dict[str, Path]) -> None:
    graph = open_graph(files["image_encoder"], RuntimeSettings(threads=1))
    assert graph.inputs == (spec("pixel_values"),)
    assert graph.outputs == (spec("image_embeds"), spec("patch_features"))
    assert graph.provider == "CPUExecutionProvider"


def test_only_the_requested_outputs_are_returned(files: dict[str, Path], model: TinyModel) -> None:
    graph = OnnxGraph(files["image_encoder"], RuntimeSettings(threads=1))
    pixels = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    embeds, patches = model.encode_image(pixels)
    assert list(graph.run({"pixel_values": pixels}, ["patch_features"])) == ["patch_features"]
    both = graph.run({"pixel_values": pixels[:, :, ::-1]})  # not contiguous
    np.testing.assert_allclose(both["image_embeds"], embeds, atol=1e-6)
    np.testing.assert_allclose(
        both["patch_features"].reshape(3, 2, 2, 3)[:, ::-1].reshape(3, 4, 3), patches, atol=1e-6
    )


def test_threads_may_share_a_graph(text_encoder: OnnxGraph) -> None:
    asked = [text_inputs(1 + i % 5, 2 + i % 7, 1 + i % 3, seed=i) for i in range(64)]
    serial = [text_encoder.run(inputs)["query_embeds"] for inputs in asked]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda inputs: text_encoder.run(inputs)["query_embeds"], asked))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"input_ids": None}, "needs the inputs input_ids, .* not adapter_scale"),
        ({"surplus": np.zeros(1)}, "needs the inputs input_ids, .*surplus"),
        ({"input_ids": np.zeros((2, 5), dtype=np.int32)}, r"must be int64 \(B, T\), not int32"),
        ({"input_ids": np.zeros(2, dtype=np.int64)}, r"must be int64 \(B, T\), not int64 \(2,\)"),
        ({"input_ids": [[1, 2], [3, 4]]}, "must be an array, not list"),
        (
            {"reference_index": np.zeros(3, dtype=np.int64)},
            r"reference_index .* must be int64 \(B\), not int64 \(3,\), B = 2",
        ),
        ({"pseudo_tokens": np.zeros((3, 1, 9), dtype=np.float32)}, r"pseudo_tokens .*\(R, 1, 4\)"),
        ({"vsi_keys": np.zeros((2, 1, N, D_VSI), dtype=np.float32)}, "vsi_keys .*R = 3"),
    ],
)
def test_wrong_inputs_are_named(
    text_encoder: OnnxGraph, change: dict[str, Any], sentence: str
) -> None:
    inputs = {**text_inputs(2, 5, 3), **change}
    inputs = {name: array for name, array in inputs.items() if array is not None}
    with pytest.raises(UsageError, match=sentence):
        text_encoder.run(inputs)


def test_unknown_outputs_are_named(text_encoder: OnnxGraph) -> None:
    with pytest.raises(UsageError, match="no output logits: choose from query_embeds"):
        text_encoder.run(text_inputs(1, 3, 1), ["logits"])


def test_a_failed_run_is_one_sentence_and_the_graph_still_works(text_encoder: OnnxGraph) -> None:
    inputs = text_inputs(2, 5, 1)
    inputs["reference_index"] = np.array([0, 7])
    with pytest.raises(ZtcirError, match="text_encoder failed on CPUExecutionProvider") as caught:
        text_encoder.run(inputs)
    assert "\n" not in str(caught.value)
    assert "check its inputs" in str(caught.value)
    text_encoder.run(text_inputs(2, 5, 1))  # the graph still works


def test_an_operator_that_is_not_supported_is_named(tmp_path: Path) -> None:
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy"]
    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    graph = onnx.helper.make_graph([node], "graph", sides[:1], sides[1:])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.example", 1)]
    path = tmp_path / "strange.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(
        BundleError, match=r"strange\.onnx cannot be .*Frobnicate.*upgrade"
    ) as caught:
        OnnxGraph(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_graph_is_named(tmp_path: Path, files: dict[str, Path], kept: float) -> None:
    whole = files["text_encoder"].read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(BundleError, match=r"cut\.onnx cannot be loaded .*again"):
        OnnxGraph(path)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.onnx is missing"):
        OnnxGraph(tmp_path / "gone.onnx")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(files: dict[str, Path], threads: int) -> None:
    with pytest.raises(UsageError, match="threads must be at least 1"):
        OnnxGraph(files["text_encoder"], RuntimeSettings(threads=threads))


def test_nothing_is_printed(tmp_path: Path, model: TinyModel, capfd: Any) -> None:
    proto = model.graphs()["image_encoder"]
    # ONNX Runtime warns about an unused weight.
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3), "unused"))
    onnx.save(proto, tmp_path / "noisy.onnx")
    graph = OnnxGraph(tmp_path / "noisy.onnx", RuntimeSettings(threads=1))
    graph.run({"pixel_values": np.zeros((1, 3, SIZE, SIZE), dtype=np.float32)})
    assert capfd.readouterr() == ("", "")


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "meant"),
    [("auto", "cpu"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")],
)
def test_each_device_name_is_resolved(device: str, meant: str) -> None:
    assert resolve_device(device) == meant


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "", "cuda:0 "])
def test_unknown_devices_are_refused(device: str, files: dict[str, Path]) -> None:
    named = f"no device {re.escape(repr(device))}: choose auto, cpu, cuda, cuda:0, openvino"
    with pytest.raises(UsageError, match=named):
        resolve_device(device)
    with pytest.raises(UsageError, match=named):
        OnnxGraph(files["text_encoder"], RuntimeSettings(device=device))


class FakeOptions(types.SimpleNamespace):
    def add_session_config_entry(self, name: str, value: str) -> None:
        setattr(self, name, value)


class FakeRuntime(types.ModuleType):
    """An ONNX Runtime that lists CUDA, and uses the providers `used`, or raises `fails`."""

    def __init__(self, used: list[str], fails: str | None = None) -> None:
        super().__init__("onnxruntime")
        self.GraphOptimizationLevel = types.SimpleNamespace(ORT_ENABLE_ALL=99)
        self.SessionOptions = FakeOptions
        self.preloaded = False
        self.settings: dict[str, Any] = {}
        self.options: Any = None
        fake = self

        class InferenceSession:
            def __init__(self, path: str, options: Any, **settings: Any) -> None:
                if fails is not None:
                    raise RuntimeError(fails)
                fake.settings, fake.options = settings, options

            def get_providers(self) -> list[str]:
                return used

            def disable_fallback(self) -> None:
                pass

            def get_inputs(self) -> list[Any]:
                return []

            get_outputs = get_inputs

        self.InferenceSession = InferenceSession

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self.preloaded = True


def test_cuda_is_used_if_it_loads(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    fake = FakeRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    graph = OnnxGraph(files["text_encoder"], RuntimeSettings(device="cuda:1"))
    assert graph.provider == "CUDAExecutionProvider"
    assert fake.preloaded
    name, options = fake.settings["providers"][0]
    assert (name, options["device_id"]) == ("CUDAExecutionProvider", "1")


@pytest.mark.parametrize(
    "fake",
    [
        FakeRuntime(["CPUExecutionProvider"]),
        FakeRuntime([], fails="CUDA failure 100: no CUDA-capable device\nand a trace"),
    ],
    ids=["falls back", "raises"],
)
def test_cuda_is_never_replaced_silently(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, Path], fake: FakeRuntime
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(ZtcirError, match=r"cuda:0 cannot be used .*ztcir\[gpu\]") as caught:
        OnnxGraph(files["text_encoder"], RuntimeSettings(device="cuda:0"))
    assert "\n" not in str(caught.value)


def test_cuda_without_the_gpu_runtime_names_the_extra(files: dict[str, Path]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this is the GPU runtime")
    with pytest.raises(ZtcirError, match=r"built without CUDA.*ztcir\[gpu\]"):
        OnnxGraph(files["text_encoder"], RuntimeSettings(device="cuda:0"))


def test_a_missing_runtime_is_named_with_its_extras(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"ztcir\[cpu\].*ztcir\[gpu\]") as caught:
        OnnxGraph(files["text_encoder"])
    assert not re.search(r"\. [A-Z]", str(caught.value))  # one sentence


def test_a_runtime_that_cannot_be_loaded_is_named_with_the_reason(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libfoo.so.3 is missing')")
    script = (
        f"from ztcir_sdk.runtime import OnnxGraph\nOnnxGraph({os.fspath(files['text_encoder'])!r})"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"MissingDependencyError: .*libfoo\.so\.3 is missing.*ztcir\[cpu\]", last)


# --- cores ---------------------------------------------------------------------------------------


def cgroup(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(cores, "_CGROUP", folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "nonsense\n"}, 8),
        (dict(zip(V1, ("300000\n", "100000\n"), strict=True)), 3),
        (dict(zip(V1, ("-1\n", "100000\n"), strict=True)), 8),
        (dict(zip(V1, ("100000\n", "0\n"), strict=True)), 8),
        ({}, 8),
    ],
)
def test_available_cores_respect_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    cgroup(tmp_path, monkeypatch, files)
    assert available_cores() == expected


def test_a_graph_uses_the_available_cores_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]
) -> None:
    cgroup(tmp_path, monkeypatch, {"cpu.max": "250000 100000"})
    fake = FakeRuntime(["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    OnnxGraph(files["text_encoder"])
    assert (fake.options.intra_op_num_threads, fake.options.inter_op_num_threads) == (3, 1)
    OnnxGraph(files["text_encoder"], RuntimeSettings(threads=5))
    assert fake.options.intra_op_num_threads == 5
