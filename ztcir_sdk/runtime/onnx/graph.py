"""A graph run by ONNX Runtime: on the CPU, an NVIDIA GPU, or a device of another maker."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import EXPORT_AGAIN, BundleError, ZtcirError, first_line
from ztcir_sdk.runtime.onnx.devices import resolve_device
from ztcir_sdk.runtime.onnx.named import NAMED_DEVICES
from ztcir_sdk.runtime.onnx.optimised import open_optimised
from ztcir_sdk.runtime.onnx.preload import CPU, TENSORRT
from ztcir_sdk.runtime.onnx.providers import choose_providers, import_onnxruntime, provider_error
from ztcir_sdk.runtime.onnx.trial import PLACEMENT, placement
from ztcir_sdk.runtime.protocol import TensorSpec, axis_sizes, check_call, check_outputs
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.source import GraphSource, missing_graph

__all__ = ["OnnxGraph", "import_onnxruntime"]

_ONLY_ERRORS = 3  # log severity

_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "cuda failure 2:")
_NO_GRAPH = (
    "invalid_graph",
    "invalid_protobuf",
    "not_implemented",
    "is not a registered function",
    "protobuf parsing failed",
)
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxGraph:
    """A loaded ONNX file. Any number of threads may call `run` at the same time.

    Attributes:
        name: file name without suffix, for messages.
        path: the ``.onnx`` file.
        threads: CPU threads that work on one call.
        provider: name of the execution provider in use.
        inputs: its inputs; `run` needs all of them.
        outputs: its outputs.
        limits: symbolic axis -> its maximum size, if it has one.
        nodes: execution provider -> number of its nodes, on a GPU, if ONNX Runtime reports it.
    """

    def __init__(
        self,
        graph: str | os.PathLike[str] | GraphSource,
        settings: RuntimeSettings | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: the ``.onnx`` file; external tensor data is in the same folder.
            settings: by default, device "auto".

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            BundleError: the file is missing, or this ONNX Runtime cannot load it.
            ZtcirError: the requested device cannot be used.
            UsageError: there is no such device.
        """
        settings = settings or RuntimeSettings()
        device = resolve_device(settings.device, settings.backend)
        settings = replace(settings, device=device)
        ort = import_onnxruntime()
        self.path = path = graph.path if isinstance(graph, GraphSource) else Path(graph)
        self.name = path.stem
        self.threads = settings.threads_in_use
        if not path.is_file():
            raise missing_graph(path)

        def source() -> GraphSource:
            return graph if isinstance(graph, GraphSource) else GraphSource.of_file(path)

        providers = choose_providers(ort, settings, source)
        session = None
        if providers == [CPU] and isinstance(graph, GraphSource):
            session = open_optimised(
                ort,
                graph,
                lambda: self._options(ort, settings),
                lambda file, options: _session(ort, file, options, providers),
            )
        self._session = session or self._open_session(ort, settings, providers)
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        used: list[str] = self._session.get_providers()
        if used[0] != wanted:
            raise provider_error(settings, f"ONNX Runtime would run {used[0]} instead")
        self.nodes: Mapping[str, int] = {} if wanted == CPU else placement(self._session)
        if self.nodes and wanted not in self.nodes:
            others = ", ".join(sorted(self.nodes))
            raise provider_error(
                settings, f"it supports no node of {self.name}, and {others} would run"
            )
        self.provider = used[0]
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))
        self.limits: Mapping[str, int] = (
            {edge: sizes.most for edge, sizes in source().ranges.items()}
            if self.provider == TENSORRT
            else {}
        )
        self._timeout = settings.run_timeout
        self._shrinks = settings.low_memory and settings.device.startswith("cuda")
        self._device_number = settings.device.partition(":")[2]
        self._run_options = self._new_run_options() if self._shrinks else None

    def _new_run_options(self) -> Any:
        options = import_onnxruntime().RunOptions()
        if self._shrinks:
            options.add_run_config_entry(
                "memory.enable_memory_arena_shrinkage", f"gpu:{self._device_number}"
            )
        return options

    def _open_session(self, ort: Any, settings: RuntimeSettings, providers: list[Any]) -> Any:
        """Load the file without a fallback.

        With one, another provider replaces a provider that fails, when loading and when running,
        and a line goes to standard output.
        """
        options = self._options(ort, settings)
        try:
            return _session(ort, self.path, options, providers)
        except Exception as error:  # its exceptions have no other common base
            why, message = first_line(error), str(error).lower()
            if _is_out_of_memory(message):
                raise ZtcirError(
                    f"There is not enough memory to load the graph {self.name} on "
                    f"{settings.device} ({why}): close other programs that use it, or choose "
                    "another device."
                ) from error
            if settings.device == "cpu" or any(sign in message for sign in _NO_GRAPH):
                raise BundleError(
                    f"The graph {self.path} cannot be loaded ({why}): "
                    f"{EXPORT_AGAIN}, or upgrade onnxruntime."
                ) from error
            raise provider_error(settings, why) from error

    def _options(self, ort: Any, settings: RuntimeSettings) -> Any:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ONLY_ERRORS
        # Idle threads of one graph would spin and slow down the next graph: on two busy cores the
        # median time was four times as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if settings.device != "cpu":
            options.add_session_config_entry(PLACEMENT, "1")
        named = NAMED_DEVICES.get(settings.device)
        if named is not None and named.plain_memory:
            options.enable_mem_pattern = False
        if settings.low_memory:
            options.enable_cpu_mem_arena = False
        return options

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute outputs by name; see `ztcir_sdk.runtime.protocol.Graph`."""
        names = check_call(self, inputs, outputs)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        results = self._empty_outputs(names, axis_sizes(self.inputs, inputs))
        binding = self._session.io_binding()
        options, timer = self._run_options, None
        if self._timeout is not None:
            options = self._new_run_options()
            timer = _Deadline(self._timeout, options)
        try:
            for name, array in arrays.items():
                binding.bind_cpu_input(name, array)
            for name in names:
                if results is None:
                    binding.bind_output(name)
                else:
                    array = results[name]
                    binding.bind_output(
                        name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
                    )
            self._session.run_with_iobinding(binding, options)
            if results is None:
                results = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
        except Exception as error:  # its exceptions have no other common base
            if timer is not None and timer.fired:
                raise ZtcirError(
                    f"The graph {self.name} did not end within {self._timeout:g} seconds: allow "
                    "more with run_timeout, or use another bundle."
                ) from error
            raise self._run_error(first_line(error)) from error
        finally:
            if timer is not None:
                timer.cancel()
        check_outputs(self, inputs, results)
        return results

    def _empty_outputs(
        self, names: list[str], sizes: Mapping[str, int]
    ) -> dict[str, NDArray[Any]] | None:
        """Return empty arrays for the outputs; None if a shape is not known before the run."""
        arrays: dict[str, NDArray[Any]] = {}
        for spec in self.outputs:
            if spec.name in names:
                shape = [
                    sizes.get(edge, 0) if isinstance(edge, str) else edge for edge in spec.shape
                ]
                if 0 in shape or spec.dtype not in _DTYPES.values():
                    return None
                arrays[spec.name] = np.empty(shape, dtype=spec.dtype)
        return {name: arrays[name] for name in names}

    def _run_error(self, why: str) -> ZtcirError:
        if _is_out_of_memory(why):
            return ZtcirError(
                f"There is not enough memory to run the graph {self.name} on {self.provider} "
                f"({why}): use smaller batches, close other programs that use it, or set "
                "low_memory."
            )
        return ZtcirError(
            f"The graph {self.name} failed on {self.provider} ({why}): check its inputs, or "
            "choose another backend or device."
        )


class _Deadline:
    """Ends a run of ONNX Runtime after some seconds, between two of its nodes.

    Attributes:
        fired: whether it did.
    """

    def __init__(self, seconds: float, options: Any) -> None:
        self.fired = False
        self._options = options
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True
        self._timer.start()

    def _fire(self) -> None:
        self.fired = True
        self._options.terminate = True

    def cancel(self) -> None:
        """Let the run go on."""
        self._timer.cancel()


def _session(ort: Any, file: Path, options: Any, providers: list[Any]) -> Any:
    session = ort.InferenceSession(os.fspath(file), options, providers=providers, enable_fallback=0)
    session.disable_fallback()
    return session


def _is_out_of_memory(why: str) -> bool:
    return any(sign in why.lower() for sign in _OUT_OF_MEMORY)


def _spec(node: Any) -> TensorSpec:
    shape = (
        edge if isinstance(edge, int) else edge or f"{node.name}.{axis}"
        for axis, edge in enumerate(node.shape)
    )
    return TensorSpec(node.name, _DTYPES.get(node.type, str(node.type)), tuple(shape))
