"""What is claimed about speed: ratios, the measurement's fields, and the README's figures."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_machine import Machine as NvidiaMachine
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from tiny_bundle import SIZE, TinyModel, write_tiny_bundle

from benchmarks import readme
from benchmarks.comparison import LEAST_ROUNDS, Ratio, Rounds, compare
from ztcir_sdk.benchmark import BenchmarkSettings, benchmark
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.runtime import GraphSource, RuntimeSettings, open_graph
from ztcir_sdk.runtime.tensorrt import package as tensorrt_package
from ztcir_sdk.runtime.tensorrt.graph import TensorRtGraph

RESULTS = ROOT / "benchmarks" / "results"


class Machine:
    """A clock that moves only while an operation runs."""

    def __init__(self) -> None:
        self.nanoseconds = 0
        self.speed = 1.0
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.nanoseconds

    def operation(self, name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.nanoseconds += round(milliseconds * 1e6 / self.speed)

        return run


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_a_ratio_sums_up_its_rounds(ratios: list[float]) -> None:
    ratio = Ratio.of(ratios)
    ordered = sorted(ratios)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    assert ratio.median == pytest.approx(median)
    assert (ratio.least, ratio.most, ratio.rounds) == (ordered[0], ordered[-1], len(ratios))
    assert ratio.least <= ratio.p25 <= ratio.median <= ratio.p75 <= ratio.most


def test_quartiles_by_hand() -> None:
    assert Ratio.of([5, 1, 2, 4, 3]).to_dict() == {
        "median": 3,
        "p25": 2,
        "p75": 4,
        "min": 1,
        "max": 5,
        "rounds": 5,
    }


class TestCompare:
    def test_a_ratio_says_how_many_times_as_fast(self) -> None:
        machine = Machine()
        operations = {"fast": machine.operation("fast", 2), "slow": machine.operation("slow", 7)}
        result = compare(
            operations, baseline="slow", how=Rounds(rounds=4, runs=3), clock=machine.clock
        )
        assert result.ratios.keys() == {"fast"}
        assert result.ratios["fast"] == Ratio(3.5, 3.5, 3.5, 3.5, 3.5, 4)
        assert (result.timings["fast"].p50, result.timings["fast"].runs) == (2, 12)
        assert (result.timings["slow"].p99, result.timings["slow"].runs) == (7, 12)

    def test_a_machine_that_slows_down_changes_times_but_no_ratio(self) -> None:
        machine = Machine()
        fast, slow = machine.operation("fast", 2), machine.operation("slow", 6)

        def fast_then_throttle() -> None:
            fast()
            if machine.calls.count("fast") % 8 == 0:  # between rounds, where "fast" is last
                machine.speed /= 2

        operations = {"slow": slow, "fast": fast_then_throttle}
        how = Rounds(rounds=9, runs=3)
        result = compare(operations, baseline="slow", how=how, clock=machine.clock)
        assert result.timings["slow"].p99 > 5 * result.timings["slow"].least
        assert result.ratios["fast"].median == pytest.approx(3)

    def test_operations_take_turns_and_each_begins_with_an_untimed_run(self) -> None:
        machine = Machine()
        operations = {name: machine.operation(name, 1) for name in "abc"}
        compare(operations, baseline="a", how=Rounds(rounds=4, runs=2), clock=machine.clock)
        turns = [machine.calls[3:][place : place + 3] for place in range(0, 36, 3)]
        assert all(len(set(turn)) == 1 for turn in turns)
        assert "".join(turn[0] for turn in turns) == "abcbcacababc"

    def test_the_untimed_run_is_in_no_figure(self) -> None:
        machine = Machine()

        def slow_at_first() -> None:
            machine.nanoseconds += 900_000_000 if machine.calls[-1:] != ["a"] else 1_000_000
            machine.calls.append("a")

        operations = {"a": slow_at_first, "b": machine.operation("b", 1)}
        result = compare(
            operations, baseline="b", how=Rounds(rounds=5, runs=2), clock=machine.clock
        )
        assert result.timings["a"].p99 == 1
        assert result.ratios["a"].median == 1

    def test_it_stops_when_time_is_up_but_not_before_the_least_rounds(self) -> None:
        def rounds(seconds: float) -> int:
            machine = Machine()
            operations = {name: machine.operation(name, 250) for name in "ab"}
            how = Rounds(rounds=50, runs=1, seconds=seconds)  # a round takes a second
            return (
                compare(operations, baseline="a", how=how, clock=machine.clock).ratios["b"].rounds
            )

        assert rounds(0) == LEAST_ROUNDS
        assert rounds(10.5) == 11
        assert rounds(1e9) == 50


@pytest.fixture(scope="module")
def torch() -> Any:
    pytest.importorskip("open_clip", reason="PyTorch's side needs the train extra")
    return pytest.importorskip("torch", reason="PyTorch's side needs the train extra")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each run of the SDK on references has encoded."""
    counts: list[int] = []
    encode = Encoder.encode_references

    def counted(self: Encoder, images: Sequence[Any]) -> list[EncodedImage]:
        counts.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Encoder, "encode_references", counted)
    return counts


