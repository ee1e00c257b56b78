"""What can run graphs on this machine: ONNX Runtime's providers, the GPU, CUDA, TensorRT."""

from __future__ import annotations

import contextlib

from ztcir_sdk.doctor.findings import Diagnosis
from ztcir_sdk.doctor.libraries import (
    Library,
    TensorRtTrial,
    cuda_libraries,
    tensorrt_libraries,
    try_tensorrt,
)
from ztcir_sdk.environment import ONNX_RUNTIMES, installed
from ztcir_sdk.errors import MissingDependencyError
from ztcir_sdk.runtime.onnx.providers import CPU, CUDA, import_onnxruntime
from ztcir_sdk.runtime.onnx.trial import run_tiny_graph
from ztcir_sdk.runtime.tensorrt.package import installed_packages

__all__ = ["look_at_gpu", "look_at_runtime"]

_REMOTE = "AzureExecutionProvider"  # in every ONNX Runtime, and no device: it calls a service


def look_at_runtime(diagnosis: Diagnosis, *, gpus: bool) -> None:
    """Run a graph on every provider that ONNX Runtime offers."""
    name = "ONNX Runtime"
    distributions = [one for one in ONNX_RUNTIMES if installed(one) is not None]
    if len(distributions) > 1:
        # https://github.com/microsoft/onnxruntime/issues/26996
        diagnosis.add(
            name,
            "problem",
            f"{' and '.join(distributions)} are both installed, and overwrite each other's files",
            f"pip uninstall {' '.join(distributions)}, then pip install 'ztcir[cpu]', or "
            "'ztcir[gpu]' for an NVIDIA GPU",
        )
    try:
        ort = import_onnxruntime()
    except MissingDependencyError as error:
        diagnosis.add(name, "problem", "it cannot be used", str(error))
        return
    version = getattr(ort, "__version__", None)
    if version is None:  # an empty folder, which an uninstalled distribution may leave
        diagnosis.add(
            name,
            "problem",
            "its package is there, but empty",
            "pip install --force-reinstall 'ztcir[cpu]', or 'ztcir[gpu]' for an NVIDIA GPU",
        )
        return
    which = distributions[0] if len(distributions) == 1 else name
    diagnosis.add(name, "ok", f"{which} {version}")
    for provider in ort.get_available_providers():
        if provider != _REMOTE:
            run = run_tiny_graph(ort, provider)
            diagnosis.providers.append(run)
            short = provider.removesuffix("ExecutionProvider")
            if run.ran:
                every = ", every node of it" if list(run.nodes) == [provider] else ""
                diagnosis.add(f"provider {short}", "ok", f"ran a graph{every}")
            else:
                needed = provider == CPU
                diagnosis.add(
                    f"provider {short}",
                    "problem" if needed else "note",
                    f"is offered, but did not run a graph: {run.why_not}",
                    "pip install --force-reinstall 'ztcir[cpu]'"
                    if needed
                    else "searches run on the CPU; for this provider, install its driver and "
                    "libraries",
                )
    if gpus and not any(run.ran and run.provider != CPU for run in diagnosis.providers):
        diagnosis.add(
            "GPU in use",
            "note",
            "there is a GPU, which ONNX Runtime does not use",
            "install what is said to be missing below"
            if CUDA in ort.get_available_providers()
            else f"pip uninstall {' '.join(distributions) or 'onnxruntime'}, then "
            "pip install 'ztcir[gpu]'",
        )


def look_at_gpu(diagnosis: Diagnosis, gpus: list[str]) -> None:
    """Look at the GPU, and at what is needed to use it: driver, CUDA, cuDNN, TensorRT."""
    diagnosis.add("GPU", "ok" if gpus else "note", "; ".join(gpus) or "no NVIDIA GPU is seen")
    try:
        ort = import_onnxruntime()
    except MissingDependencyError:
        ort = None
    offered: list[str] = getattr(ort, "get_available_providers", list)()
    if gpus or CUDA in offered:
        for library in cuda_libraries(ort):
            _add_library(diagnosis, library)
    packages = installed_packages()
    if not packages:
        diagnosis.add(
            "TensorRT",
            "note",
            "is not installed",
            "pip install 'ztcir[trt]' to run and export TensorRT engines" if gpus else "",
        )
    for library in tensorrt_libraries():
        if library.version is None:
            _add_library(diagnosis, library)
    for package in packages:
        with contextlib.suppress(MissingDependencyError):  # told above
            _add_trial(diagnosis, try_tensorrt(package))


def _add_library(diagnosis: Diagnosis, library: Library) -> None:
    if library.version is not None:
        diagnosis.add(library.name, "ok", library.version)
    else:
        why = f" ({library.why})" if library.why else ""
        diagnosis.add(library.name, "note", f"does not load{why}", library.cure)


def _add_trial(diagnosis: Diagnosis, trial: TensorRtTrial) -> None:
    if trial.ran:
        diagnosis.add(trial.name, "ok", f"{trial.version}, built an engine and ran it on the GPU")
    elif trial.compiled:
        diagnosis.add(
            trial.name,
            "note",
            f"{trial.version}, compiled an engine ahead of time, and did not run it: "
            f"{trial.why_not}",
        )
    else:
        diagnosis.add(
            trial.name, "note", f"{trial.version}, did not build an engine: {trial.why_not}"
        )
