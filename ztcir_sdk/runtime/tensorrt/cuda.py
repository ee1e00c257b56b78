"""A GPU through `cuda-python`: memory, a stream, recorded graphs. Every failure is a sentence."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from typing import Any

from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError

__all__ = [
    "CudaError",
    "Gpu",
    "OutOfGpuMemoryError",
    "count_gpus",
    "driver_version",
    "gpu_names",
    "import_cuda",
]

_NO_CUDA_PYTHON = (
    "cuda-python {}: pip install 'ztcir[trt]', or on a CUDA 12 system, such as JetPack 6, "
    "pip install 'cuda-python<13'."
)
_RESTART = (
    "cudaErrorIllegalAddress",
    "cudaErrorLaunchFailure",
    "cudaErrorECCUncorrectable",
    "cudaErrorHardwareStackError",
)
"""After these a process's CUDA context is lost for good."""


class CudaError(ZtcirError):
    """A call of CUDA failed."""


class OutOfGpuMemoryError(CudaError):
    """The GPU has not enough memory left; what is loaded goes on working."""


def import_cuda() -> Any:
    """Import the runtime API of `cuda-python`.

    Raises:
        MissingDependencyError: it is not installed, or does not load.
    """
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        if error.name not in ("cuda", "cuda.bindings"):
            raise
        raise MissingDependencyError(_NO_CUDA_PYTHON.format("is not installed")) from error
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(_NO_CUDA_PYTHON.format(f"does not load ({error})")) from error
    return runtime


def count_gpus() -> int:
    """Return how many GPUs the NVIDIA driver shows to this process; 0 without a driver."""
    driver, count = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_names() -> list[str]:
    """Return the names of the GPUs that the NVIDIA driver shows to this process."""
    names: list[str] = []
    for number in range(count_gpus()):
        driver, device, name = _driver(), ctypes.c_int(0), ctypes.create_string_buffer(256)
        known = (
            driver.cuDeviceGet(ctypes.byref(device), number) == 0
            and driver.cuDeviceGetName(name, len(name), device) == 0
        )
        names.append(name.value.decode(errors="replace") if known else "an NVIDIA GPU")
    return names


def driver_version() -> str | None:
    """Return the newest CUDA that the NVIDIA driver can run, as "12.6"; None without a driver."""
    driver, version = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return _dotted(version.value)


def _driver() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


