"""An engine on a GPU with its contexts, recordings, buffers and stream."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ztcir_sdk.files import write_whole
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.tensorrt.build import tensor_types
from ztcir_sdk.runtime.tensorrt.cache import EngineError, StoredEngine
from ztcir_sdk.runtime.tensorrt.cuda import CudaError, Gpu, OutOfGpuMemoryError
from ztcir_sdk.runtime.tensorrt.gpu_buffers import Buffers
from ztcir_sdk.runtime.tensorrt.package import TensorRt, last_message

Key = tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]
"""Shapes of the inputs, names of the requested outputs."""


@dataclass
class Plan:
    """The setup for one shape. A context must not change once its work is recorded."""

    context: Any
    shapes: dict[str, tuple[int, ...]]
    recording: Any = None
    runs: int = 0
    may_record: bool = True


class LoadedEngine:
    """Everything that a graph holds on the GPU; `free` frees it in the right order."""

    def __init__(
        self, stored: StoredEngine, trt: TensorRt, gpu: Gpu, settings: RuntimeSettings
    ) -> None:
        self.trt, self.gpu, self.name = trt, gpu, stored.key.graph
        self.plans: OrderedDict[Key, Plan] = OrderedDict()
        self.buffers = Buffers(gpu, settings.gpu_memory)
        self.may_record = settings.cuda_graphs and not trt.is_rtx
        self._kernel_file, self._saved = stored.kernel_file, b""
        self._kernels: Any = None
        gpu.use()
        with trt.listening() as messages:
            self._runtime = trt.module.Runtime(trt.logger)
            engine = self._runtime.deserialize_cuda_engine(stored.plan)
            if engine is None:
                raise _load_error(stored, gpu, list(messages))
        self.engine = engine
        _check_tensors(stored, trt, engine)
        self._config = self._runtime_config(settings) if trt.is_rtx else None
        self.scratch = 0
        self.stream = gpu.create_stream()
        try:
            if size := int(engine.device_memory_size_v2):
                self.scratch = gpu.allocate(size)
            self.scratch_size = size
        except BaseException:
            gpu.destroy_stream(self.stream)
            raise

    def create_context(self) -> Any:
        """Return a context; all contexts share one scratch memory and run one at a time."""
        strategy = self.trt.module.ExecutionContextAllocationStrategy.USER_MANAGED
        with self.trt.listening() as messages:
            context = self.engine.create_execution_context(
                strategy if self._config is None else self._config
            )
            if context is None:
                if self.gpu.memory()[0] < 64 << 20:
                    raise OutOfGpuMemoryError(
                        f"{self.gpu} does not have enough memory for another shape: close other "
                        "programs that use the GPU, or use device cpu."
                    )
                raise self.failed("could not make a context", list(messages))
        if self.scratch:
            context.set_device_memory(self.scratch, self.scratch_size)
        return context

    def failed(self, what: str, messages: list[str] | None = None) -> CudaError:
        """Return an error with TensorRT's last message."""
        why = f" ({last_message(messages)})" if messages else ""
        return CudaError(
            f"{self.trt} {what} in {self.name} on {self.gpu}{why}: try again, or use backend onnx."
        )

    def forget_oldest_plan(self) -> None:
        """Drop the plan of the least recently used shape."""
        _, plan = self.plans.popitem(last=False)
        if plan.recording is not None:
            self.gpu.destroy_recording(plan.recording)

    def forget_plans(self) -> None:
        """Drop all plans."""
        while self.plans:
            self.forget_oldest_plan()

    def release(self) -> None:
        """Drop all plans and buffers; the next run makes those that it needs."""
        self.forget_plans()
        self.buffers.free()

    def save_kernels(self) -> None:
        """Save the kernels that TensorRT for RTX compiled; the next process starts faster."""
        if self._kernels is None:
            return
        data = bytes(self._kernels.serialize())
        if data and data != self._saved:
            self._saved = data
            with contextlib.suppress(OSError):  # the next process only starts more slowly
                write_whole(self._kernel_file, data)

    def free(self) -> None:
        """Free everything."""
        with contextlib.suppress(CudaError):
            self.gpu.use()
            self.save_kernels()  # some are compiled in the background, after the first run
            self.release()
            if self.scratch:
                self.gpu.free(self.scratch)
                self.scratch = 0
            self.gpu.destroy_stream(self.stream)
        self.engine = self._runtime = self._config = self._kernels = None

    def _runtime_config(self, settings: RuntimeSettings) -> Any:
        """Return a configuration of TensorRT for RTX: its own CUDA graphs, and saved kernels."""
        module = self.trt.module
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if settings.cuda_graphs:
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._kernels = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._kernels.deserialize(
                self._kernel_file.read_bytes()
            )  # TensorRT ignores kernels that do not match
        config.set_runtime_cache(self._kernels)
        return config


def _load_error(stored: StoredEngine, gpu: Gpu, messages: list[str]) -> EngineError | CudaError:
    why = last_message(messages)
    if "memory" in why.lower() and gpu.memory()[0] < 2 * len(stored.plan):
        return OutOfGpuMemoryError(
            f"{gpu} does not have enough memory for the engine of {stored.key.graph} "
            f"({len(stored.plan) >> 20} MiB): close other programs that use the GPU, or use "
            "device cpu."
        )
    return EngineError(
        f"The engine {stored.path} cannot be loaded ({why}): `ztcir export --trt --rebuild` builds "
        "it again."
    )


def _check_tensors(stored: StoredEngine, trt: TensorRt, engine: Any) -> None:
    """Check that an engine has the tensors of its metadata."""
    names, mode = tensor_types(trt.module), trt.module.TensorIOMode
    found: dict[Any, set[tuple[str, str]]] = {mode.INPUT: set(), mode.OUTPUT: set()}
    for i in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(i)
        kind = names.get(engine.get_tensor_dtype(tensor), "?")
        found[engine.get_tensor_mode(tensor)].add((tensor, kind))
    declared = [
        {(spec.name, spec.dtype) for spec in specs} for specs in (stored.inputs, stored.outputs)
    ]
    if [found[mode.INPUT], found[mode.OUTPUT]] != declared:
        raise EngineError(
            f"The inputs or outputs of engine {stored.path} differ from its metadata: "
            "`ztcir export --trt --rebuild` builds it again."
        )
