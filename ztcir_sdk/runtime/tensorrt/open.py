"""From a graph to a loaded engine: found in the cache, or built and put there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from ztcir_sdk.errors import MissingDependencyError, ZtcirError
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.source import GraphSource, ShapeRange
from ztcir_sdk.runtime.tensorrt.build import build_engine, read_timing_cache
from ztcir_sdk.runtime.tensorrt.cache import EngineCache, EngineError, EngineKey, StoredEngine
from ztcir_sdk.runtime.tensorrt.cuda import Gpu
from ztcir_sdk.runtime.tensorrt.graph import TensorRtGraph
from ztcir_sdk.runtime.tensorrt.package import TensorRt, import_tensorrt, installed_packages

__all__ = ["Target", "ensure_engine", "open_cached_engine", "open_engine"]


@dataclass(frozen=True)
class Target:
    """The GPU that an engine is for."""

    architecture: str
    """As "sm_86"."""
    gpu: str = ""
    """Its model, where it is here."""

    @classmethod
    def of(cls, gpu: Gpu) -> Target:
        """Return the target that a GPU is."""
        return cls(gpu.architecture, gpu.name)

    def key(self, source: GraphSource, trt: TensorRt) -> EngineKey:
        """Return what an engine of a graph must fit."""
        return EngineKey(
            graph=source.name,
            digest=source.digest,
            precision=source.precision,
            package=trt.package,
            version=trt.version,
            architecture=self.architecture,
            # TensorRT picks kernels by timing them on the very model; that for RTX does not.
            gpu="" if trt.is_rtx else self.gpu,
        )


def ensure_engine(
    source: GraphSource,
    trt: TensorRt,
    target: Target,
    *,
    cache: EngineCache | None = None,
    workspace: int | None = None,
    rebuild: bool = False,
    same_ranges: bool = False,
) -> tuple[StoredEngine, bool]:
    """Return a graph's engine from the cache, and whether it had to be built.

    Args:
        source: the graph, with the sizes of its dynamic axes.
        trt: what builds and is to run it.
        target: the GPU; where its model is not known, it need not be here.
        cache: where engines are.
        workspace: most scratch memory of any layer, in bytes.
        rebuild: build even if there is one.
        same_ranges: build if there is one for other sizes.

    Raises:
        EngineBuildError: it cannot be built; see `build_engine`.
        EngineError: the cache cannot be written to.
    """
    cache = cache or EngineCache()
    key = target.key(source, trt)
    with cache.build_lock(key):
        if not rebuild:
            try:
                stored = cache.load(key)
            except EngineError:
                pass
            else:
                if not same_ranges or _same(stored.ranges, source):
                    return stored, False
        built = build_engine(
            source,
            trt,
            architecture=target.architecture if trt.architectures() or not target.gpu else None,
            workspace=workspace,
            timing_cache=read_timing_cache(cache.timing_cache(key)),
        )
        return cache.store(key, built), True


def open_engine(source: GraphSource, settings: RuntimeSettings) -> TensorRtGraph:
    """Load a graph's engine on the device of the settings, building it if there is none.

    Raises:
        MissingDependencyError: TensorRT or `cuda-python` is not installed.
        EngineError: there is none, and the settings say that none is to be built.
        ZtcirError: the GPU cannot be used, has no memory left, or the engine cannot be built.
    """
    graph = _open(source, settings, Gpu(_number(settings.device)))
    if graph is not None:
        return graph
    trt, gpu = import_tensorrt(), Gpu(_number(settings.device))
    target, cache = Target.of(gpu), EngineCache()
    if not settings.build_engines:
        stored = cache.load(target.key(source, trt))  # says why there is none
        return TensorRtGraph(stored, trt, gpu, settings)
    warnings.warn(
        f"Building {trt}'s engine of {source.name} ({source.precision}) for {gpu.name}; it is "
        "kept for the next time.",
        stacklevel=2,
    )
    gpu.use()
    stored, _ = ensure_engine(source, trt, target, cache=cache, workspace=settings.gpu_memory)
    return TensorRtGraph(stored, trt, gpu, settings)


def open_cached_engine(source: GraphSource, settings: RuntimeSettings) -> TensorRtGraph | None:
    """Load a graph's engine if there is one for the GPU; warn of one that does not fit any more."""
    if not installed_packages() or not EngineCache().has_engine_of(source.digest):
        return None
    try:
        gpu = Gpu(_number(settings.device))
        return _open(source, settings, gpu, warn=True)
    except MissingDependencyError:
        return None
    except ZtcirError as error:
        warnings.warn(f"ONNX Runtime runs {source.name}: {error}", stacklevel=2)
        return None


def _open(
    source: GraphSource, settings: RuntimeSettings, gpu: Gpu, *, warn: bool = False
) -> TensorRtGraph | None:
    """Load the first engine that there is, of any package that is installed."""
    cache = EngineCache()
    why: EngineError | None = None
    for package in installed_packages():
        try:
            trt = import_tensorrt(package)
        except MissingDependencyError:
            continue  # told by whoever needs one
        try:
            stored = cache.load(Target.of(gpu).key(source, trt))
        except EngineError as error:
            why = why or error
            continue
        return TensorRtGraph(stored, trt, gpu, settings)
    if warn and why is not None:
        warnings.warn(f"ONNX Runtime runs {source.name}: {why}", stacklevel=3)
    return None


def _same(ranges: Mapping[str, ShapeRange], source: GraphSource) -> bool:
    return all(source.ranges.get(edge) == sizes for edge, sizes in ranges.items())


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)
