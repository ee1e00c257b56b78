"""A graph run by TensorRT itself: pinned buffers, one stream, and a CUDA graph for each shape."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError
from ztcir_sdk.runtime.protocol import TensorSpec, check_call
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.tensorrt.cache import StoredEngine
from ztcir_sdk.runtime.tensorrt.cuda import CudaError, Gpu, OutOfGpuMemoryError
from ztcir_sdk.runtime.tensorrt.loaded_engine import Key, LoadedEngine, Plan
from ztcir_sdk.runtime.tensorrt.package import TensorRt

__all__ = ["TensorRtGraph"]

SHAPES_KEPT = 16
"""Shapes whose context and CUDA graph are kept, the last used ones."""


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
        self._held = LoadedEngine(stored, trt, gpu, settings)
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
        names = check_call(self, inputs, outputs)
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
            try:
                self._enqueue(plan, names)
            except CudaError:
                with contextlib.suppress(CudaError):
                    held.gpu.wait(held.stream)  # copies may wait there, for buffers that may go
                raise
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

    def _plan(self, key: Key) -> Plan:
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
        held.plans[key] = plan = Plan(context, shapes, may_record=held.may_record)
        return plan

    def _enqueue(self, plan: Plan, names: list[str]) -> None:
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

    def _record(self, plan: Plan, names: list[str]) -> None:
        """Record a shape that came for the second time: the first run has set everything up."""
        held = self._held
        try:
            plan.recording = held.gpu.record(held.stream, lambda: self._enqueue(plan, names))
        except CudaError:  # what cannot be recorded is simply run
            plan.may_record = False

    def _bytes(self, spec: TensorSpec, plan: Plan) -> int:
        return np.dtype(spec.dtype).itemsize * prod(plan.shapes[spec.name])
