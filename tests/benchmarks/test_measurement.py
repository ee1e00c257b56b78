"""The measurement of one model: its sides, its fields, and that all sides do the same work."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_machine import Machine as NvidiaMachine
from tiny_bundle import SIZE, TinyModel, write_tiny_bundle

from benchmarks.comparison import Rounds, compare
from ztcir_sdk.benchmark import BenchmarkSettings, benchmark
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.runtime import GraphSource, RuntimeSettings, open_graph
from ztcir_sdk.runtime.tensorrt import package as tensorrt_package
from ztcir_sdk.runtime.tensorrt.graph import TensorRtGraph


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of images that each call of the SDK's reference encoding received."""
    counts: list[int] = []
    encode = Encoder.encode_references

    def counted(self: Encoder, images: Sequence[Any]) -> list[EncodedImage]:
        counts.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Encoder, "encode_references", counted)
    return counts


class TorchTinyModel:
    """The tiny model with the interface of `ComposedModel`."""

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

    def encode_query(self, ids: Any, index: Any, scale: Any, *learned: Any) -> Any:
        self.lengths.add(ids.shape[1])
        arrays = [each.numpy() for each in (ids, index, scale, *learned)]
        return self._tensors([self.tiny.encode_query(*arrays)])[0]


class TestMeasure:
    def measure(self, model: Any, folder: Path, *, same_weights: bool = True) -> dict[str, Any]:
        from benchmarks.compared.measurement import LatencySettings, measure

        bundle = write_tiny_bundle(folder / "tiny")
        settings = LatencySettings(threads=1, length=Rounds(2, 1), gallery=40, pictures=4, k=5)
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

    def test_a_first_text_always_encodes_its_image(
        self, tmp_path: Path, torch: Any, encoded: list[int]
    ) -> None:
        self.measure(TorchTinyModel(TinyModel(), torch), tmp_path)
        compared, second_text = 3, 1
        first_text = 1 + 2 * (1 + 1)  # of 4 pictures: the first comes again
        assert len(encoded) == compared + second_text + first_text

    def test_sides_with_different_answers_are_not_compared(
        self, tmp_path: Path, torch: Any
    ) -> None:
        other = TorchTinyModel(TinyModel(), torch)
        other.tiny.adapter = other.tiny.adapter * 1.01
        with pytest.raises(ZtcirError, match=r"differ by .* export it from this model"):
            self.measure(other, tmp_path)

    def test_a_stand_in_may_answer_differently_but_must_have_the_same_shapes(
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
    """A fake `torch.compile` that compiles for each shape, and fails once it is closed."""

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
            assert shape in self.shapes or not self.closed, "compiled while it is timed"
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
    monkeypatch.setattr("benchmarks.compared.measurement.fail_on_recompile", compiler.close)
    return compiler


def measure_tiny(model: Any, folder: Path, *, same: bool = True, **more: Any) -> dict[str, Any]:
    from benchmarks.compared.measurement import LatencySettings, measure

    how = LatencySettings(threads=1, length=Rounds(2, 1), gallery=40, pictures=4, k=5, **more)
    result = measure(model, write_tiny_bundle(folder / "tiny"), how, same_weights=same)
    return dict(json.loads(json.dumps(result, allow_nan=False)))


def measured_sides(result: dict[str, Any]) -> dict[str, set[str]]:
    return {what: set(one["timings"]) for what, one in result["comparisons"].items()}


class TestCompiled:
    def test_it_is_measured_beside_the_others(
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
    def test_its_answers_must_equal_the_eager_ones(
        self, tmp_path: Path, torch: Any, compiler: Compiler, same: bool, factor: float
    ) -> None:
        compiler.gives = lambda outputs: outputs if isinstance(outputs, tuple) else outputs * factor
        model = TorchTinyModel(TinyModel(), torch)
        with pytest.raises(ZtcirError, match=r"torch\.compile's model .* leave out --compile"):
            measure_tiny(model, tmp_path, same=same, compiled=True)

    def test_a_missing_compiler_is_named(
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

        from benchmarks.compared.eager import TorchSearch, fail_on_recompile
        from ztcir_sdk.benchmark import draw_photos

        real = torch.compile  # the tracing is real; machine code would take minutes
        monkeypatch.setattr(torch, "compile", lambda f, **how: real(f, backend="eager", **how))
        model = tiny_model(VIT)
        end = model.backbone.vocab_size - 1
        gallery = np.eye(4, model.backbone.embed_dim, dtype=np.float32)

        def search(*, compiled: bool) -> Any:
            return TorchSearch(model, lambda text: [5, -1, end], gallery, 2, compiled=compiled)

        [file] = draw_photos(tmp_path, 1)
        eager, compiled = search(compiled=False), search(compiled=True)
        reference = compiled.reference(file)
        wanted = eager.query("red", eager.reference(file))
        assert torch.allclose(compiled.query("red", reference), wanted, atol=1e-6)
        assert compiled.first_text(file, "red") == eager.first_text(file, "red")

        def read(one: Any, length: int) -> Any:
            ids = torch.zeros(1, length, dtype=torch.long)
            ids[0, :3] = torch.tensor([5, -1, end])
            first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
            return one.on_host(one.encode_query, ids, first, scale, *reference)[0]

        with torch.inference_mode():
            read(compiled, 9)
            with fail_on_recompile():
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
    """Return a mode of PyTorch in which tensors can be moved to "cuda:0", where they are marked."""

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
    """The tiny model with inputs and outputs on the GPU."""

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
    """PyTorch's tensors are marked, ONNX Runtime computes on the CPU, and TensorRT is a fake."""

    @pytest.fixture
    def nvidia(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[NvidiaMachine]:
        def open_pretended(source: GraphSource, settings: RuntimeSettings) -> Any:
            assert settings.device == "cuda:0"
            if settings.backend == "onnx":
                settings = dataclasses.replace(settings, device="cpu")
            return open_graph(source, settings)

        monkeypatch.setattr("ztcir_sdk.bundle.loaded_graphs.open_graph", open_pretended)
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

    def test_every_side_is_prepared_and_does_the_same_work(
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

        def compared(sides: Mapping[str, Callable[[], Any]], **options: Any) -> Any:
            prepared.append((len(nvidia.trt.builds), calls.count("cudaGraphInstantiate")))
            assert torch.backends.cuda.matmul.allow_tf32 is False
            assert torch.backends.cudnn.allow_tf32 is False
            for side, operation in sides.items():
                waited = gpu.waited
                answer = operation()
                assert gpu.waited - waited == side.startswith("pytorch"), side
                for one in answer if isinstance(answer, tuple) else ():
                    assert not isinstance(one, gpu.resident)
            return compare(sides, **options)

        monkeypatch.setattr("benchmarks.compared.measurement.compare", compared)
        # TensorRT keeps 16 shapes, and these texts are of fewer lengths, as CLIP's tokens are.
        texts = demo_queries(demo_gallery(), 120)[:12]
        monkeypatch.setattr("benchmarks.compared.measurement.demo_queries", lambda *_: texts)
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

    def test_tensorrt_that_does_not_build_is_left_out_with_the_reason(
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

    def test_tensorrts_answers_must_equal_the_eager_ones(
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


def test_ztcir_bench_always_encodes_the_image_of_a_first_text(
    tmp_path: Path, encoded: list[int]
) -> None:
    settings = BenchmarkSettings(repeat=7, gallery=20, pictures=2)
    benchmark(write_tiny_bundle(tmp_path / "tiny"), settings=settings, threads=1)
    warm_up, first_text, second_text = 3, 7, 1
    assert len(encoded) == warm_up + first_text + second_text


def test_a_random_model_has_open_gates_and_is_always_the_same(torch: Any) -> None:
    from tiny_training import VIT

    from benchmarks.compared.eager import random_model

    models = []
    for _ in range(2):
        with random_model(VIT) as model:
            assert model.get_parameter("vsi.gates").abs().min() > 0
            models.append({name: one.clone() for name, one in model.state_dict().items()})
    assert all(torch.equal(one, models[1][name]) for name, one in models[0].items())


class TestTrainedBundle:
    def test_without_an_architecture_in_its_card_it_needs_a_checkpoint(
        self, tmp_path: Path, torch: Any
    ) -> None:
        from benchmarks.compared.eager import stand_in_model

        with pytest.raises(ZtcirError, match="--checkpoint"):
            stand_in_model(write_tiny_bundle(tmp_path / "tiny"))

    def test_another_checkpoint_is_refused(
        self, tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchmarks.compared import eager

        monkeypatch.setattr(eager, "load_model", lambda folder: (object(), {}))
        monkeypatch.setattr(eager, "round_weights", lambda model: model)
        monkeypatch.setattr(eager, "image_tower_fingerprint", lambda model: "0" * 32)
        with pytest.raises(UsageError, match="was not exported from"):
            eager.checkpoint_model(tmp_path, write_tiny_bundle(tmp_path / "tiny"))
