"""The libraries that an execution provider needs, loaded from where pip puts them."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["preload"]

_TENSORRT = "TensorrtExecutionProvider"


def preload(ort: Any, provider: str = "CUDAExecutionProvider") -> str:
    """Load what a provider on an NVIDIA GPU needs; return what is missing, or an empty text.

    ONNX Runtime itself goes on with the processor where a library is missing, and says why only
    in its log. Where nothing is known to be missing, it may still fail.
    """
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(said):  # where it prints what it does not find
            ort.preload_dlls()
    if provider == _TENSORRT:
        _preload_tensorrt()
    return _load_error(ort, provider)


def _load_error(ort: Any, provider: str) -> str:
    if not sys.platform.startswith("linux") or not getattr(ort, "__file__", None):
        return ""
    name = provider.removesuffix("ExecutionProvider").lower()
    folder = Path(ort.__file__).parent / "capi"
    library = folder / f"libonnxruntime_providers_{name}.so"
    if not library.is_file():
        return ""  # not a library of its own, or of another name
    try:
        ctypes.CDLL(os.fspath(folder / "libonnxruntime_providers_shared.so"))
        ctypes.CDLL(os.fspath(library))
    except OSError as error:
        # Anything else may be due to this way of loading it, so ONNX Runtime shall try.
        return str(error) if "cannot open shared object" in str(error) else ""
    return ""


def _preload_tensorrt() -> None:
    found = importlib.util.find_spec("tensorrt_libs")
    for folder in (found and found.submodule_search_locations) or ():
        for library in sorted(Path(folder).glob("libnv*.so.*")):
            # What is really missing is told by who needs it.
            with contextlib.suppress(OSError):
                ctypes.CDLL(os.fspath(library), mode=ctypes.RTLD_GLOBAL)
