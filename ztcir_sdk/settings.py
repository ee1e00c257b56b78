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
    """Keywords of `ztcir_sdk.Retriever`, except its index.

    Attributes:
        backend: "onnx" (ONNX Runtime), "onnx-tensorrt" (its TensorRT provider) or
            "tensorrt" (TensorRT itself); "auto" is "tensorrt" on a GPU for which
            `ztcir export --trt` has built engines, else "onnx".
        device: "cpu", "cuda" or "cuda:N"; "auto" is the GPU if ONNX Runtime runs on it or
            the backend needs one, else the CPU. "openvino", "coreml", "directml" and "qnn" are
            devices that only a distribution of ONNX Runtime of their own reaches.
        precision: "fp32", "fp16" or "int8", if the bundle has it; by default fp32, and int8
            on a processor if the export found it as accurate and faster.
        threads: CPU threads of one graph; by default one for each available core.
        gpu_memory_mb: GPU memory limit of one graph, in MiB; by default none.
        low_memory: release memory after every run, for small devices; slower.
        build_engines: build missing and outdated TensorRT engines, in seconds to
            minutes; if False, they are an error. True by default.
        cuda_graphs: record TensorRT's launches, which takes GPU memory; True by default.
        run_timeout: most seconds of one run of a graph with ONNX Runtime.
        reference_cache_mb: memory for encoded reference images, in MiB, by default 64. A
            second query about the same file runs only the text graph. 0 keeps none.
        correct_slips: correct likely typing errors in texts, and read long messages and other
            languages as short English, where the bundle says which words it knows; True by
            default. See `unknown_words`.
    """

    reference_cache_mb: int
    correct_slips: bool


@dataclass(frozen=True)
class RetrieverSettings(RuntimeSettings):
    """How a retriever runs a bundle's graphs, and how much it remembers.

    Raises:
        UsageError: a number is too small, or there is no such backend.
    """

    precision: str | None = None
    """One of `PRECISIONS`; None is fp32, or `Bundle.cpu_precision` on a processor."""
    reference_cache_mb: int = 64
    """Memory for encoded reference images, in MiB; 0 keeps none."""
    correct_slips: bool = True
    """Correct likely typing errors in texts, with the words that the bundle says it knows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_cache_mb < 0:
            raise UsageError(
                f"reference_cache_mb must be at least 0, not {self.reference_cache_mb}."
            )
