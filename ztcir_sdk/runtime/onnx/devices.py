"""The device that a name such as "auto" or "cuda" stands for on this machine."""

from __future__ import annotations

import functools
import re
import warnings

from ztcir_sdk.errors import MissingDependencyError, UsageError
from ztcir_sdk.names import AUTOMATIC, GPU_BACKENDS
from ztcir_sdk.runtime.onnx.named import NAMED_DEVICES
from ztcir_sdk.runtime.onnx.preload import CUDA
from ztcir_sdk.runtime.onnx.providers import import_onnxruntime
from ztcir_sdk.runtime.onnx.trial import run_tiny_graph
from ztcir_sdk.runtime.tensorrt.cuda import count_gpus


def resolve_device(device: str, backend: str = AUTOMATIC) -> str:
    """Return "cpu", "cuda:N" or a named device for "auto", "cpu", "cuda", "cuda:N" or such a name.

    "auto" is the GPU if the backend runs only on GPUs, or if ONNX Runtime can run a graph on it;
    otherwise the CPU.

    Raises:
        UsageError: there is no such device, or the backend does not run on it.
    """
    if device == AUTOMATIC:
        return "cuda:0" if backend in GPU_BACKENDS or _cuda_runs() else "cpu"
    if device == "cpu":
        if backend in GPU_BACKENDS:
            raise UsageError(
                f"The backend {backend} runs on a GPU, not on the CPU: choose device cuda:0 or "
                "backend onnx."
            )
        return "cpu"
    if match := re.fullmatch(r"cuda(?::([0-9]+))?", device):
        return f"cuda:{int(match[1] or 0)}"
    if device in NAMED_DEVICES:
        if backend in GPU_BACKENDS:
            raise UsageError(
                f"The backend {backend} runs on an NVIDIA GPU, not on {device}: choose device "
                "cuda:0 or backend onnx."
            )
        return device
    named = ", ".join(NAMED_DEVICES)
    raise UsageError(f"There is no device {device!r}: choose auto, cpu, cuda, cuda:0, {named}.")


@functools.cache
def _cuda_runs() -> bool:
    """Run a graph on the GPU, if there is one and ONNX Runtime supports it; warn if that fails."""
    if count_gpus() == 0:
        return False
    try:
        ort = import_onnxruntime()
    except MissingDependencyError:
        return False  # whoever needs ONNX Runtime reports it
    if CUDA not in getattr(ort, "get_available_providers", list)():
        return False
    run = run_tiny_graph(ort, CUDA)
    if not run.ran:
        warnings.warn(
            f"The GPU is not used because ONNX Runtime cannot use CUDA ({run.why_not}): run "
            "`ztcir doctor` for a fix, or use --device cpu to silence this warning.",
            stacklevel=3,
        )
    return run.ran
