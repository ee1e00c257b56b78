"""Graphs, loaded and run by the backend that the settings choose."""

from __future__ import annotations

import os
from dataclasses import replace

from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.onnx.devices import resolve_device
from ztcir_sdk.runtime.onnx.graph import OnnxGraph
from ztcir_sdk.runtime.protocol import Graph, TensorSpec
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.source import GraphSource, ShapeRange, ShapeRanges

__all__ = [
    "Graph",
    "GraphSource",
    "OnnxGraph",
    "RuntimeSettings",
    "ShapeRange",
    "ShapeRanges",
    "TensorSpec",
    "available_cores",
    "open_graph",
    "resolve_device",
]


def open_graph(
    graph: str | os.PathLike[str] | GraphSource, settings: RuntimeSettings | None = None
) -> Graph:
    """Load a graph with the backend and on the device of the settings.

    Args:
        graph: the ``.onnx`` file, or a source that also has the shapes that TensorRT needs.
        settings: by default, backend and device "auto".

    Raises:
        UsageError: there is no such device, or the backend does not run on it.
        MissingDependencyError: the backend is not installed.
        BundleError: the file is missing or is not a graph.
        ZtcirError: the device cannot be used.
    """
    settings = settings or RuntimeSettings()
    device = resolve_device(settings.device, settings.backend)
    settings = replace(settings, device=device)
    if not device.startswith("cuda") or settings.backend in ("onnx", "onnx-tensorrt"):
        return OnnxGraph(graph, settings)
    # The CPU needs none of this.
    from ztcir_sdk.runtime.tensorrt.open import open_cached_engine, open_engine

    source = graph if isinstance(graph, GraphSource) else GraphSource.of_file(graph)
    if settings.backend == "tensorrt":
        return open_engine(source, settings)
    return open_cached_engine(source, settings) or OnnxGraph(source, settings)
