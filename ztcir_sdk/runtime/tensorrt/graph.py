"""A graph run by TensorRT: pinned buffers, one stream, and a CUDA graph per shape."""

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

SHAPES_KEPT = 16
"""Number of shapes whose context and CUDA graph are kept: the most recently used ones."""


class TensorRtGraph:
    """A loaded engine. Threads may share it; they take turns, because it has one stream.

    Attributes:
        name: name of the graph.
        provider: TensorRT and its version.
        inputs: its inputs; `run` needs all of them.
        outputs: its outputs.
        limits: symbolic axis -> the maximum size that the engine accepts.
    """

    def __init__(
        self, stored: StoredEngine, trt: TensorRt, gpu: Gpu, settings: RuntimeSettings
    ) -> None:
        """Load an engine that `EngineCache.load` has checked.

        Raises:
            EngineError: TensorRT refuses it, or its tensors differ from its metadata.
            OutOfGpuMemoryError: the GPU does not have enough free memory.
        """
        self.name = stored.key.graph
        self.limits: Mapping[str, int] = {edge: sizes.most for edge, sizes in stored.ranges.items()}
        self.inputs, self.outputs = stored.inputs, stored.outputs
        self.provider = str(trt)
        self._ranges = stored.ranges
        self._lock = threading.Lock()
        self._engine = LoadedEngine(stored, trt, gpu, settings)
        self._low_memory = settings.low_memory
        # Last, since the lines above may fail; it also runs when the interpreter exits.
        self._close = weakref.finalize(self, self._engine.free)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute outputs by name; see `ztcir_sdk.runtime.protocol.Graph`."""
        names = check_call(self, inputs, outputs)
        self._check_sizes(inputs)
        with self._lock:
            if not self._close.alive:
                raise UsageError(f"The graph {self.name} was closed: open it again.")
            self._engine.gpu.use()
            try:
                return self._run(inputs, names)
            except OutOfGpuMemoryError:
                self._engine.release()  # other shapes are set up again when they are needed
            try:
                return self._run(inputs, names)
            except OutOfGpuMemoryError as error:
                self._engine.release()
                raise OutOfGpuMemoryError(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Free all memory; the graph cannot run any more."""
        with self._lock:
            self._close()

    def _check_sizes(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        for spec in self.inputs:
            for edge, size in zip(spec.shape, inputs[spec.name].shape, strict=True):
                if isinstance(edge, str):
                    sizes = self._ranges[edge]
                    if not sizes.least <= size <= sizes.most:
                        raise UsageError(
                            f"{spec.name} of the graph {self.name} has {edge} = {size}, but its "
                            f"engine accepts {sizes.least} to {sizes.most}: use smaller batches, "
                            "or build a larger engine with `ztcir export --trt`."
                        )

    def _run(self, inputs: Mapping[str, NDArray[Any]], names: list[str]) -> dict[str, NDArray[Any]]:
        engine = self._engine
        key = (tuple(inputs[spec.name].shape for spec in self.inputs), tuple(names))
        plan = self._plan(key)
        for spec in self.inputs:
            buffer = engine.buffers[spec.name].view(spec.dtype, plan.shapes[spec.name])
            np.copyto(buffer, inputs[spec.name])
        if plan.runs == 1 and plan.may_record:
            self._record(plan, names)
        if plan.recording is not None:
            engine.gpu.replay(plan.recording, engine.stream)
        else:
            try:
                self._enqueue(plan, names)
            except CudaError:
                with contextlib.suppress(CudaError):
                    engine.gpu.wait(engine.stream)  # enqueued copies use buffers that may be freed
                raise
        engine.gpu.wait(engine.stream)
        plan.runs += 1
        results = {}
        for spec in self.outputs:
            if spec.name in names:
                view = engine.buffers[spec.name].view(spec.dtype, plan.shapes[spec.name])
                results[spec.name] = view.copy()
        if plan.runs == 1:
            engine.save_kernels()
        if self._low_memory:
            engine.release()
        return {name: results[name] for name in names}

    def _plan(self, key: Key) -> Plan:
        """Return the plan of a shape; make one if there is none."""
        engine = self._engine
        if key in engine.plans:
            engine.plans.move_to_end(key)
            return engine.plans[key]
        context = engine.create_context()
        shapes: dict[str, tuple[int, ...]] = {}
        for spec, shape in zip(self.inputs, key[0], strict=True):
            if not context.set_input_shape(spec.name, shape):
                raise engine.failed(f"refused {spec.name} of shape {shape}")
            shapes[spec.name] = shape
        if missing := context.infer_shapes():
            raise engine.failed(f"cannot infer the shape of {', '.join(missing)}")
        for spec in self.outputs:
            shapes[spec.name] = tuple(context.get_tensor_shape(spec.name))
        everything = (*self.inputs, *self.outputs)
        sizes = (
            (spec.name, np.dtype(spec.dtype).itemsize * prod(shapes[spec.name]))
            for spec in everything
        )
        if too_small := engine.buffers.too_small(sizes):
            engine.forget_plans()  # every context and recording has the old addresses
            engine.buffers.grow(too_small)
        for spec in everything:
            context.set_tensor_address(spec.name, engine.buffers[spec.name].device)
        while len(engine.plans) >= SHAPES_KEPT:
            engine.forget_oldest_plan()
        engine.plans[key] = plan = Plan(context, shapes, may_record=engine.may_record)
        return plan

    def _enqueue(self, plan: Plan, names: list[str]) -> None:
        """Enqueue the copies and the work."""
        engine, stream = self._engine, self._engine.stream
        for spec in self.inputs:
            buffer = engine.buffers[spec.name]
            engine.gpu.upload(buffer.device, buffer.host, self._bytes(spec, plan), stream)
        with engine.trt.listening() as messages:
            if not plan.context.execute_async_v3(int(stream)):
                raise engine.failed("failed", list(messages))
        for spec in self.outputs:
            if spec.name in names:
                buffer = engine.buffers[spec.name]
                engine.gpu.download(buffer.host, buffer.device, self._bytes(spec, plan), stream)

    def _record(self, plan: Plan, names: list[str]) -> None:
        """Record a shape on its second run: the first run has set everything up."""
        engine = self._engine
        try:
            plan.recording = engine.gpu.record(engine.stream, lambda: self._enqueue(plan, names))
        except CudaError:  # run it without a recording
            plan.may_record = False

    def _bytes(self, spec: TensorSpec, plan: Plan) -> int:
        return np.dtype(spec.dtype).itemsize * prod(plan.shapes[spec.name])