class TorchTinyModel:
    """The tiny model as `train.model.composed_model.ComposedModel` offers itself."""

    def __init__(self, tiny: TinyModel, torch: Any) -> None:
        self.tiny, self.torch = tiny, torch
        self.lengths: set[int] = set()
        self.backbone = SimpleNamespace(
            context_length=77,
            preprocess_cfg={
                "size": (SIZE, SIZE),
                "mean": (0.5,) * 3,
                "std": (0.25,) * 3,
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        )

    def _tensors(self, arrays: Any) -> Any:
        return tuple(self.torch.from_numpy(np.asarray(array)) for array in arrays)

    def encode_image(self, pixel_values: Any) -> Any:
        return self._tensors(self.tiny.encode_image(pixel_values.numpy()))

    def learn_token(self, embeds: Any, patches: Any) -> Any:
        return self._tensors(self.tiny.learn_token(embeds.numpy(), patches.numpy()))

    def encode_query(self, ids: Any, index: Any, scale: Any, *said: Any) -> Any:
        self.lengths.add(ids.shape[1])
        arrays = [each.numpy() for each in (ids, index, scale, *said)]
        return self._tensors([self.tiny.encode_query(*arrays)])[0]


class TestMeasure:
    def measure(self, model: Any, folder: Path, *, same_weights: bool = True) -> dict[str, Any]:
        from benchmarks.measurement import LatencySettings, measure

        bundle = write_tiny_bundle(folder / "tiny")
        settings = LatencySettings(threads=1, how=Rounds(2, 1), gallery=40, pictures=4, k=5)
        return measure(model, bundle, settings, same_weights=same_weights)

    def test_its_fields(self, tmp_path: Path, torch: Any) -> None:
        threads = torch.get_num_threads()
        model = TorchTinyModel(TinyModel(), torch)
        result = json.loads(json.dumps(self.measure(model, tmp_path), allow_nan=False))
        assert torch.get_num_threads() == threads
        assert result["largest_difference"] < 1e-5
        assert result["bundle"]["precision"] == "fp32"
        assert result["bundle"]["bytes"] > 1000
        cut, padded = result["tokens"]["cut"], result["tokens"]["padded"]
        assert 3 < cut < padded == 77
        assert model.lengths == {cut, 77}  # whole queries are always padded
        sides = {what: set(one["timings"]) for what, one in result["comparisons"].items()}
        both = {"sdk", "pytorch"}
        assert sides == {
            "image_encoder": both,
            "token_learner": both,
            "text_encoder": both | {"sdk_padded", "pytorch_cut"},
            "first_text": both,
            "second_text": both,
        }
        for one in result["comparisons"].values():
            assert one["baseline"] == "pytorch"
            assert one["ratios"].keys() == one["timings"].keys() - {"pytorch"}
            for timing in one["timings"].values():
                assert timing.keys() == {"p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "runs"}
                assert (timing["runs"], timing["p50_ms"] > 0) == (2, True)
            for ratio in one["ratios"].values():
                assert ratio.keys() == {"median", "p25", "p75", "min", "max", "rounds"}
                assert ratio["rounds"] == 2

    def test_a_first_text_never_finds_its_picture_encoded(
        self, tmp_path: Path, torch: Any, encoded: list[int]
    ) -> None:
        self.measure(TorchTinyModel(TinyModel(), torch), tmp_path)
        compared, second_text = 3, 1
        first_text = 1 + 2 * (1 + 1)  # of 4 pictures: the first comes again
        assert len(encoded) == compared + second_text + first_text

    def test_sides_that_answer_differently_are_not_compared(
        self, tmp_path: Path, torch: Any
    ) -> None:
        other = TorchTinyModel(TinyModel(), torch)
        other.tiny.adapter = other.tiny.adapter * 1.01
        with pytest.raises(ZtcirError, match=r"differ by .* export it from this very model"):
            self.measure(other, tmp_path)

    def test_a_stand_in_need_not_answer_alike_but_have_the_same_shapes(
        self, tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = TorchTinyModel(TinyModel(seed=1), torch)
        result = self.measure(other, tmp_path, same_weights=False)
        assert result["largest_difference"] is None
        other.tiny.value = other.tiny.value[:, :3]
        other.tiny.key = other.tiny.key[:, :3]
        monkeypatch.setattr(other, "encode_query", lambda ids, *_: torch.zeros(len(ids), 4))
        with pytest.raises(ZtcirError, match="name the checkpoint"):
            self.measure(other, tmp_path / "again", same_weights=False)


class Compiler:
    """`torch.compile`, pretended: it compiles for each shape, and must not once it is closed."""

    def __init__(self) -> None:
        self.functions: dict[str, bool] = {}
        self.shapes: set[tuple[Any, ...]] = set()
        self.closed = False
        self.gives: Callable[[Any], Any] = lambda outputs: outputs

    def compile(self, function: Any, *, fullgraph: bool, dynamic: bool) -> Callable[..., Any]:
        assert fullgraph  # or parts would run eagerly in silence
        self.functions[function.__name__] = dynamic

        def compiled(*inputs: Any) -> Any:
            shape = (function.__name__, *(tuple(each.shape) for each in inputs))
            assert shape in self.shapes or not self.closed, "compiled in what is timed"
            self.shapes.add(shape)
            return self.gives(function(*inputs))

        return compiled

    @contextlib.contextmanager
    def close(self) -> Iterator[None]:
        self.closed = True
        yield
        self.closed = False


@pytest.fixture
def compiler(torch: Any, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(torch, "compile", compiler.compile)
    monkeypatch.setattr("benchmarks.measurement.nothing_is_compiled", compiler.close)
    return compiler


def measure_tiny(model: Any, folder: Path, *, same: bool = True, **more: Any) -> dict[str, Any]:
    from benchmarks.measurement import LatencySettings, measure

    how = LatencySettings(threads=1, how=Rounds(2, 1), gallery=40, pictures=4, k=5, **more)
    result = measure(model, write_tiny_bundle(folder / "tiny"), how, same_weights=same)
    return dict(json.loads(json.dumps(result, allow_nan=False)))


def measured_sides(result: dict[str, Any]) -> dict[str, set[str]]:
    return {what: set(one["timings"]) for what, one in result["comparisons"].items()}


class TestCompiled:
    def test_it_is_a_side_beside_the_others(
        self, tmp_path: Path, torch: Any, compiler: Compiler
    ) -> None:
        result = measure_tiny(TorchTinyModel(TinyModel(), torch), tmp_path, compiled=True)
        # Only texts are of several lengths.
        assert compiler.functions == {
            "encode_image": False,
            "learn_token": False,
            "encode_query": True,
        }
        cut = result["tokens"]["cut"]
        assert {shape[1][1] for shape in compiler.shapes if shape[0] == "encode_query"} == {cut, 77}
        every = {"sdk", "pytorch", "pytorch_compiled"}
        sides = measured_sides(result)
        lengths = {"sdk_padded", "pytorch_cut", "pytorch_compiled_cut"}
        assert sides.pop("text_encoder") == every | lengths
        assert list(sides.values()) == [every] * 4
        assert all(one["baseline"] == "pytorch" for one in result["comparisons"].values())
        assert result["differences"].keys() == {"sdk", "pytorch_compiled"}
        assert result["differences"]["pytorch_compiled"] == 0
        assert result["not_measured"] == {}
        assert result["providers"] == {"sdk": "CPUExecutionProvider"}

    @pytest.mark.parametrize("same", [True, False])
    @pytest.mark.parametrize("factor", [1.001, float("nan")])
    def test_it_must_answer_as_the_eager_side(
        self, tmp_path: Path, torch: Any, compiler: Compiler, same: bool, factor: float
    ) -> None:
        compiler.gives = lambda outputs: outputs if isinstance(outputs, tuple) else outputs * factor
        model = TorchTinyModel(TinyModel(), torch)
        with pytest.raises(ZtcirError, match=r"torch\.compile's model .* leave out --compile"):
            measure_tiny(model, tmp_path, same=same, compiled=True)

    def test_a_compiler_that_is_missing_is_told(
        self, tmp_path: Path, torch: Any, compiler: Compiler
    ) -> None:
        def fail(outputs: Any) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no compiler here\nat line 3")

        compiler.gives = fail
        model = TorchTinyModel(TinyModel(), torch)
        with pytest.raises(ZtcirError, match=r"failed \(no compiler here\): install .* --compile"):
            measure_tiny(model, tmp_path, compiled=True)

    def test_the_real_modules_are_whole_graphs_of_any_length(
        self, tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tiny_training import VIT, tiny_model

        from benchmarks.eager import TorchSearch, nothing_is_compiled
        from ztcir_sdk.benchmark import draw_photos

        real = torch.compile  # what it reads of the modules is real; machine code takes minutes
        monkeypatch.setattr(torch, "compile", lambda f, **how: real(f, backend="eager", **how))
        model = tiny_model(VIT)
        end = model.backbone.vocab_size - 1
        gallery = np.eye(4, model.backbone.embed_dim, dtype=np.float32)

        def search(*, compiled: bool) -> Any:
            return TorchSearch(model, lambda text: [5, -1, end], gallery, 2, compiled=compiled)

        [file] = draw_photos(tmp_path, 1)
        eager, compiled = search(compiled=False), search(compiled=True)
        said = compiled.reference(file)
        wanted = eager.query("red", eager.reference(file))
        assert torch.allclose(compiled.query("red", said), wanted, atol=1e-6)
        assert compiled.first_text(file, "red") == eager.first_text(file, "red")

        def read(one: Any, length: int) -> Any:
            ids = torch.zeros(1, length, dtype=torch.long)
            ids[0, :3] = torch.tensor([5, -1, end])
            first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
            return one.on_host(one.encode_query, ids, first, scale, *said)[0]

        with torch.inference_mode():
            read(compiled, 9)
            with nothing_is_compiled():
                for length in (5, 12):
                    wanted = read(eager, length)
                    assert torch.allclose(read(compiled, length), wanted, atol=1e-6)
                with pytest.raises(RuntimeError, match="recompile"):
                    compiled.encode_image(torch.zeros(2, 3, *model.backbone.image_size))
        torch.compiler.reset()

    @pytest.mark.slow
    def test_a_backbone_is_compiled_and_measured(
        self, tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tiny_training import SHALLOW

        from benchmarks import latency

        monkeypatch.setattr(latency, "_alone", lambda threads, task, *arguments: task(*arguments))
        monkeypatch.setattr(latency, "embedded_names", list)
        out = tmp_path / "latency.json"
        few = ["--threads=1", "--rounds=2", "--runs=1", "--gallery=100", f"--out={out}"]
        assert latency.main(["--models", SHALLOW, "--compile", *few]) == 0
        [model] = json.loads(out.read_text())["models"]
        assert model["differences"]["pytorch_compiled"] < 1e-4
        for one in model["comparisons"].values():
            assert one["ratios"]["pytorch_compiled"]["rounds"] == 2
        torch.compiler.reset()


def pretend_gpu(torch: Any) -> Any:
    """A mode of PyTorch in which tensors can be put on "cuda:0", and what is there is marked."""

    class Resident(torch.Tensor):  # type: ignore[misc]
        """A tensor in the GPU's memory."""

    class PretendedGpu(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.resident = Resident
            self.waited = 0

        def synchronize(self, device: str) -> None:
            assert device == "cuda:0"
            self.waited += 1

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.to and args[1:] == ("cuda:0",):
                return args[0].as_subclass(Resident)
            if func is torch.Tensor.cpu:
                return args[0].as_subclass(torch.Tensor)
            tensors = [one for one in args if isinstance(one, torch.Tensor) and one.ndim]
            there = {isinstance(one, Resident) for one in tensors}
            assert len(there) < 2, "tensors on two devices"
            assert func is not torch.Tensor.numpy or there == {False}, "NumPy cannot see the GPU"
            return func(*args, **(kwargs or {}))

    return PretendedGpu()


class TinyModelOnGpu(TorchTinyModel):
    """The tiny model, which takes only what is on the GPU, and leaves there what it gives."""

    def __init__(self, torch: Any, gpu: Any) -> None:
        super().__init__(TinyModel(), torch)
        self.gpu = gpu
        self.device = "cpu"

    def to(self, device: str) -> None:
        self.device = device

    def _run(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        assert self.device == "cuda:0"
        assert all(isinstance(each, self.gpu.resident) for each in inputs)
        outputs = function(*(each.as_subclass(self.torch.Tensor) for each in inputs))
        if isinstance(outputs, tuple):
            return tuple(each.as_subclass(self.gpu.resident) for each in outputs)
        return outputs.as_subclass(self.gpu.resident)

    def encode_image(self, *inputs: Any) -> Any:
        return self._run(super().encode_image, inputs)

    def learn_token(self, *inputs: Any) -> Any:
        return self._run(super().learn_token, inputs)

    def encode_query(self, *inputs: Any) -> Any:
        return self._run(super().encode_query, inputs)


class TestOnGpu:
    """PyTorch's tensors are marked, ONNX Runtime computes on the processor, TensorRT is a fake."""

    @pytest.fixture
    def nvidia(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[NvidiaMachine]:
        def open_pretended(source: GraphSource, settings: RuntimeSettings) -> Any:
            assert settings.device == "cuda:0"
            if settings.backend == "onnx":
                settings = dataclasses.replace(settings, device="cpu")
            return open_graph(source, settings)

        monkeypatch.setattr("ztcir_sdk.encoder.open_graph", open_pretended)
        yield NvidiaMachine(monkeypatch, tmp_path / "engines")
        tensorrt_package.import_tensorrt.cache_clear()

    @pytest.fixture
    def gpu(self, torch: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        gpu = pretend_gpu(torch)
        monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
        return gpu

    def measure(self, torch: Any, gpu: Any, folder: Path, **more: Any) -> dict[str, Any]:
        with gpu:
            return measure_tiny(TinyModelOnGpu(torch, gpu), folder, device="cuda:0", **more)

    def test_every_side_is_ready_and_does_the_same_work(
        self,
        tmp_path: Path,
        torch: Any,
        gpu: Any,
        nvidia: NvidiaMachine,
        compiler: Compiler,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        calls = nvidia.cuda.calls
        prepared: list[tuple[int, int]] = []

        def compared(sides: Mapping[str, Callable[[], Any]], **how: Any) -> Any:
            prepared.append((len(nvidia.trt.builds), calls.count("cudaGraphInstantiate")))
            assert torch.backends.cuda.matmul.allow_tf32 is False
            assert torch.backends.cudnn.allow_tf32 is False
            for side, operation in sides.items():
                waited = gpu.waited
                answer = operation()
                assert gpu.waited - waited == side.startswith("pytorch"), side
                for one in answer if isinstance(answer, tuple) else ():
                    assert not isinstance(one, gpu.resident)
            return compare(sides, **how)

        monkeypatch.setattr("benchmarks.measurement.compare", compared)
        # TensorRT keeps 16 shapes, and these texts are of fewer lengths, as CLIP's tokens are.
        texts = demo_queries(demo_gallery(), 120)[:12]
        monkeypatch.setattr("benchmarks.measurement.demo_queries", lambda *_: texts)
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        result = self.measure(torch, gpu, tmp_path, compiled=True)
        after = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        assert after == before
        # Engines are built, and every shape of theirs recorded, before anything is timed.
        assert len(prepared) == 5
        assert set(prepared) == {(3, calls.count("cudaGraphInstantiate"))}
        every = {"sdk", "sdk_tensorrt", "pytorch", "pytorch_compiled"}
        sides = measured_sides(result)
        lengths = {"sdk_padded", "sdk_tensorrt_padded", "pytorch_cut", "pytorch_compiled_cut"}
        assert sides.pop("text_encoder") == every | lengths
        assert list(sides.values()) == [every] * 4
        assert result["providers"]["sdk_tensorrt"] == "TensorRT 10.3.0"
        assert result["differences"].keys() == every - {"pytorch"}
        assert all(difference < 1e-5 for difference in result["differences"].values())
        assert result["not_measured"] == {}

    def test_tensorrt_that_does_not_work_is_left_out_and_the_result_says_why(
        self, tmp_path: Path, torch: Any, gpu: Any, nvidia: NvidiaMachine
    ) -> None:
        nvidia.trt.refuses = "the engine is of another world"
        result = self.measure(torch, gpu, tmp_path)
        assert result["not_measured"].keys() == {"sdk_tensorrt"}
        assert "the engine is of another world" in result["not_measured"]["sdk_tensorrt"]
        assert measured_sides(result)["first_text"] == {"sdk", "pytorch"}
        assert result["providers"].keys() == {"sdk"}

    def test_tensorrt_that_loads_but_does_not_run_is_left_out(
        self, tmp_path: Path, torch: Any, gpu: Any, nvidia: NvidiaMachine
    ) -> None:
        nvidia.trt.breaks = "an illegal instruction"
        result = self.measure(torch, gpu, tmp_path)
        assert "an illegal instruction" in result["not_measured"]["sdk_tensorrt"]

    def test_tensorrt_must_answer_as_the_eager_side(
        self,
        tmp_path: Path,
        torch: Any,
        gpu: Any,
        nvidia: NvidiaMachine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run = TensorRtGraph.run

        def rolled(self: TensorRtGraph, *arguments: Any) -> Any:
            return {name: np.roll(one, 1, -1) for name, one in run(self, *arguments).items()}

        monkeypatch.setattr(TensorRtGraph, "run", rolled)
        with pytest.raises(ZtcirError, match=r"TensorRT's engines of .* differ by"):
            self.measure(torch, gpu, tmp_path)


def test_ztcir_bench_never_finds_its_picture_encoded(tmp_path: Path, encoded: list[int]) -> None:
    settings = BenchmarkSettings(repeat=7, gallery=20, pictures=2)
    benchmark(write_tiny_bundle(tmp_path / "tiny"), settings=settings, threads=1)
    warm_up, first_text, second_text = 3, 7, 1
    assert len(encoded) == warm_up + first_text + second_text


class TestTrainedBundle:
    def test_without_an_architecture_in_its_card_it_needs_a_checkpoint(
        self, tmp_path: Path, torch: Any
    ) -> None:
        from benchmarks.eager import stand_in_model

        with pytest.raises(ZtcirError, match="--checkpoint"):
            stand_in_model(write_tiny_bundle(tmp_path / "tiny"))

    def test_another_checkpoint_is_refused(
        self, tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchmarks import eager

        monkeypatch.setattr(eager, "load_model", lambda folder: (object(), {}))
        monkeypatch.setattr(eager, "round_weights", lambda model: model)
        monkeypatch.setattr(eager, "image_tower_fingerprint", lambda model: "0" * 32)
        with pytest.raises(UsageError, match="was not exported from"):
            eager.checkpoint_model(tmp_path, write_tiny_bundle(tmp_path / "tiny"))


class TestCommand:
    @pytest.fixture
    def latency(self, torch: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The command, its tasks in this process."""
        from benchmarks import latency

        monkeypatch.setattr(latency, "_alone", lambda threads, task, *arguments: task(*arguments))
        return latency

    def test_its_file(
        self,
        latency: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        done = []

        def measure_trained(folder: Path, checkpoint: Path | None, settings: Any) -> dict[str, Any]:
            done.append(("measure", folder.name))
            return {**MODEL, "name": "mine", "checkpoint": str(checkpoint)}

        def measure_random(name: str, folder: Path, settings: Any) -> dict[str, Any]:
            done.append(("measure", name))
            assert (settings.threads, settings.how) == (3, Rounds(7, 2, 1.5))
            return {**MODEL, "name": name}

        monkeypatch.setattr(
            latency, "export_random", lambda name, folder: done.append(("export", name))
        )
        monkeypatch.setattr(latency, "measure_random", measure_random)
        monkeypatch.setattr(latency, "measure_trained", measure_trained)
        write_tiny_bundle(tmp_path / "tiny")
        out = tmp_path / "new" / "latency.json"
        how = ["--threads", "3", "--rounds", "7", "--runs", "2", "--seconds", "1.5"]
        trained = ["--bundle", str(tmp_path / "tiny"), "--checkpoint", "runs"]
        assert latency.main(["--models", "A", "B", "--out", str(out), *how, *trained]) == 0
        # A name that cannot be exported is told before anything is measured.
        stages = [stage for stage, _ in done]
        assert stages == ["export", "export", "measure", "measure", "measure"]
        result = json.loads(out.read_text())
        assert [model["name"] for model in result["models"]] == ["A", "B", "mine"]
        assert result["models"][2]["checkpoint"] == "runs"
        assert result["machine"].keys() >= {"cpu", "cpus", "memory_gb", "os"}
        assert result["versions"].keys() >= {"python", "torch", "open_clip_torch", "onnxruntime"}
        assert result["threads"] == 3
        assert result["settings"] == {
            "rounds": 7,
            "runs": 2,
            "seconds": 1.5,
            "gallery": 10_000,
            "k": 10,
        }
        assert result["load_average"].keys() == {"before", "after"}
        assert result["date"].endswith("+00:00")
        if (ROOT / ".git").exists():
            head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
            commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
            assert result["git"]["commit"] == commit
        assert "B\tfirst text\t12.35\t12.35\t2.50\n" in capsys.readouterr().out

    def test_a_gpu_has_a_file_of_its_own_which_names_the_sides(
        self,
        latency: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        done: list[str] = []

        def check_gpu(device: str) -> str:
            done.append(device)
            return "NVIDIA GeForce RTX 3090"

        def measure_random(name: str, folder: Path, settings: Any) -> dict[str, Any]:
            assert (settings.device, settings.compiled) == ("cuda:0", True)
            model: dict[str, Any] = {**copy.deepcopy(MODEL), "name": name}
            for one in model["comparisons"].values():
                one["ratios"]["pytorch_compiled"] = {**RATIO, "median": 1.75}
                one["timings"]["pytorch_compiled"] = TIMING
            return {**model, "not_measured": {"sdk_tensorrt": "TensorRT is not installed."}}

        monkeypatch.setattr(latency, "RESULTS", tmp_path)
        monkeypatch.setattr(latency, "embedded_names", list)
        monkeypatch.setattr(latency, "check_gpu", check_gpu)
        monkeypatch.setattr(latency, "export_random", lambda name, folder: done.append(name))
        monkeypatch.setattr(latency, "measure_random", measure_random)
        assert latency.main(["--models", "A", "--device", "cuda", "--compile"]) == 0
        assert done == ["cuda:0", "A"]
        assert [file.name for file in tmp_path.iterdir()] == [
            "latency-nvidia-geforce-rtx-3090.json"
        ]
        result = json.loads((tmp_path / "latency-nvidia-geforce-rtx-3090.json").read_text())
        said = result["settings"]
        assert (said["device"], said["gpu"]) == ("cuda:0", "NVIDIA GeForce RTX 3090")
        assert said["sides"] == ["sdk", "sdk_tensorrt", "pytorch", "pytorch_compiled"]
        assert said["tf32"] is False
        assert said["compile"] == {"mode": "default", "dynamic": ["text_encoder"]}
        assert result["models"][0]["not_measured"] == {"sdk_tensorrt": "TensorRT is not installed."}
        printed = capsys.readouterr().out
        assert "A\tfirst text\t12.35\t12.35\t2.50\n" in printed
        assert "A\tfirst text\t12.35\t12.35\t1.75\n" in printed

    def test_a_compiled_side_on_the_processor_takes_no_other_files_place(
        self, latency: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(latency, "RESULTS", tmp_path)
        monkeypatch.setattr(latency, "embedded_names", list)
        monkeypatch.setattr(latency, "export_random", lambda name, folder: None)
        monkeypatch.setattr(latency, "measure_random", lambda *_: {**MODEL, "name": "A"})
        assert latency.main(["--models", "A", "--compile"]) == 0
        said = json.loads((tmp_path / "latency-compiled.json").read_text())["settings"]
        assert (said["device"], said["sides"]) == ("cpu", ["sdk", "pytorch", "pytorch_compiled"])
        assert "tf32" not in said
        assert "gpu" not in said

    @pytest.mark.parametrize(
        ("device", "cuda", "gpus", "code", "sentence"),
        [
            ("cuda:0", None, 0, 1, "cuda:0 cannot be measured, since this PyTorch was built witho"),
            ("cuda:0", "13.0", 0, 1, "cuda:0 cannot be measured, since PyTorch sees no NVIDIA GPU"),
            ("cuda:2", "13.0", 2, 2, "There is no cuda:2: PyTorch sees 2 GPUs"),
            ("cuda:1", "13.0", 2, 1, "cuda:1 cannot be used (this ONNX Runtime"),
            ("gpu", "13.0", 1, 2, "The device is auto, cpu, cuda or cuda:0, not 'gpu'"),
        ],
    )
    def test_a_gpu_that_is_missing_is_told_before_anything_is_exported(
        self,
        device: str,
        cuda: str | None,
        gpus: int,
        code: int,
        sentence: str,
        latency: Any,
        torch: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def export(name: str, folder: Path) -> None:
            raise AssertionError("exported")

        monkeypatch.setattr(latency, "RESULTS", tmp_path)
        monkeypatch.setattr(latency, "export_random", export)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        assert latency.main(["--models", "A", "--device", device]) == code
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert printed.err.count("\n") == 1
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("gpu", "name"),
        [
            ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
            ("Orin (nvgpu)/x", "orin-nvgpu-x"),
        ],
    )
    def test_a_gpus_name_is_part_of_a_files(self, gpu: str, name: str, torch: Any) -> None:
        from benchmarks.gpu import slug

        assert slug(gpu) == name

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (["--models", "no-such-model"], 1, "no-such-model is neither an open_clip model"),
            (["--models", "--bundle", "nowhere"], 1, "nowhere does not exist"),
        ],
    )
    def test_what_cannot_be_measured_is_told_in_a_sentence(
        self,
        arguments: list[str],
        code: int,
        sentence: str,
        latency: Any,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert latency.main([*arguments, "--out", str(tmp_path / "o.json")]) == code
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "o.json").exists()

    @pytest.mark.parametrize("rounds", ["0", "-1", "many"])
    def test_a_wrong_number_is_a_wrong_call(
        self, latency: Any, rounds: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            latency.main([f"--rounds={rounds}"])
        assert exit_.value.code == 2
        assert "no whole number of at least 1" in capsys.readouterr().err

    def test_a_process_that_is_killed_is_told(
        self, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchmarks import latency

        for name in latency.THREAD_VARIABLES:
            monkeypatch.setenv(name, "1")
        with pytest.raises(ZtcirError, match=r"Measuring 9 was killed, as happens when memory"):
            latency._alone(1, os._exit, 9)

    @pytest.mark.slow
    def test_a_backbone_is_exported_and_measured(self, tmp_path: Path, torch: Any) -> None:
        out = tmp_path / "latency.json"
        command = [sys.executable, "-m", "benchmarks.latency", "--models", "fashion-lite"]
        few = ["--threads=1", "--rounds=2", "--runs=1", "--gallery=100", f"--out={out}"]
        done = subprocess.run([*command, *few], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        model = json.loads(out.read_text())["models"][0]
        assert (model["name"], model["weights"]) == ("fashion-lite", "random")
        assert model["largest_difference"] < 1e-4
        assert 0.1 < model["peak_memory_gb"] < 24
        assert all(one["ratios"]["sdk"]["rounds"] == 2 for one in model["comparisons"].values())
        assert "Traceback" not in done.stderr


class TestPrecision:
    def test_every_way_of_quantizing_is_measured(self, tmp_path: Path, torch: Any) -> None:
        from tiny_training import SHALLOW

        from benchmarks import precision

        out = tmp_path / "precision.json"
        few = ["--threads=1", "--rounds=2", "--runs=1", f"--out={out}"]
        assert precision.main(["--models", SHALLOW, *few]) == 0
        result = json.loads(out.read_text())
        [model] = result["models"]
        assert (model["name"], result["threads"]) == (SHALLOW, 1)
        for graph, measured in model["graphs"].items():
            ways = {"image_encoder": "static", "text_encoder": "dynamic"}
            wanted = {f"int8-{ways[graph]}-{bits}" for bits in (7, 8)}
            assert wanted <= measured["variants"].keys()
            for sides in measured["comparisons"].values():
                assert wanted <= sides["ratios"].keys()
                assert all(0 < ratio["median"] < 100 for ratio in sides["ratios"].values())
            assert measured["share_of_products"].keys() == measured["comparisons"].keys()
            assert all(0 < share <= 1 for share in measured["share_of_products"].values())
            for key in wanted:
                assert 0.9 < measured["variants"][key]["cosine"]["mean"] <= 1
        assert "int8" in readme.region_texts(tmp_path, readme.REGIONS)["precision"]


TIMING = {"p50_ms": 12.345, "p90_ms": 0.125, "p99_ms": 234.5, "mean_ms": 1, "min_ms": 1, "runs": 9}
RATIO = {"median": 2.5, "p25": 2.25, "p75": 3.0, "min": 1, "max": 9, "rounds": 4}
WHERE = {
    "date": "2026-11-25T14:17:35+00:00",
    "machine": {"cpu": "Some CPU"},
    "versions": {"onnxruntime": "1.2.3", "torch": "4.5.6"},
    "threads": 2,
}


def scores(number: float, **more: Any) -> dict[str, Any]:
    return {"overall": {"R@1": number, "R@5": 0.5, "R@10": 0.75, "mAP@10": number}, **more}


TWO = {"sdk": TIMING, "pytorch": TIMING}
MODEL = {
    "name": "ViT-B-32",
    "weights": "random",
    "tokens": {"cut": 12, "padded": 77},
    "comparisons": {
        **{
            what: {"timings": TWO, "ratios": {"sdk": RATIO}}
            for what in ("image_encoder", "token_learner", "first_text", "second_text")
        },
        "text_encoder": {
            "timings": {**TWO, "sdk_padded": TIMING, "pytorch_cut": TIMING},
            "ratios": {
                "sdk": {**RATIO, "median": 7.125},
                "sdk_padded": RATIO,
                "pytorch_cut": RATIO,
            },
        },
    },
}


QUANTIZED = {
    "name": "ViT-B-32",
    "weights": "random",
    "graphs": {
        "image_encoder": {
            "variants": {"int8-dynamic-7": {"cosine": {"mean": 0.9995, "least": 0.99}}},
            "comparisons": {
                size: {
                    "timings": {"fp32": TIMING, "fp32-fused": TIMING, "int8-dynamic-7": TIMING},
                    "ratios": {"fp32-fused": RATIO, "int8-dynamic-7": RATIO},
                }
                for size in ("1 picture", "batch")
            },
            "share_of_products": {"1 picture": 0.875, "batch": 0.9},
        }
    },
}


def result_files() -> dict[str, Any]:
    return {
        "val-triplets.json": {
            "methods": {
                "composed": scores(0.2),
                **{name: scores(0.05) for name in ("mapped", "image", "text", "sum", "oracle")},
                "stage1": scores(0.125),
                "sum_best": scores(0.1, weight=0.35),
            },
            "queries": 1800,
            "gallery": 4000,
            "bundle": {"name": "tiny", "fingerprint": "00", "precision": "fp32"},
            "date": WHERE["date"],
        },
        "bench.json": {
            **WHERE,
            "bundle": {"name": "tiny", "fingerprint": "00"},
            "precision": "fp32",
            "graphs": {
                "image_encoder": [{"images": 1, **TIMING}, {"images": 8, **TIMING}],
                "text_encoder": [{"texts": 1, "tokens": 8, **TIMING}],
            },
            "query": {"index": 10_000, "first_text": TIMING, "second_text": TIMING},
            "indexing": {"pictures_per_second": 41.5},
        },
        "latency.json": {
            **WHERE,
            "models": [MODEL],
        },
        "precision.json": {**WHERE, "models": [QUANTIZED]},
    }


MARKS = "".join(f"<!-- {name} -->\n<!-- /{name} -->\nbetween\n" for name in readme.REGIONS)
METHOD_MARKS = "".join(
    f"<!-- {name} -->\n<!-- /{name} -->\n" for name in readme.DOCUMENTS["docs/method.md"]
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(f"# Title\n{MARKS}end\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "method.md").write_text(METHOD_MARKS)
    for name, values in result_files().items():
        (tmp_path / name).write_text(json.dumps(values))
    return tmp_path


def run(checkout: Path, *arguments: str) -> int:
    where = ["--root", str(checkout), "--results", str(checkout)]
    return readme.main([*where, *arguments])


class TestReadme:
    def test_it_says_what_the_files_say(self, checkout: Path) -> None:
        assert run(checkout) == 0
        text = (checkout / "README.md").read_text()
        assert text.startswith("# Title\n<!-- quality -->\n\n| method | R@1 |")
        assert text.endswith("end\n")
        assert text.count("between\n") == len(readme.REGIONS) == 4
        lines = text.splitlines()
        assert (
            "| ViT-B-32 | image encoder, 1 picture | dynamic, 7 bits | 12.3 | 12.3 "
            "| 2.50 (2.25 to 3.00) | 0.9995 | 88% |" in lines
        )
        assert sum("dynamic, 7 bits" in line for line in lines) == 1
        assert "| `composed` | 0.200 | 0.500 | 0.750 | 0.200 |" in lines
        assert "| `sum`, best weight of the text (0.35) | 0.100 | 0.500 | 0.750 | 0.100 |" in lines
        assert sum(line.startswith("| `") for line in lines) == 8
        assert "1 800 queries over 4 000 pictures, bundle `tiny` (fp32), 2026-11-25" in text
        assert "2.00 times the best of `image`, `text` and `sum`, and 1.60 times `stage1`" in text
        assert "| image encoder, 8 images | 12.3 | 0.12 | 234 |" in lines
        assert "| text encoder, 1 text of 8 tokens | 12.3 | 0.12 | 234 |" in lines
        assert (
            "| ViT-B-32 (random weights) | text encoder | 12.3 | 12.3 | 7.12 (2.25 to 3.00) |"
            in (lines)
        )
        assert "Some CPU, 2 threads, onnxruntime 1.2.3, torch 4.5.6, 2026-11-25." in text

    def test_filling_twice_is_filling_once(self, checkout: Path) -> None:
        assert run(checkout, "--check") == 1
        assert (checkout / "README.md").read_text() == f"# Title\n{MARKS}end\n"  # only looked at
        assert run(checkout) == 0
        once = (checkout / "README.md").read_text()
        assert run(checkout, "--check") == 0
        assert run(checkout) == 0
        assert (checkout / "README.md").read_text() == once

    def test_a_number_changed_in_the_readme_is_seen(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(checkout)
        file = checkout / "README.md"
        whole = file.read_text()
        for name, old, new in (
            ("quality", "| 0.200 |", "| 0.210 |"),
            ("latency", "12.3", "11.3"),
            ("ratios", "7.12", "8.12"),
            ("precision", "0.9995", "0.9999"),
        ):
            start = whole.index(f"<!-- {name} -->")
            file.write_text(whole[:start] + whole[start:].replace(old, new, 1))
            assert run(checkout, "--check") == 1
            assert f"In README.md, '{name}' differs from" in capsys.readouterr().err
        file.write_text(whole)
        assert run(checkout, "--check") == 0

    @pytest.mark.parametrize("file", list(result_files()))
    def test_a_number_changed_in_a_file_is_seen(self, checkout: Path, file: str) -> None:
        run(checkout)
        values = copy.deepcopy(result_files()[file])
        if file == "val-triplets.json":
            values["methods"]["stage1"]["overall"]["R@5"] = 0.25
        elif file == "bench.json":
            values["query"]["second_text"] = {**TIMING, "p99_ms": 1}
        elif file == "precision.json":
            values["models"][0]["graphs"]["image_encoder"]["share_of_products"] = {"1 picture": 0.5}
        else:
            values["models"][0]["comparisons"]["first_text"]["ratios"]["sdk"] |= {"p75": 8}
        (checkout / file).write_text(json.dumps(values))
        assert run(checkout, "--check") == 1
        assert run(checkout) == 0
        assert run(checkout, "--check") == 0

    def test_figures_without_a_file_are_refused_but_an_empty_region_is_not(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (checkout / "bench.json").rename(checkout / "aside.json")
        assert run(checkout) == 0
        said = (checkout / "README.md").read_text()
        marked = f"<!-- latency -->\n{readme.NOT_MEASURED}\n<!-- /latency -->"
        (checkout / "README.md").write_text(
            said.replace("<!-- latency -->\n<!-- /latency -->", marked)
        )
        assert run(checkout, "--check") == 0
        (checkout / "README.md").write_text(said)
        assert "<!-- latency -->\n<!-- /latency -->" in (checkout / "README.md").read_text()
        assert run(checkout, "--check") == 0
        (checkout / "aside.json").rename(checkout / "bench.json")
        assert run(checkout) == 0
        (checkout / "bench.json").unlink()
        before = (checkout / "README.md").read_text()
        assert run(checkout) == 0
        assert (checkout / "README.md").read_text() == before
        capsys.readouterr()
        assert run(checkout, "--check") == 1
        assert "make it with `ztcir bench --json`" in capsys.readouterr().err

    @pytest.mark.parametrize("marks", ["", MARKS + MARKS])
    def test_a_region_must_be_there_once(
        self, checkout: Path, marks: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (checkout / "README.md").write_text(marks)
        assert run(checkout) == 1
        assert "mark its place with <!-- quality -->" in capsys.readouterr().err
        assert (checkout / "README.md").read_text() == marks

    def test_a_file_of_another_kind_is_refused(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for content in ("{}", "[1]", "not JSON", json.dumps({"methods": {"composed": {}}})):
            (checkout / "val-triplets.json").write_text(content)
            assert run(checkout) == 1
            assert "val-triplets.json is not what its command writes" in capsys.readouterr().err

    @settings(deadline=None)
    @given(st.text(), st.text(), st.text(), st.text())
    def test_all_else_in_a_readme_stays(self, head: str, old: str, new: str, tail: str) -> None:
        if any("<!--" in text for text in (head, old, tail)):
            return
        filled = readme.fill(f"{head}<!-- a -->{old}<!-- /a -->{tail}", {"a": new})
        assert filled == f"{head}<!-- a -->\n\n{new}\n\n<!-- /a -->{tail}"


def test_the_readme_says_what_the_results_say() -> None:
    if not (ROOT / "README.md").exists() or not any(RESULTS.glob("*.json")):
        pytest.skip("there are no results, or no README")
    assert readme.main(["--check"]) == 0
