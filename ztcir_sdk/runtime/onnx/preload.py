"""Load the libraries of an execution provider from the folders where pip installs them."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any

TENSORRT, CUDA, CPU = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)
"""ONNX Runtime's names of its providers."""


def preload(ort: Any, provider: str = CUDA) -> str:
    """Load the libraries of a GPU provider; return the first load error, or an empty text.

    ONNX Runtime itself falls back to the CPU if a library is missing, and reports it only in its
    log. An empty text does not guarantee that the provider works.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    if provider == TENSORRT:
        _preload_tensorrt()
    return _load_error(ort, provider)


def _load_error(ort: Any, provider: str) -> str:
    if not sys.platform.startswith("linux") or not getattr(ort, "__file__", None):
        return ""
    name = provider.removesuffix("ExecutionProvider").lower()
    folder = Path(ort.__file__).parent / "capi"
    library = folder / f"libonnxruntime_providers_{name}.so"
    if not library.is_file():
        return ""  # the provider is built in, or its library has another name
    try:
        ctypes.CDLL(os.fspath(folder / "libonnxruntime_providers_shared.so"))
        ctypes.CDLL(os.fspath(library))
    except OSError as error:
        # Other errors may come from loading it this way, so leave those to ONNX Runtime.
        return str(error) if "cannot open shared object" in str(error) else ""
    return ""


def _preload_tensorrt() -> None:
    found = importlib.util.find_spec("tensorrt_libs")
    for folder in (found and found.submodule_search_locations) or ():
        for library in sorted(Path(folder).glob("libnv*.so.*")):
            # The provider reports a library that it misses.
            with contextlib.suppress(OSError):
                ctypes.CDLL(os.fspath(library), mode=ctypes.RTLD_GLOBAL)
