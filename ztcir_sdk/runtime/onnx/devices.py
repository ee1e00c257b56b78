"""What "auto" and "cuda" mean on this machine."""

from __future__ import annotations

import functools
import re
import warnings

from ztcir_sdk.errors import MissingDependencyError, UsageError
from ztcir_sdk.runtime.onnx.providers import CUDA, import_onnxruntime
from ztcir_sdk.runtime.onnx.trial import run_tiny_graph
from ztcir_sdk.runtime.tensorrt.cuda import count_gpus

__all__ = ["resolve_device"]

_ON_GPUS = ("tensorrt", "onnx-tensorrt")


def resolve_device(device: str, backend: str = "auto") -> str:
    """Return "cpu" or "cuda:N" for "auto", "cpu", "cuda" or "cuda:N".

    "auto" is the GPU where the backend runs on nothing else, or where ONNX Runtime has really run
    a graph on it; otherwise the processor.

    Raises:
        UsageError: there is no such device, or the backend does not run on it.
    """
    if device == "auto":
        return "cuda:0" if backend in _ON_GPUS or _cuda_runs() else "cpu"
    if device == "cpu":
        if backend in _ON_GPUS:
            raise UsageError(
                f"The backend {backend} runs on a GPU, not on the cpu: choose device cuda:0, or "
                "backend onnx."
            )
        return "cpu"
    if match := re.fullmatch(r"cuda(?::([0-9]+))?", device):
        return f"cuda:{int(match[1] or 0)}"
    raise UsageError(f"The device is auto, cpu, cuda or cuda:0, not {device!r}.")


@functools.cache
def _cuda_runs() -> bool:
    """Try the GPU, where there is one and ONNX Runtime is made for it; warn if it does not work."""
    if count_gpus() == 0:
        return False
    try:
        ort = import_onnxruntime()
    except MissingDependencyError:
        return False  # told by who needs it
    if CUDA not in getattr(ort, "get_available_providers", list)():
        return False
    run = run_tiny_graph(ort, CUDA)
    if not run.ran:
        warnings.warn(
            f"The GPU is not used, since CUDA does not run in ONNX Runtime ({run.why_not}): "
            "`ztcir doctor` says what is missing; --device cpu silences this.",
            stacklevel=3,
        )
    return run.ran
