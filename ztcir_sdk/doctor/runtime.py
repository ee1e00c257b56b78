"""Check what can run graphs on this machine: ONNX Runtime, its providers, the GPU, TensorRT."""

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
from ztcir_sdk.errors import MissingDependencyError, install_hint
from ztcir_sdk.runtime.onnx.preload import CPU, CUDA
from ztcir_sdk.runtime.onnx.providers import import_onnxruntime
from ztcir_sdk.runtime.onnx.trial import ProviderRun, run_tiny_graph
from ztcir_sdk.runtime.tensorrt.package import installed_packages

_REMOTE = "AzureExecutionProvider"  # not a device: it calls a web service


def check_runtime(diagnosis: Diagnosis, *, gpus: bool) -> None:
    """Check ONNX Runtime, and run a graph on each of its providers."""
    name = "ONNX Runtime"
    distributions = [one for one in ONNX_RUNTIMES if installed(one) is not None]
    if len(distributions) > 1:
        # https://github.com/microsoft/onnxruntime/issues/26996
        diagnosis.add(
            name,
            "problem",
            f"{' and '.join(distributions)} are both installed and overwrite each other's files",
            f"pip uninstall {' '.join(distributions)}, then {install_hint('cpu')}, or "
            f"{install_hint('gpu')} for an NVIDIA GPU",
        )
    try:
        ort = import_onnxruntime()
    except MissingDependencyError as error:
        diagnosis.add(name, "problem", "cannot be used", str(error))
        return
    version = getattr(ort, "__version__", None)
    if version is None:  # uninstalling a distribution may leave an empty folder
        diagnosis.add(
            name,
            "problem",
            "the package is empty",
            f"{install_hint('cpu', reinstall=True)}, or {install_hint('gpu', reinstall=True)} for "
            "an NVIDIA GPU",
        )
        return
    distribution = distributions[0] if len(distributions) == 1 else name
    diagnosis.add(name, "ok", f"{distribution} {version}")
    for provider in ort.get_available_providers():
        if provider != _REMOTE:
            run = run_tiny_graph(ort, provider)
            diagnosis.providers.append(run)
            _add_provider(diagnosis, run)
    if gpus and not any(run.ran and run.provider != CPU for run in diagnosis.providers):
        diagnosis.add(
            "GPU in use",
            "note",
            "ONNX Runtime does not use the GPU",
            "install the missing libraries listed below"
            if CUDA in ort.get_available_providers()
            else f"pip uninstall {' '.join(distributions) or 'onnxruntime'}, then "
            f"{install_hint('gpu')}",
        )


def _add_provider(diagnosis: Diagnosis, run: ProviderRun) -> None:
    name = f"provider {run.provider.removesuffix('ExecutionProvider')}"
    if run.ran:
        nodes = "all nodes of " if list(run.nodes) == [run.provider] else ""
        diagnosis.add(name, "ok", f"ran {nodes}a test graph")
        return
    problem = f"is available, but did not run a test graph: {run.why_not}"
    if run.provider == CPU:
        diagnosis.add(name, "problem", problem, install_hint("cpu", reinstall=True))
    else:
        fix = "searches use the CPU; for this provider, install its driver and libraries"
        diagnosis.add(name, "note", problem, fix)


def check_gpu(diagnosis: Diagnosis, gpus: list[str]) -> None:
    """Check the GPU and the libraries that it needs: driver, CUDA, cuDNN, TensorRT."""
    diagnosis.add("GPU", "ok" if gpus else "note", "; ".join(gpus) or "no NVIDIA GPU found")
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
            f"{install_hint('trt')} to build and run TensorRT engines" if gpus else "",
        )
    for library in tensorrt_libraries():
        if library.version is None:
            _add_library(diagnosis, library)
    for package in packages:
        with contextlib.suppress(MissingDependencyError):  # reported above
            _add_trial(diagnosis, try_tensorrt(package))


def _add_library(diagnosis: Diagnosis, library: Library) -> None:
    if library.version is not None:
        diagnosis.add(library.name, "ok", library.version)
    else:
        why = f" ({library.why})" if library.why else ""
        diagnosis.add(library.name, "note", f"cannot be loaded{why}", library.fix)


def _add_trial(diagnosis: Diagnosis, trial: TensorRtTrial) -> None:
    if trial.ran:
        diagnosis.add(trial.name, "ok", f"{trial.version}, built an engine and ran it on the GPU")
    elif trial.compiled:
        diagnosis.add(
            trial.name,
            "note",
            f"{trial.version}, compiled an engine ahead of time, but did not run it: "
            f"{trial.why_not}",
        )
    else:
        diagnosis.add(
            trial.name, "note", f"{trial.version}, did not build an engine: {trial.why_not}"
        )
