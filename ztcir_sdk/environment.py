"""The machine and the package versions that a result depends on."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.tensorrt.cuda import gpu_names
from ztcir_sdk.version import __version__

__all__ = [
    "ONNX_RUNTIMES",
    "describe_machine",
    "installed",
    "list_gpus",
    "now",
    "peak_memory",
    "versions",
]

ONNX_RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-training",
)
"""Distributions that all install the package `onnxruntime` and overwrite each other's files."""

_DISTRIBUTIONS = (
    "numpy",
    *ONNX_RUNTIMES,
    "hnswlib",
    "pillow",
    "tokenizers",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-bindings",
)


def peak_memory() -> int | None:
    """Return the most memory in bytes that this process has had; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def now() -> str:
    """Return the current time: UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def installed(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    from importlib import metadata  # slow to import, and opening an index needs only `now`

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version(), "ztcir": __version__}
    for name in _DISTRIBUTIONS:
        version = installed(name)
        if version is not None:
            found[name] = version
    return found


def describe_machine() -> dict[str, Any]:
    """Return the machine as JSON values; None where a value is not available."""
    return {
        "cpu": _cpu_name(),
        "cpus": available_cores(),
        "cpus_of_host": os.cpu_count(),
        "architecture": platform.machine(),
        "memory_gb": _memory_gb(),
        "os": platform.platform(),
        "gpus": list_gpus(),
    }


def list_gpus() -> list[str]:
    """Return the NVIDIA GPUs, each as "name, memory, driver version"; a Jetson by its board.

    Without ``nvidia-smi``, as in a small container, the names come from the driver's library.
    """
    import shutil
    import subprocess

    command = shutil.which("nvidia-smi")
    if command is not None:
        query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # the driver is broken
            answer = subprocess.run(
                [command, *query], capture_output=True, text=True, timeout=20, check=True
            )
            return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    board = _read("/proc/device-tree/model").strip("\0\n ")
    if "Jetson" in board:
        return [board]
    return gpu_names()


def _cpu_name() -> str | None:
    text = _read("/proc/cpuinfo")
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or None


def _memory_gb() -> float | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return round(int(match[1]) * 1024 / 1e9, 1) if match else None


def _read(path: str) -> str:
    """Return the text of a system file, or an empty text if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
