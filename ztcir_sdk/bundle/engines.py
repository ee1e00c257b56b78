"""A bundle's graphs as sources of engines, and its TensorRT engines, built ahead of their use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.bundle.graph_source import FOR_PROCESSORS, BatchSizes, graph_source
from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError
from ztcir_sdk.runtime.tensorrt.architectures import architecture_of

if TYPE_CHECKING:
    from ztcir_sdk.runtime.tensorrt.cache import StoredEngine
    from ztcir_sdk.runtime.tensorrt.open import Target
    from ztcir_sdk.runtime.tensorrt.package import TensorRt

__all__ = [
    "EngineReport",
    "build_engines",
]


@dataclass(frozen=True)
class EngineReport:
    """One engine of a bundle, ready to be run."""

    graph: str
    precision: str
    architecture: str
    """As "sm_86"."""
    package: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    file: Path
    bytes: int
    seconds: float
    """What building it took, now or when it was built."""
    built: bool
    """Whether it was built now; otherwise it was there already."""

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
    """Build the engines of a bundle's graphs; those that are there already are kept.

    Args:
        bundle: whose graphs.
        precisions: of `Bundle.precisions`; by default all but those of `FOR_PROCESSORS`.
        gpu: a GPU or an architecture, as "RTX 3090" or "sm_86", which need not be here; by default
            the first one that is.
        package: "tensorrt" or "tensorrt_rtx"; by default what is installed and can do it.
        sizes: what the engines are to take at once.
        workspace_mb: most scratch memory of any layer, in MiB; by default all of the GPU's.
        folder: where to put them; by default where a `Retriever` looks for them.
        rebuild: build also what is there.
        progress: called with each engine.

    Raises:
        MissingDependencyError: TensorRT, or what asks the GPU, is not installed.
        UsageError: there is no such GPU or package.
        UnsupportedGraphError: a graph has an operator that TensorRT does not know.
        ZtcirError: the bundle lacks the precision, there is no GPU, or building failed.
    """
    from ztcir_sdk.runtime.tensorrt.cache import EngineCache
    from ztcir_sdk.runtime.tensorrt.open import ensure_engine

    if workspace_mb is not None and workspace_mb < 1:
        raise UsageError(f"The workspace must be at least 1 MiB, not {workspace_mb}.")
    if not precisions:
        precisions = [name for name in bundle.precisions if name not in FOR_PROCESSORS]
        if not precisions:
            raise ZtcirError(
                f"The bundle {bundle.name} holds {', '.join(bundle.precisions)} alone, which is "
                "for processors: export it in fp32 or fp16 too."
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
            if report.file not in [one.file for one in reports]:  # precisions may share a graph
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
    """Return what builds, and for which GPU: the one that is here, or one that is named."""
    from ztcir_sdk.runtime.tensorrt.cuda import Gpu
    from ztcir_sdk.runtime.tensorrt.open import Target
    from ztcir_sdk.runtime.tensorrt.package import import_tensorrt

    wanted = None if gpu is None else architecture_of(gpu)
    here: Target | None = None
    why: ZtcirError | None = None
    try:
        here = Target.of(Gpu(0))
    except ZtcirError as error:
        why = error
    if here is not None and wanted in (None, here.architecture):
        return import_tensorrt(package), here
    if wanted is None:
        assert why is not None
        if isinstance(why, MissingDependencyError):
            raise why
        cause = str(why).rstrip(".")
        raise ZtcirError(f"{cause}; or name with --gpu what to compile for.")
    if package is None:
        # Only that for RTX compiles for a GPU that is not here.
        try:
            return import_tensorrt("tensorrt_rtx"), Target(wanted)
        except MissingDependencyError:
            pass
    return import_tensorrt(package), Target(wanted)
