"""NVIDIA's libraries on this machine: the versions that load, and fixes for those that do not."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ztcir_sdk.errors import MissingDependencyError, ZtcirError
from ztcir_sdk.runtime.onnx.preload import preload
from ztcir_sdk.runtime.onnx.providers import CUDA_LIBRARIES_FIX
from ztcir_sdk.runtime.onnx.trial import TINY_GRAPH, TINY_INPUT
from ztcir_sdk.runtime.source import GraphSource
from ztcir_sdk.runtime.tensorrt.cuda import (
    DRIVER_FIX,
    Gpu,
    dotted_version,
    driver_version,
    import_cuda,
)
from ztcir_sdk.runtime.tensorrt.package import PACKAGES, import_tensorrt, installed_packages


@dataclass(frozen=True)
class Library:
    """A library that the GPU needs."""

    name: str
    version: str | None
    """Version; None if it is missing or cannot be loaded."""
    why: str = ""
    """Why it cannot be loaded, if that is known."""
    fix: str = ""
    """How to install it."""


@dataclass(frozen=True)
class TensorRtTrial:
    """The result of building and running a tiny graph with TensorRT."""

    name: str
    """Product name of the package."""
    version: str
    ran: bool
    """Whether the engine ran on a GPU."""
    compiled: bool
    """Whether it built an engine."""
    why_not: str = ""


def cuda_libraries(ort: Any | None) -> list[Library]:
    """Return the driver, and CUDA and cuDNN in the major versions that ONNX Runtime needs."""
    newest = driver_version()
    libraries = [Library("CUDA driver", newest, fix="" if newest else DRIVER_FIX)]
    if ort is not None:
        preload(ort)
    major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0] or "12"
    cudart = _load("libcudart.so." + major, f"cudart64_{major}.dll", "cudaRuntimeGetVersion")
    libraries.append(_library("CUDA", cudart, dotted_version))
    cudnn = _load("libcudnn.so.9", "cudnn64_9.dll", "cudnnGetVersion")
    libraries.append(
        _library("cuDNN", cudnn, lambda v: f"{v // 10000}.{v % 10000 // 100}.{v % 100}")
    )
    return libraries


def tensorrt_libraries() -> list[Library]:
    """Return the installed TensorRT packages, and `cuda-python`, which they need."""
    libraries: list[Library] = []
    for package in installed_packages():
        try:
            version = import_tensorrt(package).version
        except MissingDependencyError as error:
            libraries.append(Library(PACKAGES[package], None, fix=str(error)))
        else:
            libraries.append(Library(PACKAGES[package], version))
    if libraries:
        try:
            import_cuda()
        except MissingDependencyError as error:
            libraries.append(Library("cuda-python", None, fix=str(error)))
    return libraries


def try_tensorrt(package: str) -> TensorRtTrial:
    """Build the engine of a tiny graph and run it; without a GPU, only compile it.

    Raises:
        MissingDependencyError: the package cannot be loaded.
    """
    from ztcir_sdk.runtime.settings import RuntimeSettings
    from ztcir_sdk.runtime.tensorrt.cache import EngineCache
    from ztcir_sdk.runtime.tensorrt.graph import TensorRtGraph
    from ztcir_sdk.runtime.tensorrt.open import Target, ensure_engine

    trt = import_tensorrt(package)

    def result(why: str, *, ran: bool = False, compiled: bool = False) -> TensorRtTrial:
        return TensorRtTrial(PACKAGES[package], trt.version, ran, compiled, why)

    gpu: Gpu | None = None
    why, compiled = "", False
    try:
        gpu = Gpu(0)
    except ZtcirError as error:
        why = str(error)
    if gpu is None and not trt.architectures():
        return result(why)
    target = Target(trt.architectures()[-1]) if gpu is None else Target.of(gpu)
    with tempfile.TemporaryDirectory(prefix="ztcir-doctor-") as scratch:
        file = Path(scratch) / "tiny.onnx"
        file.write_bytes(TINY_GRAPH)
        try:
            source, cache = GraphSource.of_file(file), EngineCache(Path(scratch) / "engines")
            stored, _ = ensure_engine(source, trt, target, cache=cache)
            compiled = True
            if gpu is not None:
                graph = TensorRtGraph(stored, trt, gpu, RuntimeSettings())
                [y] = graph.run({"x": TINY_INPUT}).values()
                graph.close()
                if np.allclose(y, TINY_INPUT @ TINY_INPUT):
                    return result("", ran=True, compiled=True)
                why = f"the result is wrong: {y.tolist()}"
        except ZtcirError as error:
            why = str(error)
    return result(why, compiled=compiled)


def _load(linux: str, windows: str, function: str) -> int | str:
    """Return the version that a library reports, or the error that loading it raised."""
    try:
        library = ctypes.CDLL(windows if sys.platform == "win32" else linux)
        if function == "cudnnGetVersion":
            library.cudnnGetVersion.restype = ctypes.c_size_t
            return int(library.cudnnGetVersion())
        version = ctypes.c_int(0)
        getattr(library, function)(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        return str(error)
    return version.value


def _library(name: str, found: int | str, dotted: Callable[[int], str]) -> Library:
    if isinstance(found, str):
        return Library(name, None, found, CUDA_LIBRARIES_FIX)
    return Library(name, dotted(found))
