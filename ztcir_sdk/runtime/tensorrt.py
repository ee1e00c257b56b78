"""A graph run by TensorRT itself: pinned buffers, one stream, and a CUDA graph for each shape."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError
from ztcir_sdk.runtime.cuda import CudaError, Gpu, OutOfGpuMemoryError
from ztcir_sdk.runtime.engine_cache import EngineError, StoredEngine, write_whole
from ztcir_sdk.runtime.gpu_buffers import Buffers
from ztcir_sdk.runtime.protocol import TensorSpec, check_inputs, check_outputs
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.tensorrt_build import tensor_types
from ztcir_sdk.runtime.tensorrt_package import TensorRt

__all__ = ["TensorRtGraph"]

SHAPES_KEPT = 16
"""Shapes whose context and CUDA graph are kept, the last used ones."""

_Key = tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]
"""Shapes of the inputs, names of the outputs that are fetched."""


@dataclass
class _Plan:
    """What is ready for one shape. A context must not be changed once its work is recorded."""

    context: Any
    shapes: dict[str, tuple[int, ...]]
    recording: Any = None
    runs: int = 0
    may_record: bool = True


class TensorRtGraph:
    """An engine, loaded. Threads may share one; they take turns, as there is one stream.

    Attributes:
        name: of the graph.
        limits: symbolic axis -> the largest size that the engine takes.
    """

    def __init__(
        self, stored: StoredEngine, trt: TensorRt, gpu: Gpu, settings: RuntimeSettings
    ) -> None:
        """Load an engine that `EngineCache.load` has checked.

        Raises:
            EngineError: TensorRT refuses it, or it is not what is said of it.
            OutOfGpuMemoryError: the GPU has not enough memory left.
        """
        self.name = stored.key.graph
        self.limits: Mapping[str, int] = {edge: sizes.most for edge, sizes in stored.ranges.items()}
        self._inputs, self._outputs = stored.inputs, stored.outputs
        self._provider = str(trt)
        self._ranges = stored.ranges
        self._lock = threading.Lock()
        self._held = _Held(stored, trt, gpu, settings)
        self._low_memory = settings.low_memory
        # After everything else that may fail; also run when the interpreter ends.
        self._close = weakref.finalize(self, self._held.free)

    @property
    def provider(self) -> str:
        """TensorRT and its version."""
        return self._provider

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be given."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` can answer."""
        return self._outputs

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute outputs by name; see `ztcir_sdk.runtime.protocol.Graph`."""
        names = [spec.name for spec in self._outputs] if outputs is None else list(outputs)
        check_inputs(self.name, self._inputs, inputs)
        check_outputs(self.name, self._outputs, names)
        self._check_sizes(inputs)
        with self._lock:
            if not self._close.alive:
                raise UsageError(f"The graph {self.name} was closed: open it again.")
            self._held.gpu.use()
            try:
                return self._run(inputs, names)
            except OutOfGpuMemoryError:
                self._held.release()  # what is kept for other shapes can be made again
            try:
                return self._run(inputs, names)
            except OutOfGpuMemoryError as error:
                self._held.release()
                raise OutOfGpuMemoryError(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Give back all memory; the graph cannot be run any more."""
        with self._lock:
            self._close()

    def _check_sizes(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        for spec in self._inputs:
            for edge, size in zip(spec.shape, inputs[spec.name].shape, strict=True):
                if isinstance(edge, str):
                    sizes = self._ranges[edge]
                    if not sizes.least <= size <= sizes.most:
                        raise UsageError(
                            f"{spec.name} of the graph {self.name} has {edge} = {size}, and its "
                            f"engine takes {sizes.least} to {sizes.most}: give less at once, or "
                            "build it for more with `ztcir export --trt`."
                        )

    def _run(self, inputs: Mapping[str, NDArray[Any]], names: list[str]) -> dict[str, NDArray[Any]]:
        held = self._held
        key = (tuple(inputs[spec.name].shape for spec in self._inputs), tuple(names))
        plan = self._plan(key)
        for spec in self._inputs:
            place = held.buffers[spec.name].view(spec.dtype, plan.shapes[spec.name])
            np.copyto(place, inputs[spec.name])
        if plan.runs == 1 and plan.may_record:
            self._record(plan, names)
        if plan.recording is not None:
            held.gpu.replay(plan.recording, held.stream)
        else:
            self._enqueue(plan, names)
        held.gpu.wait(held.stream)
        plan.runs += 1
        results = {}
        for spec in self._outputs:
            if spec.name in names:
                view = held.buffers[spec.name].view(spec.dtype, plan.shapes[spec.name])
                results[spec.name] = view.copy()
        if plan.runs == 1:
            held.save_kernels()
        if self._low_memory:
            held.release()
        return {name: results[name] for name in names}

    def _plan(self, key: _Key) -> _Plan:
        """Return what is ready for a shape, or make it ready."""
        held = self._held
        if key in held.plans:
            held.plans.move_to_end(key)
            return held.plans[key]
        context = held.create_context()
        shapes: dict[str, tuple[int, ...]] = {}
        for spec, shape in zip(self._inputs, key[0], strict=True):
            if not context.set_input_shape(spec.name, shape):
                raise held.failed(f"refused {spec.name} of shape {shape}")
            shapes[spec.name] = shape
        if missing := context.infer_shapes():
            raise held.failed(f"does not know the shape of {', '.join(missing)}")
        for spec in self._outputs:
            shapes[spec.name] = tuple(context.get_tensor_shape(spec.name))
        everything = (*self._inputs, *self._outputs)
        sizes = (
            (spec.name, np.dtype(spec.dtype).itemsize * prod(shapes[spec.name]))
            for spec in everything
        )
        if too_small := held.buffers.too_small(sizes):
            held.forget()  # their addresses are in every context and recording
            held.buffers.grow(too_small)
        for spec in everything:
            context.set_tensor_address(spec.name, held.buffers[spec.name].device)
        while len(held.plans) >= SHAPES_KEPT:
            held.forget_oldest()
        held.plans[key] = plan = _Plan(context, shapes, may_record=held.may_record)
        return plan

    def _enqueue(self, plan: _Plan, names: list[str]) -> None:
        """Put copies and work on the stream."""
        held, stream = self._held, self._held.stream
        for spec in self._inputs:
            buffer = held.buffers[spec.name]
            held.gpu.upload(buffer.device, buffer.host, self._bytes(spec, plan), stream)
        with held.trt.listening() as messages:
            if not plan.context.execute_async_v3(int(stream)):
                raise held.failed("failed", list(messages))
        for spec in self._outputs:
            if spec.name in names:
                buffer = held.buffers[spec.name]
                held.gpu.download(buffer.host, buffer.device, self._bytes(spec, plan), stream)

    def _record(self, plan: _Plan, names: list[str]) -> None:
        """Record a shape that came for the second time: the first run has set everything up."""
        held = self._held
        try:
            plan.recording = held.gpu.record(held.stream, lambda: self._enqueue(plan, names))
        except CudaError:  # what cannot be recorded is simply run
            plan.may_record = False

    def _bytes(self, spec: TensorSpec, plan: _Plan) -> int:
        return np.dtype(spec.dtype).itemsize * prod(plan.shapes[spec.name])


class _Held:
    """All that a graph holds on the GPU, freed in the right order."""

    def __init__(
        self, stored: StoredEngine, trt: TensorRt, gpu: Gpu, settings: RuntimeSettings
    ) -> None:
        self.trt, self.gpu, self.name = trt, gpu, stored.key.graph
        self.plans: OrderedDict[_Key, _Plan] = OrderedDict()
        self.buffers = Buffers(gpu, settings.gpu_memory)
        self.may_record = settings.cuda_graphs and not trt.is_rtx
        self._kernel_file, self._saved = stored.kernel_file, b""
        self._kernels: Any = None
        gpu.use()
        with trt.listening() as messages:
            self._runtime = trt.module.Runtime(trt.logger)
            engine = self._runtime.deserialize_cuda_engine(stored.plan)
            if engine is None:
                raise _refused(stored, gpu, list(messages))
        self.engine = engine
        _check_engine(stored, trt, engine)
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
        """Return a context that works in the scratch memory shared by all, one at a time."""
        strategy = self.trt.module.ExecutionContextAllocationStrategy.USER_MANAGED
        with self.trt.listening() as messages:
            context = self.engine.create_execution_context(
                strategy if self._config is None else self._config
            )
            if context is None:
                if self.gpu.memory()[0] < 64 << 20:
                    raise OutOfGpuMemoryError(
                        f"{self.gpu} has no memory left for another shape: close what else uses "
                        "the GPU, or use device cpu."
                    )
                raise self.failed("could not make a context", list(messages))
        if self.scratch:
            context.set_device_memory(self.scratch, self.scratch_size)
        return context

    def failed(self, what: str, messages: list[str] | None = None) -> CudaError:
        """Return an error with what TensorRT said."""
        why = f" ({' '.join(messages[-1].split())[:300]})" if messages else ""
        return CudaError(
            f"{self.trt} {what} in {self.name} on {self.gpu}{why}: try again, or use backend onnx."
        )

    def forget_oldest(self) -> None:
        """Drop the shape that was not used for longest."""
        _, plan = self.plans.popitem(last=False)
        if plan.recording is not None:
            self.gpu.destroy_recording(plan.recording)

    def forget(self) -> None:
        """Drop every shape."""
        while self.plans:
            self.forget_oldest()

    def release(self) -> None:
        """Drop every shape and the buffers; the next run makes what it needs."""
        self.forget()
        self.buffers.free()

    def save_kernels(self) -> None:
        """Save the kernels that TensorRT for RTX finished, for the next process to start with."""
        if self._kernels is None:
            return
        data = bytes(self._kernels.serialize())
        if data and data != self._saved:
            self._saved = data
            with contextlib.suppress(OSError):  # the next process only starts more slowly
                write_whole(self._kernel_file, data)

    def free(self) -> None:
        """Give everything back."""
        with contextlib.suppress(CudaError):
            self.gpu.use()
            self.save_kernels()  # some are finished in the background, after a first run
            self.release()
            if self.scratch:
                self.gpu.free(self.scratch)
                self.scratch = 0
            self.gpu.destroy_stream(self.stream)
        self.engine = self._runtime = self._config = self._kernels = None

    def _runtime_config(self, settings: RuntimeSettings) -> Any:
        """Let TensorRT for RTX record its own CUDA graphs, and reuse kernels finished before."""
        module = self.trt.module
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if settings.cuda_graphs:
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._kernels = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._kernels.deserialize(self._kernel_file.read_bytes())  # refused if it does not fit
        config.set_runtime_cache(self._kernels)
        return config


def _refused(stored: StoredEngine, gpu: Gpu, messages: list[str]) -> EngineError | CudaError:
    why = " ".join(messages[-1].split())[:300] if messages else "it does not say why"
    if "memory" in why.lower() and gpu.memory()[0] < 2 * len(stored.plan):
        return OutOfGpuMemoryError(
            f"{gpu} has no memory left for the engine of {stored.key.graph} "
            f"({len(stored.plan) >> 20} MiB): close what else uses the GPU, or use device cpu."
        )
    return EngineError(
        f"The engine {stored.path} does not load ({why}): `ztcir export --trt --rebuild` builds "
        "it again."
    )


def _check_engine(stored: StoredEngine, trt: TensorRt, engine: Any) -> None:
    """Check that an engine has the tensors that are said of it."""
    names, mode = tensor_types(trt.module), trt.module.TensorIOMode
    found: dict[Any, set[tuple[str, str]]] = {mode.INPUT: set(), mode.OUTPUT: set()}
    for i in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(i)
        kind = names.get(engine.get_tensor_dtype(tensor), "?")
        found[engine.get_tensor_mode(tensor)].add((tensor, kind))
    said = (
        {(spec.name, spec.dtype) for spec in specs} for specs in (stored.inputs, stored.outputs)
    )
    if [found[mode.INPUT], found[mode.OUTPUT]] != list(said):
        raise EngineError(
            f"The engine {stored.path} has other inputs or outputs than are said of it: "
            "`ztcir export --trt --rebuild` builds it again."
        )
