"""The settings of a `Retriever`: its keywords, and the object that holds and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from ztcir_sdk.errors import UsageError
from ztcir_sdk.runtime.settings import RuntimeSettings

__all__ = ["EngineOptions", "RetrieverOptions", "RetrieverSettings"]


class EngineOptions(TypedDict, total=False):
    """Keywords for how the graphs are run; see `ztcir_sdk.Retriever`."""

    backend: str
    device: str
    precision: str | None
    threads: int | None
    gpu_memory_mb: int | None
    low_memory: bool
    build_engines: bool
    cuda_graphs: bool
    run_timeout: float | None


class RetrieverOptions(EngineOptions, total=False):
    """Keywords of `ztcir_sdk.Retriever`, except its index."""

    reference_cache_mb: int


@dataclass(frozen=True)
class RetrieverSettings(RuntimeSettings):
    """How a retriever runs a bundle's graphs, and how much it remembers.

    Raises:
        UsageError: a number is too small, or there is no such backend.
    """

    precision: str | None = None
    """One of `PRECISIONS`; None is fp32."""
    reference_cache_mb: int = 64
    """Memory for encoded reference images, in MiB; 0 keeps none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_cache_mb < 0:
            raise UsageError(
                f"reference_cache_mb must be at least 0, not {self.reference_cache_mb}."
            )
