"""Build the TensorRT engines of a bundle ahead of their use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.bundle.graph_source import CPU_PRECISIONS, BatchSizes, graph_source
from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError
from ztcir_sdk.runtime.tensorrt.architectures import architecture_of

if TYPE_CHECKING:
    from ztcir_sdk.runtime.tensorrt.cache import StoredEngine
    from ztcir_sdk.runtime.tensorrt.open import Target
    from ztcir_sdk.runtime.tensorrt.package import TensorRt


@dataclass(frozen=True)
class EngineReport:
    """An engine of a bundle, ready to run."""

    graph: str
    precision: str
    architecture: str
    """Compute architecture, such as "sm_86"."""
    package: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    file: Path
    bytes: int
    seconds: float
    """How long the build took."""
    built: bool
    """Whether this call built it; otherwise it was in the cache."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**vars(self), "file": str(self.file)}


def build_engines(
    bundle: Bundle,
    *,
    precisions: Sequence[str] | None = None,
    gpu: str | None = None,
    package: str | None = None,
    sizes: BatchSizes | None = None,
    workspace_mb: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    rebuild: bool = False,
    progress: Callable[[EngineReport], None] = lambda report: None,
) -> list[EngineReport]:
    """Build the engines of a bundle's graphs that the cache does not have yet.

    Args:
        bundle: the bundle.
        precisions: some of `Bundle.precisions`; by default all but those of `CPU_PRECISIONS`.
        gpu: name or architecture of a GPU that this machine need not have, such as "RTX 3090" or
            "sm_86"; by default the first GPU of this machine.
        package: "tensorrt" or "tensorrt_rtx"; by default an installed one that supports the GPU.
        sizes: maximum batch sizes of the engines.
        workspace_mb: maximum scratch memory of a layer, in MiB; by default all of the GPU's memory.
        folder: folder of the engines; by default the one that a `Retriever` reads.
        rebuild: whether to build engines that the cache has.
        progress: function to call with each engine.

    Raises:
        MissingDependencyError: TensorRT or `cuda-python` is not installed.
        UsageError: there is no such GPU or package.
        UnsupportedGraphError: a graph has an operator that TensorRT does not support.
        ZtcirError: the bundle lacks the precision, there is no GPU, or a build failed.
    """
    from ztcir_sdk.runtime.tensorrt.cache import EngineCache
    from ztcir_sdk.runtime.tensorrt.open import ensure_engine

    if workspace_mb is not None and workspace_mb < 1:
        raise UsageError(f"The workspace must be at least 1 MiB, not {workspace_mb}.")
    if not precisions:
        precisions = [name for name in bundle.precisions if name not in CPU_PRECISIONS]
        if not precisions:
            raise ZtcirError(
                f"The bundle {bundle.name} has only {', '.join(bundle.precisions)}, which runs on "
                "CPUs: export it in fp32 or fp16 too."
            )
    trt, target = _builder_and_target(gpu, package)
    cache = EngineCache(folder)
    reports: list[EngineReport] = []
    for precision in precisions:
        for graph in bundle.manifest.graphs:
            source = graph_source(bundle, graph, bundle.variant(graph, precision), sizes)
            stored, built = ensure_engine(
                source,
                trt,
                target,
                cache=cache,
                workspace=None if workspace_mb is None else workspace_mb << 20,
                rebuild=rebuild,
                same_ranges=sizes is not None,
            )
            report = _report(graph, stored, built=built)
            if report.file not in [one.file for one in reports]:  # precisions may share a variant
                reports.append(report)
                progress(report)
    return reports


def _report(graph: str, stored: StoredEngine, *, built: bool) -> EngineReport:
    key = stored.key
    return EngineReport(
        graph=graph,
        precision=key.precision,
        architecture=key.architecture,
        package=key.package,
        version=key.version,
        file=stored.path,
        bytes=len(stored.plan),
        seconds=stored.seconds,
        built=built,
    )


def _builder_and_target(gpu: str | None, package: str | None) -> tuple[TensorRt, Target]:
    """Return the package to build with and the GPU to build for: the named one, or the first."""
    from ztcir_sdk.runtime.tensorrt.cuda import Gpu
    from ztcir_sdk.runtime.tensorrt.open import Target
    from ztcir_sdk.runtime.tensorrt.package import import_tensorrt

    architecture = None if gpu is None else architecture_of(gpu)
    try:
        present = Target.of(Gpu(0))
    except ZtcirError as error:
        if architecture is None:
            if isinstance(error, MissingDependencyError):
                raise
            cause = str(error).rstrip(".")
            raise ZtcirError(f"{cause}; or name the GPU to compile for with --gpu.") from error
    else:
        if architecture in (None, present.architecture):
            return import_tensorrt(package), present
    assert architecture is not None
    if package is None:
        # Only TensorRT for RTX compiles for a GPU that this machine does not have.
        with contextlib.suppress(MissingDependencyError):
            return import_tensorrt("tensorrt_rtx"), Target(architecture)
    return import_tensorrt(package), Target(architecture)
