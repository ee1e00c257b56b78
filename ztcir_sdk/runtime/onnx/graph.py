"""A graph run by ONNX Runtime: on the processor, or on an NVIDIA GPU through CUDA or TensorRT."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import BundleError, ZtcirError, first_line
from ztcir_sdk.runtime.onnx.devices import resolve_device
from ztcir_sdk.runtime.onnx.providers import (
    CPU,
    TENSORRT,
    choose_providers,
    import_onnxruntime,
    not_loaded,
)
from ztcir_sdk.runtime.onnx.trial import PLACEMENT, placement
from ztcir_sdk.runtime.protocol import TensorSpec, check_call, sizes_of
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
    """An ONNX file, loaded. `run` may be called by any number of threads at the same time.

    Attributes:
        name: the file's name without suffix, for messages.
        path: the file.
        threads: processor threads that work on one call.
        limits: symbolic axis -> the largest size that it takes, where there is one.
        nodes: on a GPU, execution provider -> how many nodes it was given, where that is told.
    """

    def __init__(
        self,
        graph: str | os.PathLike[str] | GraphSource,
        settings: RuntimeSettings | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: the ``.onnx`` file; external tensor data lies beside it.
            settings: by default, the device that is there.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            BundleError: the file is missing, or no graph that this ONNX Runtime can load.
            ZtcirError: CUDA or TensorRT was asked for and cannot be used.
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

        options = self._options(ort, settings)
        providers = choose_providers(ort, settings, source)
        try:
            # Without `enable_fallback=0` a provider that fails is replaced, at loading and at
            # running, with a line on standard output.
            self._session = ort.InferenceSession(
                os.fspath(path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # its exceptions have no common base but this
            why, signs = first_line(error), str(error).lower()
            if _is_out_of_memory(signs):
                raise ZtcirError(
                    f"There is no memory left to load the graph {self.name} on {settings.device} "
                    f"({why}): close what else uses the memory, or choose another device."
                ) from error
            if settings.device == "cpu" or any(sign in signs for sign in _NO_GRAPH):
                raise BundleError(
                    f"The graph {path} cannot be loaded ({why}): "
                    "export or copy the bundle again, or upgrade onnxruntime."
                ) from error
            raise not_loaded(settings, why) from error
        self._session.disable_fallback()
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        used: list[str] = self._session.get_providers()
        if used[0] != wanted:
            raise not_loaded(settings, f"its libraries did not load, and {used[0]} would run")
        self.nodes: Mapping[str, int] = {} if wanted == CPU else placement(self._session)
        if self.nodes and wanted not in self.nodes:
            others = ", ".join(sorted(self.nodes))
            raise not_loaded(settings, f"it took no node of {self.name}, and {others} would run")
        self._provider = used[0]
        self._inputs = tuple(map(_spec, self._session.get_inputs()))
        self._outputs = tuple(map(_spec, self._session.get_outputs()))
        self.limits: Mapping[str, int] = (
            {edge: sizes.most for edge, sizes in source().ranges.items()}
            if self._provider == TENSORRT
            else {}
        )
        self._run_options = None
        if settings.low_memory and settings.device != "cpu":
            self._run_options = ort.RunOptions()
            number = settings.device.partition(":")[2]
            self._run_options.add_run_config_entry(
                "memory.enable_memory_arena_shrinkage", f"gpu:{number}"
            )

    def _options(self, ort: Any, settings: RuntimeSettings) -> Any:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ONLY_ERRORS
        # Idle threads would spin, each graph's against the next graph's: on two busy cores that
        # made the median run four times as slow.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if settings.device != "cpu":
            options.add_session_config_entry(PLACEMENT, "1")
        if settings.low_memory:
            options.enable_cpu_mem_arena = False
        return options

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider in use."""
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
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        results = self._place(names, sizes_of(self._inputs, inputs))
        binding = self._session.io_binding()
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
            self._session.run_with_iobinding(binding, self._run_options)
            if results is None:
                results = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
        except Exception as error:  # its exceptions have no common base but this
            raise self._failed(first_line(error)) from error
        return results

    def _place(self, names: list[str], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]] | None:
        """Return arrays for the outputs to be written into; None if a shape is not known yet."""
        arrays: dict[str, NDArray[Any]] = {}
        for spec in self._outputs:
            if spec.name in names:
                shape = [
                    sizes.get(edge, 0) if isinstance(edge, str) else edge for edge in spec.shape
                ]
                if 0 in shape or spec.dtype not in _DTYPES.values():
                    return None
                arrays[spec.name] = np.empty(shape, dtype=spec.dtype)
        return {name: arrays[name] for name in names}

    def _failed(self, why: str) -> ZtcirError:
        if _is_out_of_memory(why):
            return ZtcirError(
                f"There is no memory left to run the graph {self.name} on {self._provider} "
                f"({why}): ask for less at once, close what else uses the memory, or let less of "
                "it be kept with low_memory."
            )
        return ZtcirError(
            f"The graph {self.name} failed on {self._provider} ({why}): check what it was given, "
            "or choose another backend or device."
        )


def _is_out_of_memory(why: str) -> bool:
    return any(sign in why.lower() for sign in _OUT_OF_MEMORY)


def _spec(node: Any) -> TensorSpec:
    shape = (
        edge if isinstance(edge, int) else edge or f"{node.name}.{axis}"
        for axis, edge in enumerate(node.shape)
    )
    return TensorSpec(node.name, _DTYPES.get(node.type, str(node.type)), tuple(shape))
