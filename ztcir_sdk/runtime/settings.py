"""What runs the graphs, and with how much of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import BACKENDS
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["RuntimeSettings"]


@dataclass(frozen=True)
class RuntimeSettings:
    """How graphs are run. What does not apply to the device is not used.

    Raises:
        UsageError: a number is below 1, or there is no such backend.
    """

    backend: str = "auto"
    """Of `BACKENDS`. "auto" is TensorRT where an engine for this GPU is in the cache, else ONNX
    Runtime."""
    device: str = "auto"
    """"cpu", "cuda" or "cuda:N"; "auto" is the GPU where ONNX Runtime really runs on it."""
    threads: int | None = None
    """Processor threads of one graph; by default one a core that may be used."""
    gpu_memory_mb: int | None = None
    """Most GPU memory, in MiB, that one graph may take for its arrays, and TensorRT for building
    its engine; without it, all that is free."""
    low_memory: bool = False
    """Give memory back after every run, which takes time, instead of keeping it for the next."""
    cuda_graphs: bool = True
    """Let TensorRT's launches be recorded once for each shape and replayed; costs GPU memory."""
    build_engines: bool = True
    """Let TensorRT engines that are missing or stale be built; otherwise they are refused."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(
                f"There is no backend {self.backend!r}: choose from {', '.join(BACKENDS)}."
            )
        for name in ("threads", "gpu_memory_mb"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"{name} must be at least 1, not {number}.")

    @property
    def threads_in_use(self) -> int:
        """Processor threads of one graph."""
        return available_cores() if self.threads is None else self.threads

    @property
    def gpu_memory(self) -> int | None:
        """Most GPU memory for one graph, in bytes."""
        return None if self.gpu_memory_mb is None else self.gpu_memory_mb << 20