class Gpu:
    """One GPU. A thread calls `use` before anything else, since a thread has its own device.

    Attributes:
        number: as in "cuda:0".
        name: the model.
        architecture: as "sm_86".
    """

    def __init__(self, number: int = 0) -> None:
        """Take a GPU.

        Raises:
            MissingDependencyError: `cuda-python` is not installed.
            CudaError: there is no driver, or it is too old for this `cuda-python`.
            UsageError: there is no GPU of this number.
        """
        self._api = import_cuda()
        self.number = number
        count = self.call("cudaGetDeviceCount")
        if number >= count:
            raise UsageError(
                f"There is no cuda:{number}: this process sees {count} GPUs; choose another, or "
                "look at CUDA_VISIBLE_DEVICES."
            )
        self.use()
        attribute = self._api.cudaDeviceAttr
        major, minor = (
            self.call("cudaDeviceGetAttribute", which, number)
            for which in (
                attribute.cudaDevAttrComputeCapabilityMajor,
                attribute.cudaDevAttrComputeCapabilityMinor,
            )
        )
        self.architecture = f"sm_{major}{minor}"
        name = self.call("cudaGetDeviceProperties", number).name
        self.name = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        self.name = self.name.rstrip("\0")

    def __str__(self) -> str:
        return f"cuda:{self.number}"

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of CUDA's runtime API; return its value, or None.

        Raises:
            OutOfGpuMemoryError: the GPU has not enough memory.
            CudaError: anything else that CUDA reports.
        """
        status, *values = getattr(self._api, function)(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            raise self._error(status, function)
        return values[0] if values else None

    def use(self) -> None:
        """Make it the calling thread's device."""
        self.call("cudaSetDevice", self.number)

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the GPU."""
        return int(self.call("cudaMalloc", size))

    def allocate_pinned(self, size: int) -> int:
        """Return the address of `size` bytes of host memory that the GPU copies from directly."""
        return int(self.call("cudaMallocHost", size))

    def free(self, address: int) -> None:
        """Give back what `allocate` returned; errors are not told, as nothing can be done."""
        self._quietly("cudaFree", address)

    def free_pinned(self, address: int) -> None:
        """Give back what `allocate_pinned` returned."""
        self._quietly("cudaFreeHost", address)

    def create_stream(self) -> Any:
        """Return a stream that waits for no other."""
        return self.call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        """Give back a stream."""
        self._quietly("cudaStreamDestroy", stream)

    def wait(self, stream: Any) -> None:
        """Wait until all that was put on the stream is done; its errors come up here."""
        self.call("cudaStreamSynchronize", stream)

    def upload(self, target: int, source: int, size: int, stream: Any) -> None:
        """Put a copy from pinned memory to the GPU on the stream."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def download(self, target: int, source: int, size: int, stream: Any) -> None:
        """Put a copy from the GPU to pinned memory on the stream."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def record(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record what `work` puts on the stream, instead of doing it; return it to be replayed.

        Raises:
            CudaError: it cannot be recorded; the stream is as before.
        """
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(CudaError):
                self._quietly("cudaGraphDestroy", self.call("cudaStreamEndCapture", stream))
            self._quietly("cudaGetLastError")
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self._quietly("cudaGraphDestroy", graph)

    def replay(self, recording: Any, stream: Any) -> None:
        """Put what was recorded on the stream."""
        self.call("cudaGraphLaunch", recording, stream)

    def destroy_recording(self, recording: Any) -> None:
        """Give back what `record` returned."""
        self._quietly("cudaGraphExecDestroy", recording)

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU's memory."""
        status, *values = self._api.cudaMemGetInfo()
        if status != self._api.cudaError_t.cudaSuccess:
            raise self._error(status, "cudaMemGetInfo")
        free, total = values
        return int(free), int(total)

    def _quietly(self, function: str, *arguments: Any) -> None:
        with contextlib.suppress(CudaError):
            self.call(function, *arguments)

    def _error(self, status: Any, function: str) -> CudaError:
        name = getattr(status, "name", str(status))
        if name == "cudaErrorMemoryAllocation":
            self._api.cudaGetLastError()  # it would be told again by the next call
            return OutOfGpuMemoryError(
                f"cuda:{self.number} has no memory left: close what else uses the GPU, ask for "
                "less at once, or use device cpu."
            )
        if name == "cudaErrorInsufficientDriver":
            return CudaError(self._too_old())
        if name == "cudaErrorNoDevice":
            return CudaError(
                "No NVIDIA GPU is visible to this process: look at CUDA_VISIBLE_DEVICES and at "
                "the container's --gpus, or use device cpu."
            )
        _, text = self._api.cudaGetErrorString(status)
        text = text.decode() if isinstance(text, bytes) else str(text)
        cure = (
            "start the process again"
            if name in _RESTART
            else "try again, or use backend onnx or device cpu"
        )
        return CudaError(f"cuda:{self.number} failed in {function} ({name}: {text}): {cure}.")

    def _too_old(self) -> str:
        newest = driver_version()
        if newest is None:
            return (
                "There is no NVIDIA driver on this machine: install it, start the container with "
                "--gpus all, or use device cpu."
            )
        _, version = self._api.cudaRuntimeGetVersion()
        wanted = _dotted(int(version))
        return (
            f"The NVIDIA driver runs CUDA up to {newest}, and the installed cuda-python is for "
            f"{wanted}: update the driver, or pip install 'cuda-python<{wanted.partition('.')[0]}'."
        )
