"""Open a graph's engine: load it from the cache, or build it and store it there."""

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


@dataclass(frozen=True)
class Target:
    """The GPU that an engine is built for."""

    architecture: str
    """Compute architecture, such as "sm_86"."""
    gpu: str = ""
    """Model of the GPU, if this machine has it."""

    @classmethod
    def of(cls, gpu: Gpu) -> Target:
        """Return a GPU of this machine as a target."""
        return cls(gpu.architecture, gpu.name)

    def key(self, source: GraphSource, trt: TensorRt) -> EngineKey:
        """Return the key of a graph's engine for this target."""
        return EngineKey(
            graph=source.name,
            digest=source.digest,
            precision=source.precision,
            package=trt.package,
            version=trt.version,
            architecture=self.architecture,
            # TensorRT chooses kernels by timing them on this model; TensorRT for RTX does not.
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
        trt: the TensorRT package that builds and runs it.
        target: the GPU; one without a model need not be in this machine.
        cache: the cache of engines; by default the user's.
        workspace: maximum scratch memory of a layer, in bytes.
        rebuild: build the engine even if the cache has it.
        same_ranges: also build it if the cached engine accepts other sizes.

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
                if not same_ranges or _same_ranges(stored.ranges, source):
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
    """Load a graph's engine on the device of the settings; build it if the cache has none.

    Raises:
        MissingDependencyError: TensorRT or `cuda-python` is not installed.
        EngineError: the cache has no engine, and the settings forbid building one.
        ZtcirError: the GPU cannot be used, is out of memory, or the engine cannot be built.
    """
    gpu = Gpu(_device_number(settings.device))
    graph = _load_cached(source, settings, gpu)
    if graph is not None:
        return graph
    trt = import_tensorrt()
    target, cache = Target.of(gpu), EngineCache()
    if not settings.build_engines:
        stored = cache.load(target.key(source, trt))  # the error names the reason
        return TensorRtGraph(stored, trt, gpu, settings)
    warnings.warn(
        f"Building the {trt} engine of {source.name} ({source.precision}) for {gpu.name}; it is "
        "kept for next time.",
        stacklevel=2,
    )
    gpu.use()
    stored, _ = ensure_engine(source, trt, target, cache=cache, workspace=settings.gpu_memory)
    return TensorRtGraph(stored, trt, gpu, settings)


def open_cached_engine(source: GraphSource, settings: RuntimeSettings) -> TensorRtGraph | None:
    """Load a graph's engine if the cache has one for the GPU; warn if it has only outdated ones."""
    if not installed_packages() or not EngineCache().has_engine_of(source.digest):
        return None
    try:
        gpu = Gpu(_device_number(settings.device))
        return _load_cached(source, settings, gpu, warn=True)
    except MissingDependencyError:
        return None
    except ZtcirError as error:
        warnings.warn(f"ONNX Runtime runs {source.name}: {error}", stacklevel=2)
        return None


def _load_cached(
    source: GraphSource, settings: RuntimeSettings, gpu: Gpu, *, warn: bool = False
) -> TensorRtGraph | None:
    """Load the engine of the first installed package that has one; None if none has."""
    cache = EngineCache()
    why: EngineError | None = None
    for package in installed_packages():
        try:
            trt = import_tensorrt(package)
        except MissingDependencyError:
            continue  # `import_tensorrt` reports it where a package is needed
        try:
            stored = cache.load(Target.of(gpu).key(source, trt))
        except EngineError as error:
            why = why or error
            continue
        return TensorRtGraph(stored, trt, gpu, settings)
    if warn and why is not None:
        warnings.warn(f"ONNX Runtime runs {source.name}: {why}", stacklevel=3)
    return None


def _same_ranges(ranges: Mapping[str, ShapeRange], source: GraphSource) -> bool:
    return all(source.ranges.get(edge) == sizes for edge, sizes in ranges.items())


def _device_number(device: str) -> int:
    return int(device.partition(":")[2] or 0)
