"""Execution providers of ONNX Runtime: choice, options, and the errors of unusable ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from ztcir_sdk.errors import MissingDependencyError, ZtcirError, install_hint
from ztcir_sdk.runtime.onnx.named import NAMED_DEVICES, named_device_error, provider_options
from ztcir_sdk.runtime.onnx.preload import CPU, CUDA, TENSORRT, preload
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.runtime.settings import RuntimeSettings
from ztcir_sdk.runtime.source import GraphSource
from ztcir_sdk.runtime.tensorrt.cuda import DRIVER_FIX

CUDA_LIBRARIES_FIX = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed, or cannot be loaded.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingDependencyError(
            f"ONNX Runtime is not installed: {install_hint('cpu')}, or {install_hint('gpu')} for "
            "an NVIDIA GPU."
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime cannot be loaded ({error}): {install_hint('cpu', reinstall=True)}, or "
            f"{install_hint('gpu', reinstall=True)} for an NVIDIA GPU."
        ) from error
    return onnxruntime


def choose_providers(
    ort: Any, settings: RuntimeSettings, source: Callable[[], GraphSource]
) -> list[Any]:
    """Return the ``providers`` of an ``InferenceSession``, the requested one first.

    Args:
        ort: the module ``onnxruntime``.
        settings: settings with a resolved device: "cpu", "cuda:N", or a name of `NAMED_DEVICES`.
        source: function that returns the graph, for the provider that builds engines.

    Raises:
        ZtcirError: this ONNX Runtime lacks the provider, or a library of it is missing.
    """
    if settings.device == "cpu":
        return [CPU]
    if named := NAMED_DEVICES.get(settings.device):
        if named.provider not in ort.get_available_providers():
            raise provider_error(settings, f"this ONNX Runtime has no {named.provider}")
        options = provider_options(settings.device, settings.threads_in_use)
        return [(named.provider, options), CPU]
    number = settings.device.partition(":")[2]
    provider = TENSORRT if settings.backend == "onnx-tensorrt" else CUDA
    if provider not in ort.get_available_providers():
        missing = "TensorRT" if provider == TENSORRT else "CUDA"
        raise provider_error(settings, f"this ONNX Runtime was built without {missing}")
    if load_error := preload(ort, provider):
        raise provider_error(settings, load_error)
    # TF32 keeps 10 of 23 bits: queries encoded on a CPU would no longer match the gallery.
    cuda: dict[str, Any] = {"device_id": number, "use_tf32": "0"}
    if settings.gpu_memory is not None:
        cuda["gpu_mem_limit"] = str(settings.gpu_memory)
    if settings.low_memory:
        cuda["arena_extend_strategy"] = "kSameAsRequested"
    if provider == CUDA:
        return [(CUDA, cuda), CPU]
    return [(TENSORRT, _tensorrt_options(ort, number, settings, source())), (CUDA, cuda), CPU]


def provider_error(settings: RuntimeSettings, why: str) -> ZtcirError:
    """Return the error for a requested provider that cannot be used."""
    if settings.device in NAMED_DEVICES:
        return named_device_error(settings.device, why)
    provider, other = settings.device, "device cpu"
    fix = (
        f"pip uninstall onnxruntime, then {install_hint('gpu')}, and install a driver for its CUDA"
    )
    if settings.backend == "onnx-tensorrt":
        provider, other = f"ONNX Runtime's TensorRT on {provider}", "backend onnx"
    if "libcuda.so" in why or "nvcuda" in why:
        fix = DRIVER_FIX
    elif match := re.search(r"libnv(?:infer|onnxparser)\w*\.so\.(\d+)", why):
        fix = f"pip install 'tensorrt=={match[1]}.*'"  # ONNX Runtime needs this major version
    elif "cannot open shared object" in why:
        fix = f"{CUDA_LIBRARIES_FIX}, or install that CUDA and cuDNN"
    return ZtcirError(f"{provider} cannot be used ({why}): {fix}, or choose {other}.")


def _tensorrt_options(
    ort: Any, number: str, settings: RuntimeSettings, source: GraphSource
) -> dict[str, Any]:
    from ztcir_sdk.runtime.tensorrt.cache import EngineCache  # the CPU needs no engines

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
        # Without these options every new shape builds a new engine.
        for option, bound in (("min", "least"), ("opt", "usual"), ("max", "most")):
            options[f"trt_profile_{option}_shapes"] = ",".join(
                f"{spec.name}:{_shape(spec, source, bound)}" for spec in source.inputs
            )
    return options


def _shape(spec: TensorSpec, source: GraphSource, bound: str) -> str:
    sizes = (
        getattr(source.ranges[edge], bound) if isinstance(edge, str) else edge
        for edge in spec.shape
    )
    return "x".join(map(str, sizes))
