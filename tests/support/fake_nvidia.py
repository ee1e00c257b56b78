"""Fakes of a GPU, of CUDA's runtime API and of TensorRT, which need none of them.

They behave like the real ones where it matters: the host cannot read GPU memory; enqueued work is
done only when the stream is waited for; recorded work is replayed with its old addresses; changing
a context after its work was recorded breaks the recording; a thread must choose a device first.
Engines compute with ONNX Runtime, so results can be compared.

Names, arguments and return values are those of `cuda.bindings.runtime` and `tensorrt`; tests
compare them with the real packages where these are installed.
"""

# CUDA's own names are mixed.
# ruff: noqa: N801, N802, N803, N815

from __future__ import annotations

import ctypes
import enum
import json
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

SM_86 = (8, 6)


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


OK = cudaError_t.cudaSuccess


class Stream:
    """Work that waits to be done or recorded."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.waiting: list[Callable[[], None]] = []
        self.recorded: list[Callable[[], None]] | None = None

    def __int__(self) -> int:
        return self.handle

    def put(self, work: Callable[[], None]) -> None:
        (self.waiting if self.recorded is None else self.recorded).append(work)


class FakeCuda(types.ModuleType):
    """`cuda.bindings.runtime` on a machine with GPUs, with a count of their used memory.

    Attributes:
        total: bytes of memory of the GPU.
        fail: function -> the error that its next call returns.
        calls: names of the functions that were called.
    """

    cudaError_t = cudaError_t
    cudaStreamNonBlocking = 1
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaDeviceAttr = types.SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76
    )

    def __init__(
        self,
        *,
        gpus: int = 1,
        total: int = 1 << 30,
        capability: tuple[int, int] = SM_86,
        name: str = "Fake RTX",
    ) -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpus, self.total, self.capability, self.gpu_name = gpus, total, capability, name
        self.device: dict[int, bytearray] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.recordings: dict[int, list[Callable[[], None]]] = {}
        self.fail: dict[str, cudaError_t] = {}
        self.calls: list[str] = []
        self._next = 1 << 40
        self._chosen = threading.local()

    @property
    def used(self) -> int:
        """Bytes of the GPU's memory in use."""
        return sum(map(len, self.device.values()))

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not isinstance(found, types.MethodType):
            return found

        def called(*arguments: Any) -> Any:
            self.calls.append(name)
            if (error := self.fail.pop(name, None)) is not None:
                return (error, None)
            return found(*arguments)

        return called

    def _handle(self) -> int:
        self._next += 1 << 20
        return self._next

    def _bytes(self, address: int) -> bytearray:
        if address not in self.device:
            raise AssertionError(f"{address:#x} is not memory of the GPU")
        return self.device[address]

    # CUDA's own

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (OK, self.gpus) if self.gpus else (cudaError_t.cudaErrorNoDevice, None)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self._chosen.device = device
        return (OK,)

    def cudaDeviceGetAttribute(self, attr: int, device: int) -> tuple[Any, ...]:
        return (OK, self.capability[attr - 75])

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return (OK, types.SimpleNamespace(name=self.gpu_name.encode() + b"\0\0"))

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return (OK, b"something is wrong")

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (OK,)

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return (OK, 13000)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return (OK, self.total - self.used, self.total)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        assert getattr(self._chosen, "device", None) is not None, "this thread chose no device"
        if self.used + size > self.total:
            return (cudaError_t.cudaErrorMemoryAllocation, None)
        address = self._handle()
        self.device[address] = bytearray(b"\xaa" * size)
        return (OK, address)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        buffer = ctypes.create_string_buffer(b"\xbb" * size, size)
        self.host[ctypes.addressof(buffer)] = buffer
        return (OK, ctypes.addressof(buffer))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        assert self.device.pop(devPtr, None) is not None, "freed twice"
        return (OK,)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        assert self.host.pop(ptr, None) is not None, "freed twice"
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = Stream(self._handle())
        self.streams[stream.handle] = stream
        return (OK, stream)

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Any, ...]:
        del self.streams[stream.handle]
        return (OK,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Any, ...]:
        assert stream.recorded is None, "waited for while recording"
        work, stream.waiting = stream.waiting, []
        for one in work:
            one()
        return (OK,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: int, stream: Stream
    ) -> tuple[Any, ...]:
        def copy() -> None:
            if kind == 1:
                target = self._bytes(dst)
                assert src in self.host
                assert count <= len(target)
                target[:count] = ctypes.string_at(src, count)
            else:
                assert count <= len(self.host[dst])
                ctypes.memmove(dst, bytes(self._bytes(src)[:count]), count)

        stream.put(copy)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> tuple[Any, ...]:
        assert not stream.waiting, "recorded while something waited"
        stream.recorded = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Any, ...]:
        work, stream.recorded = stream.recorded, None
        assert work is not None
        graph = self._handle()
        self.recordings[graph] = work
        return (OK, graph)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        executable = self._handle()
        self.recordings[executable] = self.recordings[graph]
        return (OK, executable)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.recordings[graph]
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any, ...]:
        del self.recordings[graphExec]
        return (OK,)

    def cudaGraphLaunch(self, graphExec: int, stream: Stream) -> tuple[Any, ...]:
        for work in self.recordings[graphExec]:
            stream.put(work)
        return (OK,)


