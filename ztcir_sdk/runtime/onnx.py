"""A graph run by ONNX Runtime, on the processor or on an NVIDIA GPU through CUDA."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import BundleError, MissingDependencyError, UsageError, ZtcirError
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.protocol import TensorSpec, check_inputs, check_outputs

__all__ = ["OnnxGraph", "import_onnxruntime"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ONLY_ERRORS = 3  # log severity

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
    """

    def __init__(
        self, path: str | os.PathLike[str], *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Load a graph.

        Args:
            path: the ``.onnx`` file; external tensor data lies beside it.
            device: "cpu", or "cuda:N" for the GPU of that number.
            threads: processor threads for one call; by default one a core that this process may
                use (`available_cores`).

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            BundleError: the file is missing, or no graph that this ONNX Runtime can load.
            ZtcirError: CUDA was asked for and cannot be used.
            UsageError: another device, or `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, not {threads}.")
        ort = import_onnxruntime()
        self.path = Path(path)
        self.name = self.path.stem
        self.threads = available_cores() if threads is None else threads
        if not self.path.is_file():
            raise BundleError(f"The graph {self.path} is missing: export or copy the bundle again.")

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ONLY_ERRORS
        # Idle threads would spin, each graph's against the next graph's: on two busy cores that
        # made the median run four times as slow.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = _providers(ort, device)
        try:
            # Without `enable_fallback=0` a provider that fails is replaced, at loading and at
            # running, with a line on standard output.
            self._session = ort.InferenceSession(
                os.fspath(self.path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # its exceptions have no common base but this
            if device == "cpu":
                raise BundleError(
                    f"The graph {self.path} cannot be loaded ({_reason(error)}): "
                    "export or copy the bundle again, or upgrade onnxruntime."
                ) from error
            raise _no_cuda(device, _reason(error)) from error
        self._session.disable_fallback()
        used: list[str] = self._session.get_providers()
        if device != "cpu" and used[0] != _CUDA:
            raise _no_cuda(device, "its libraries did not load")
        self._provider = used[0]
        self._inputs = tuple(map(_spec, self._session.get_inputs()))
        self._outputs = tuple(map(_spec, self._session.get_outputs()))

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
        names = [spec.name for spec in self._outputs] if outputs is None else list(outputs)
        check_inputs(self.name, self._inputs, inputs)
        check_outputs(self.name, self._outputs, names)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            values = self._session.run(names, arrays)
        except Exception as error:  # its exceptions have no common base but this
            raise ZtcirError(
                f"The graph {self.name} failed on {self._provider} ({_reason(error)})."
            ) from error
        return dict(zip(names, values, strict=True))


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed, or does not load.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingDependencyError(
            "ONNX Runtime is not installed: pip install 'ztcir[cpu]', "
            "or 'ztcir[gpu]' for an NVIDIA GPU."
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime does not load ({error}): reinstall it with pip install "
            "--force-reinstall 'ztcir[cpu]', or 'ztcir[gpu]' for an NVIDIA GPU."
        ) from error
    return onnxruntime


def _providers(ort: Any, device: str) -> list[Any]:
    if device == "cpu":
        return [_CPU]
    name, _, number = device.partition(":")
    if name != "cuda" or not (number.isascii() and number.isdigit()):
        raise UsageError(f"A graph runs on cpu or cuda:0, not {device!r}.")
    if _CUDA not in ort.get_available_providers():
        raise _no_cuda(device, "this ONNX Runtime was built without CUDA")
    if hasattr(ort, "preload_dlls"):  # finds the CUDA that pip installed
        ort.preload_dlls()
    # TF32 would keep 10 of 23 bits, and a gallery would no longer fit queries from a processor.
    return [(_CUDA, {"device_id": number, "use_tf32": "0"}), _CPU]


def _no_cuda(device: str, why: str) -> ZtcirError:
    return ZtcirError(
        f"{device} was asked for but cannot be used ({why}): pip uninstall onnxruntime, then "
        "pip install 'ztcir[gpu]' and a driver for its CUDA, or choose device cpu."
    )


def _spec(node: Any) -> TensorSpec:
    shape = (
        edge if isinstance(edge, int) else edge or f"{node.name}.{axis}"
        for axis, edge in enumerate(node.shape)
    )
    return TensorSpec(node.name, _DTYPES.get(node.type, str(node.type)), tuple(shape))


def _reason(error: Exception) -> str:
    """Return the first line of a message, which may go on with a trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
