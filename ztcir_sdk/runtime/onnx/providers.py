"""Which execution provider of ONNX Runtime runs a graph, with what options, and why it does not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from ztcir_sdk.errors import MissingDependencyError, ZtcirError
from ztcir_sdk.runtime.onnx.preload import preload
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.source import GraphSource

__all__ = ["CPU", "CUDA", "TENSORRT", "choose_providers", "import_onnxruntime", "not_loaded"]

TENSORRT, CUDA, CPU = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed, or does not load.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingDependencyError(
            "ONNX Runtime is not installed: pip install 'ztcir[cpu]', "
            "or 'ztcir[gpu]' for an NVIDIA GPU."
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime does not load ({error}): reinstall it with pip install "
            "--force-reinstall 'ztcir[cpu]', or 'ztcir[gpu]' for an NVIDIA GPU."
        ) from error
    return onnxruntime


def choose_providers(
    ort: Any, settings: RuntimeSettings, source: Callable[[], GraphSource]
) -> list[Any]:
    """Return what `InferenceSession` takes as providers: the one that is asked for first.

    Args:
        ort: ONNX Runtime.
        settings: with a device that is resolved: "cpu" or "cuda:N".
        source: gives the graph, for the provider that builds engines.

    Raises:
        ZtcirError: this ONNX Runtime lacks the provider, or its libraries are missing.
    """
    if settings.device == "cpu":
        return [CPU]
    number = settings.device.partition(":")[2]
    wanted = TENSORRT if settings.backend == "onnx-tensorrt" else CUDA
    if wanted not in ort.get_available_providers():
        what = "TensorRT" if wanted == TENSORRT else "CUDA"
        raise not_loaded(settings, f"this ONNX Runtime was built without {what}")
    if missing := preload(ort, wanted):
        raise not_loaded(settings, missing)
    # TF32 would keep 10 of 23 bits, and a gallery would no longer fit queries from a processor.
    cuda: dict[str, Any] = {"device_id": number, "use_tf32": "0"}
    if settings.gpu_memory is not None:
        cuda["gpu_mem_limit"] = str(settings.gpu_memory)
    if settings.low_memory:
        cuda["arena_extend_strategy"] = "kSameAsRequested"
    if wanted == CUDA:
        return [(CUDA, cuda), CPU]
    return [(TENSORRT, _tensorrt_options(ort, number, settings, source())), (CUDA, cuda), CPU]


def not_loaded(settings: RuntimeSettings, why: str) -> ZtcirError:
    """Return the error of a provider that was asked for and cannot be used."""
    what, other = settings.device, "device cpu"
    cure = "pip uninstall onnxruntime, then pip install 'ztcir[gpu]' and a driver for its CUDA"
    if settings.backend == "onnx-tensorrt":
        what, other = f"ONNX Runtime's TensorRT on {what}", "backend onnx"
    if "libcuda.so" in why or "nvcuda" in why:
        cure = "install NVIDIA's driver, or start the container with --gpus all"
    elif match := re.search(r"libnv(?:infer|onnxparser)\w*\.so\.(\d+)", why):
        cure = f"pip install 'tensorrt=={match[1]}.*'"  # not just any: it asks for this one
    elif "cannot open shared object" in why:
        cure = "pip install 'onnxruntime-gpu[cuda,cudnn]', or install that CUDA and cuDNN"
    return ZtcirError(
        f"{what} was asked for but cannot be used ({why}): {cure}, or choose {other}."
    )


def _tensorrt_options(
    ort: Any, number: str, settings: RuntimeSettings, source: GraphSource
) -> dict[str, Any]:
    from ztcir_sdk.runtime.tensorrt.cache import EngineCache  # a processor does without it

    folder = EngineCache().folder / f"onnxruntime-{ort.__version__}" / source.digest[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options: dict[str, Any] = {
        "device_id": number,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": os.fspath(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": os.fspath(folder),
        "trt_cuda_graph_enable": False,
    }
    if settings.gpu_memory is not None:
        options["trt_max_workspace_size"] = str(settings.gpu_memory)
    edges = {edge for spec in source.inputs for edge in spec.shape if isinstance(edge, str)}
    if source.inputs and edges <= source.ranges.keys():
        # Without them an engine is built again for each shape that is new.
        for option, which in (("min", "least"), ("opt", "usual"), ("max", "most")):
            options[f"trt_profile_{option}_shapes"] = ",".join(
                f"{spec.name}:{_shape(spec, source, which)}" for spec in source.inputs
            )
    return options


def _shape(spec: TensorSpec, source: GraphSource, which: str) -> str:
    sizes = (
        getattr(source.ranges[edge], which) if isinstance(edge, str) else edge
        for edge in spec.shape
    )
    return "x".join(map(str, sizes))