class _Type(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT64 = "int64"
    INT32 = "int32"
    INT8 = "int8"
    UINT8 = "uint8"
    BOOL = "bool"


class _Flags(enum.IntEnum):
    STRONGLY_TYPED = 1
    TF32 = 4


class _Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class _Strategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class _Graphs(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class ILogger:
    Severity = _Severity

    def __init__(self) -> None: ...

    def log(self, severity: Any, message: str) -> None: ...


class Tensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        self.name = value.name
        self._edges = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        self.shape = [-1 if isinstance(edge, str) else edge for edge in self._edges]
        self.dtype = _Type(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)

    def get_dimension_name(self, index: int) -> str | None:
        edge = self._edges[index]
        return edge if isinstance(edge, str) else None


class FakeTensorRt(types.ModuleType):
    """`tensorrt` or `tensorrt_rtx` on a `FakeCuda`.

    Attributes:
        scratch: bytes that an engine works in.
        builds: graphs that were built, with what they were configured with.
        refuses: message with which engines are not loaded.
        breaks: message with which the next run fails.
    """

    ILogger = ILogger
    DataType = _Type
    TensorIOMode = _Mode
    ExecutionContextAllocationStrategy = _Strategy
    NetworkDefinitionCreationFlag = _Flags
    BuilderFlag = _Flags
    MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")

    def __init__(self, cuda: FakeCuda, package: str = "tensorrt", version: str = "10.3.0") -> None:
        super().__init__(package)
        self.__version__ = version
        self.cuda = cuda
        self.scratch = 4096
        self.builds: list[dict[str, Any]] = []
        self.refuses: str | None = None
        self.breaks: str | None = None
        self.no_context = False
        if package == "tensorrt_rtx":
            self.CudaGraphStrategy = _Graphs
            self.ComputeCapability: Any = enum.Enum(  # type: ignore[misc]
                "ComputeCapability", "NONE CURRENT SM86 SM89"
            )
        fake = self

        class Builder:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> Any:
                return types.SimpleNamespace(flags=flags)

            def create_builder_config(self) -> Any:
                return Config()

            def create_optimization_profile(self) -> Any:
                return Profile()

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                fake.builds.append(
                    {
                        "name": network.name,
                        "flags": network.flags,
                        "shapes": config.profile and config.profile.shapes,
                        **config.said,
                    }
                )
                said = json.dumps(str(network.path)).encode()
                graph: bytes = network.bytes
                return b"FAKE" + len(said).to_bytes(4, "little") + said + graph

        class Profile:
            def __init__(self) -> None:
                self.shapes: dict[str, Any] = {}

            def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
                self.shapes[input] = (min, opt, max)

        class Config:
            def __init__(self) -> None:
                self.said: dict[str, Any] = {"cleared": []}
                self.profile: Any = None
                self.num_compute_capabilities = 0

            def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
                self.said[pool] = pool_size

            def clear_flag(self, flag: Any) -> None:
                self.said["cleared"].append(flag)

            def add_optimization_profile(self, profile: Any) -> int:
                self.profile = profile
                return 0

            def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
                self.said["for"] = compute_capability.name
                return True

            def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
                self.said["timing cache"] = bytes(serialized_timing_cache)
                return types.SimpleNamespace(
                    serialize=lambda: bytes(serialized_timing_cache) + b"timed "
                )

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                return True

        class OnnxParser:
            num_errors = 0

            def __init__(self, network: Any, logger: Any) -> None:
                self._network = network

            def parse_from_file(self, model: str) -> bool:
                network, data = self._network, Path(model).read_bytes()
                graph = onnx.load_from_string(data).graph
                network.name, network.path, network.bytes = Path(model).stem, model, data
                inputs, outputs = list(map(Tensor, graph.input)), list(map(Tensor, graph.output))
                network.num_inputs, network.num_outputs = len(inputs), len(outputs)
                network.get_input, network.get_output = inputs.__getitem__, outputs.__getitem__
                return True

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
                if fake.refuses is not None:
                    self.logger.log(_Severity.ERROR, fake.refuses)
                    return None
                return Engine(fake, serialized_engine, self.logger)

        self.Builder, self.OnnxParser, self.Runtime = Builder, OnnxParser, Runtime


class Engine:
    """An engine that computes with ONNX Runtime."""

    def __init__(self, fake: FakeTensorRt, plan: bytes, logger: Any) -> None:
        import onnxruntime

        start = 8 + int.from_bytes(plan[4:8], "little")
        graph = onnx.load_from_string(plan[start:]).graph
        self.fake, self.logger = fake, logger
        self.inputs = {tensor.name: tensor for tensor in map(Tensor, graph.input)}
        self.outputs = {tensor.name: tensor for tensor in map(Tensor, graph.output)}
        self.session = onnxruntime.InferenceSession(plan[start:])
        self._names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self._names)
        self.device_memory_size_v2 = fake.scratch
        self.kernels = b""

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return {**self.inputs, **self.outputs}[name].dtype

    def get_tensor_mode(self, name: str) -> Any:
        return _Mode.INPUT if name in self.inputs else _Mode.OUTPUT

    def create_execution_context(self, strategy: Any = _Strategy.STATIC) -> Any:
        if self.fake.no_context:
            return None
        config = strategy if isinstance(strategy, RuntimeConfig) else None
        managed = strategy if config is None else config.strategy
        assert managed is _Strategy.USER_MANAGED
        return Context(self, config)

    def create_runtime_config(self) -> Any:
        assert self.fake.__name__ == "tensorrt_rtx"
        return RuntimeConfig(self)


class RuntimeConfig:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.strategy = engine, _Strategy.STATIC
        self.cuda_graph_strategy = _Graphs.DISABLED

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        engine = self.engine

        class Cache:
            def serialize(self) -> bytes:
                return engine.kernels

            def deserialize(self, blob: bytes) -> bool:
                engine.kernels = bytes(blob)
                return True

        return Cache()

    def set_runtime_cache(self, cache: Any) -> bool:
        return True


class Context:
    """An execution context: runs an engine for the shapes that were set."""

    def __init__(self, engine: Engine, config: RuntimeConfig | None) -> None:
        self.engine, self.config = engine, config
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = 0
        self.version = self.runs = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = memory
        self._changed()

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self.shapes[name] = tuple(shape)
        self._changed()
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        sizes: dict[str, int] = {}
        for tensor in self.engine.inputs.values():
            sizes.update(zip(tensor._edges, self.shapes[tensor.name], strict=True))
        return tuple(
            edge if isinstance(edge, int) else sizes[edge]
            for edge in self.engine.outputs[name]._edges
        )

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        self._changed()
        return True

    def _changed(self) -> None:
        self.version += 1
        self.runs = 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        fake, cuda = self.engine.fake, self.engine.fake.cuda
        stream = cuda.streams[stream_handle]
        if fake.breaks is not None:
            self.engine.logger.log(_Severity.ERROR, fake.breaks)
            fake.breaks = None
            return False
        if stream.recorded is not None:
            assert self.runs > 0, "recorded before a first run with these shapes"
        self.runs += 1
        version, addresses, shapes = self.version, dict(self.addresses), dict(self.shapes)
        if self.engine.device_memory_size_v2:
            assert self.memory in cuda.device, "no scratch memory"

        def work() -> None:
            assert self.version == version, "the context was changed after this was put or recorded"
            inputs = {}
            for name, tensor in self.engine.inputs.items():
                kind = np.dtype(tensor.dtype.value)
                count = int(np.prod(shapes[name]))
                raw = cuda._bytes(addresses[name])[: count * kind.itemsize]
                inputs[name] = np.frombuffer(bytes(raw), kind).reshape(shapes[name])
            names = list(self.engine.outputs)
            for name, array in zip(names, self.engine.session.run(names, inputs), strict=True):
                data, place = array.tobytes(), cuda._bytes(addresses[name])
                assert len(data) <= len(place)
                place[: len(data)] = data
            self.engine.kernels = b"kernels of " + repr(sorted(shapes.items())).encode()

        stream.put(work)
        return True
