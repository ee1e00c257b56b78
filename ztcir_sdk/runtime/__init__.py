"""One graph, run, by whichever engine the device has."""

from __future__ import annotations

import os
import re

from ztcir_sdk.errors import UsageError
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.onnx import OnnxGraph
from ztcir_sdk.runtime.protocol import Graph, TensorSpec

__all__ = ["Graph", "OnnxGraph", "TensorSpec", "available_cores", "open_graph", "resolve_device"]


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda:N" for "auto" (the processor, for now), "cpu", "cuda" or "cuda:N".

    Raises:
        UsageError: there is no such device.
    """
    if device in ("auto", "cpu"):
        return "cpu"
    if match := re.fullmatch(r"cuda(?::([0-9]+))?", device):
        return f"cuda:{int(match[1] or 0)}"
    raise UsageError(f"The device is auto, cpu, cuda or cuda:0, not {device!r}.")


def open_graph(
    path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None
) -> Graph:
    """Load a graph for a device; see `resolve_device` and `OnnxGraph`.

    Raises:
        UsageError: there is no such device, or `threads` is below 1.
        MissingDependencyError: ONNX Runtime is not installed.
        BundleError: the file is missing or no graph.
        ZtcirError: the device cannot be used.
    """
    return OnnxGraph(path, device=resolve_device(device), threads=threads)
