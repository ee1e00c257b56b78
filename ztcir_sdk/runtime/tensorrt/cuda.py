"""Access to a GPU through `cuda-python`: memory, streams, recorded CUDA graphs."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from typing import Any

from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError, install_hint

DRIVER_FIX = "install NVIDIA's driver, or start the container with --gpus all"

_RESTART = (
    "cudaErrorIllegalAddress",
    "cudaErrorLaunchFailure",
    "cudaErrorECCUncorrectable",
    "cudaErrorHardwareStackError",
)
"""Errors after which the process can no longer use CUDA."""


class CudaError(ZtcirError):
    """A CUDA call failed."""


class OutOfGpuMemoryError(CudaError):
    """The GPU does not have enough free memory; loaded graphs still work."""


def import_cuda() -> Any:
    """Import the runtime API of `cuda-python`.

    Raises:
        MissingDependencyError: it is not installed, or cannot be loaded.
    """
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        if error.name not in ("cuda", "cuda.bindings"):
            raise
        raise _missing_cuda_python("is not installed") from error
    except (ImportError, RuntimeError) as error:
        raise _missing_cuda_python(f"cannot be loaded ({error})") from error
    return runtime


def _missing_cuda_python(problem: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"cuda-python {problem}: {install_hint('trt')}, or on a CUDA 12 system, such as JetPack 6, "
        "pip install 'cuda-python<13'."
    )


def count_gpus() -> int:
    """Return the number of GPUs that are visible to this process; 0 without an NVIDIA driver."""
    driver, count = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_names() -> list[str]:
    """Return the names of the GPUs that are visible to this process."""
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
    """Return the newest CUDA version that the NVIDIA driver supports: "12.6"; None without one."""
    driver, version = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return dotted_version(version.value)


def _driver() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def dotted_version(version: int) -> str:
    """Return a version of CUDA as text: "12.6" for 12060."""
    return f"{version // 1000}.{version % 1000 // 10}"


class Gpu:
    """One GPU. Each thread must call `use` first, because CUDA's current device is per thread.

    Attributes:
        number: device number, as in "cuda:0".
        name: name of the model.
        architecture: compute architecture, such as "sm_86".
    """

    def __init__(self, number: int = 0) -> None:
        """Select a GPU.

        Raises:
            MissingDependencyError: `cuda-python` is not installed.
            CudaError: there is no driver, or it is too old for this `cuda-python`.
            UsageError: there is no GPU with this number.
        """
        self._api = import_cuda()
        self.number = number
        count = self.call("cudaGetDeviceCount")
        if number >= count:
            raise UsageError(
                f"There is no cuda:{number}, {count} GPUs are visible to this process: choose "
                "another number, or check CUDA_VISIBLE_DEVICES."
            )
        self.use()
        attribute = self._api.cudaDeviceAttr
        major, minor = (
            self.call("cudaDeviceGetAttribute", capability, number)
            for capability in (
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
        """Call a function of CUDA's runtime API; return its value, or None if it has none.

        Raises:
            OutOfGpuMemoryError: the GPU does not have enough memory.
            CudaError: CUDA reports another error.
        """
        status, *values = getattr(self._api, function)(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            raise self._error(status, function)
        return values[0] if values else None

    def use(self) -> None:
        """Make this GPU the calling thread's device."""
        self.call("cudaSetDevice", self.number)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU; return their address."""
        return int(self.call("cudaMalloc", size))

    def allocate_pinned(self, size: int) -> int:
        """Allocate `size` bytes of pinned host memory; return their address."""
        return int(self.call("cudaMallocHost", size))

    def free(self, address: int) -> None:
        """Free what `allocate` returned; errors are ignored, since nothing can be done."""
        self._call_ignoring_errors("cudaFree", address)

    def free_pinned(self, address: int) -> None:
        """Free what `allocate_pinned` returned."""
        self._call_ignoring_errors("cudaFreeHost", address)

    def create_stream(self) -> Any:
        """Return a new stream that does not wait for other streams."""
        return self.call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        self._call_ignoring_errors("cudaStreamDestroy", stream)

    def wait(self, stream: Any) -> None:
        """Wait until the stream is empty; this call raises the errors of its work."""
        self.call("cudaStreamSynchronize", stream)

    def upload(self, target: int, source: int, size: int, stream: Any) -> None:
        """Enqueue a copy of `size` bytes from pinned memory to the GPU."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def download(self, target: int, source: int, size: int, stream: Any) -> None:
        """Enqueue a copy of `size` bytes from the GPU to pinned memory."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def record(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record the work that `work` enqueues, without running it; `replay` runs it.

        Raises:
            CudaError: the work cannot be recorded; the stream is unchanged.
        """
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(CudaError):
                self._call_ignoring_errors(
                    "cudaGraphDestroy", self.call("cudaStreamEndCapture", stream)
                )
            self._call_ignoring_errors("cudaGetLastError")
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call_ignoring_errors("cudaGraphDestroy", graph)

    def replay(self, recording: Any, stream: Any) -> None:
        """Enqueue recorded work."""
        self.call("cudaGraphLaunch", recording, stream)

    def destroy_recording(self, recording: Any) -> None:
        """Destroy what `record` returned."""
        self._call_ignoring_errors("cudaGraphExecDestroy", recording)

    def memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the GPU, in bytes."""
        status, *values = self._api.cudaMemGetInfo()
        if status != self._api.cudaError_t.cudaSuccess:
            raise self._error(status, "cudaMemGetInfo")
        free, total = values
        return int(free), int(total)

    def _call_ignoring_errors(self, function: str, *arguments: Any) -> None:
        with contextlib.suppress(CudaError):
            self.call(function, *arguments)

    def _error(self, status: Any, function: str) -> CudaError:
        name = getattr(status, "name", str(status))
        if name == "cudaErrorMemoryAllocation":
            self._api.cudaGetLastError()  # else the next call reports it again
            return OutOfGpuMemoryError(
                f"cuda:{self.number} is out of memory: close other programs that use the GPU, use "
                "smaller batches, or use device cpu."
            )
        if name == "cudaErrorInsufficientDriver":
            return CudaError(self._driver_problem())
        if name == "cudaErrorNoDevice":
            return CudaError(
                "No NVIDIA GPU is visible to this process: check CUDA_VISIBLE_DEVICES and the "
                "container's --gpus, or use device cpu."
            )
        _, text = self._api.cudaGetErrorString(status)
        text = text.decode() if isinstance(text, bytes) else str(text)
        fix = (
            "restart the process"
            if name in _RESTART
            else "try again, or use backend onnx or device cpu"
        )
        return CudaError(f"cuda:{self.number} failed in {function} ({name}: {text}): {fix}.")

    def _driver_problem(self) -> str:
        newest = driver_version()
        if newest is None:
            return f"There is no NVIDIA driver on this machine: {DRIVER_FIX}, or use device cpu."
        _, version = self._api.cudaRuntimeGetVersion()
        needed = dotted_version(int(version))
        return (
            f"The NVIDIA driver supports CUDA up to {newest}, but cuda-python needs {needed}: "
            f"update the driver, or pip install 'cuda-python<{needed.partition('.')[0]}'."
        )
