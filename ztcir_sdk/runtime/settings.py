"""Settings of the runtime: backend, device, threads and memory."""

from __future__ import annotations

from dataclasses import dataclass

from ztcir_sdk.errors import UsageError, check_choice
from ztcir_sdk.names import AUTOMATIC, BACKENDS
from ztcir_sdk.runtime.cores import available_cores


@dataclass(frozen=True)
class RuntimeSettings:
    """How graphs are run. Settings that do not apply to the device are ignored.

    Raises:
        UsageError: a number is below 1, or there is no such backend.
    """

    backend: str = AUTOMATIC
    """One of `BACKENDS`; "auto" is TensorRT if the cache has an engine for this GPU, else ONNX
    Runtime."""
    device: str = AUTOMATIC
    """"cpu", "cuda", "cuda:N", "openvino", "coreml", "directml" or "qnn"; "auto" is the GPU if ONNX
    Runtime can run on it."""
    threads: int | None = None
    """CPU threads per graph; by default one per available core."""
    gpu_memory_mb: int | None = None
    """Maximum GPU memory, in MiB, for the arrays of one graph and for building its engine; by
    default all free memory."""
    low_memory: bool = False
    """Release memory after every run, which takes time, instead of keeping it for the next run."""
    cuda_graphs: bool = True
    """Record TensorRT's launches once per shape and replay them; needs GPU memory."""
    build_engines: bool = True
    """Build TensorRT engines that are missing or outdated; False raises an error instead."""

    run_timeout: float | None = None
    """Seconds that one run of a graph may take with ONNX Runtime; by default any number."""

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, BACKENDS)
        for name in ("threads", "gpu_memory_mb"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"{name} must be at least 1, not {number}.")
        if self.run_timeout is not None and not self.run_timeout > 0:
            raise UsageError(f"run_timeout must be over 0 seconds, not {self.run_timeout}.")

    @property
    def threads_in_use(self) -> int:
        """CPU threads per graph."""
        return available_cores() if self.threads is None else self.threads

    @property
    def gpu_memory(self) -> int | None:
        """Maximum GPU memory for one graph, in bytes."""
        return None if self.gpu_memory_mb is None else self.gpu_memory_mb << 20
