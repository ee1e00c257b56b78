"""What runs on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ztcir_sdk import __version__
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.environment import ONNX_RUNTIMES, describe_machine, installed, now, versions
from ztcir_sdk.errors import MissingDependencyError, ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.retriever import Retriever, default_index_path
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.onnx import import_onnxruntime

__all__ = ["Diagnosis", "Finding", "ProviderRun", "diagnose"]

Status = Literal["ok", "note", "problem"]

# y = MatMul(x, x) of 2 x 2 float32 (opset 13, IR version 8), as `onnx.helper` serialises it.
_TINY_GRAPH = bytes.fromhex(
    "08083a400a110a01780a017812017922064d61744d756c1201675a130a0178120e0a0c"
    "080112080a0208020a02080262130a0179120e0a0c080112080a0208020a02080242040a00100d"
)
_CPU = "CPUExecutionProvider"
_REMOTE = "AzureExecutionProvider"  # in every ONNX Runtime, and no device: it calls a service


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    """"problem" stands in the way of a search; "note" does not."""
    detail: str
    cure: str = ""
    """What to do, if there is something to do."""

    def to_dict(self) -> dict[str, str]:
        """Return JSON values."""
        values = {"name": self.name, "status": self.status, "detail": self.detail}
        return {**values, "cure": self.cure} if self.cure else values


@dataclass(frozen=True)
class ProviderRun:
    """Whether an execution provider of ONNX Runtime really ran a graph here."""

    provider: str
    ran: bool
    why_not: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values: dict[str, Any] = {"provider": self.provider, "ran": self.ran}
        return values if self.ran else {**values, "why_not": self.why_not}


@dataclass
class Diagnosis:
    """All findings, in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)
    providers: list[ProviderRun] = field(default_factory=list)
    model_card: dict[str, Any] | None = None

    @property
    def can_search(self) -> bool:
        """Whether nothing stands in the way."""
        return all(finding.status != "problem" for finding in self.findings)

    def add(self, name: str, status: Status, detail: str, cure: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(name, status, detail, cure))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the date, the machine and the versions."""
        return {
            "can_search": self.can_search,
            "date": now(),
            "machine": describe_machine(),
            "versions": versions(),
            "providers": [run.to_dict() for run in self.providers],
            "model_card": self.model_card,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def diagnose(
    *,
    bundle: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
) -> Diagnosis:
    """Look at everything a search needs; nothing is changed, and no error is raised.

    Args:
        bundle: a bundle's folder; by default the one inside the package.
        index: an index; by default the one that a search here would use.
    """
    diagnosis = Diagnosis()
    machine = describe_machine()
    diagnosis.add(
        "system",
        "ok",
        f"Python {platform.python_version()}, {machine['os']}, {machine['cpu']}, "
        f"{available_cores()} CPU threads to use of {machine['cpus_of_host']}",
    )
    diagnosis.add("ztcir", "ok", __version__)
    _look_at_runtime(diagnosis, gpus=bool(machine["gpus"]))
    _look_at_gpu(diagnosis, machine["gpus"])
    found = _look_at_bundle(diagnosis, bundle)
    _look_at_index(diagnosis, index, found)
    return diagnosis


def _look_at_runtime(diagnosis: Diagnosis, *, gpus: bool) -> None:
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
            run = _run_tiny_graph(ort, provider)
            diagnosis.providers.append(run)
            short = provider.removesuffix("ExecutionProvider")
            if run.ran:
                diagnosis.add(f"provider {short}", "ok", "ran a graph")
            else:
                needed = provider == _CPU
                diagnosis.add(
                    f"provider {short}",
                    "problem" if needed else "note",
                    f"is offered, but did not run a graph: {run.why_not}",
                    "pip install --force-reinstall 'ztcir[cpu]'"
                    if needed
                    else "searches run on the CPU; for this provider, install its driver and "
                    "libraries",
                )
    if gpus and not any(run.ran and run.provider != _CPU for run in diagnosis.providers):
        diagnosis.add(
            "GPU in use",
            "note",
            "there is a GPU, which ONNX Runtime does not use",
            f"pip uninstall {' '.join(distributions) or 'onnxruntime'}, then "
            "pip install 'ztcir[gpu]'",
        )


def _run_tiny_graph(ort: Any, provider: str) -> ProviderRun:
    """Run a graph on one provider, with no other to fall back to in silence."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is told in the finding
    options.intra_op_num_threads = 1
    if provider != _CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
    x = np.array([[1, 2], [3, 4]], dtype=np.float32)
    try:
        session = ort.InferenceSession(
            _TINY_GRAPH, options, providers=[provider], enable_fallback=0
        )
        used = session.get_providers()[0]
        [y] = session.run(None, {"x": x})
    except Exception as error:  # ONNX Runtime's own exceptions have no common base but this
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return ProviderRun(provider, False, first)
    if used != provider:
        return ProviderRun(provider, False, f"{used} ran in its place")
    if not np.allclose(y, x @ x):
        return ProviderRun(provider, False, f"the result is wrong: {y.tolist()}")
    return ProviderRun(provider, True)


def _look_at_gpu(diagnosis: Diagnosis, gpus: list[str]) -> None:
    diagnosis.add("GPU", "ok" if gpus else "note", "; ".join(gpus) or "no NVIDIA GPU is seen")
    engines = [
        f"{label} {installed(distribution) or ''}".strip()
        for label, module, distribution in (
            ("TensorRT", "tensorrt", "tensorrt"),
            ("TensorRT-RTX", "tensorrt_rtx", "tensorrt-rtx-cu13"),
        )
        if importlib.util.find_spec(module) is not None
    ]
    diagnosis.add(
        "TensorRT",
        "ok" if engines else "note",
        ", ".join(engines) or "is not installed",
        "" if engines or not gpus else "pip install 'ztcir[trt]' to export TensorRT engines",
    )


def _look_at_bundle(diagnosis: Diagnosis, path: str | os.PathLike[str] | None) -> Bundle | None:
    try:
        bundle = Bundle.embedded() if path is None else Bundle.load(path)
    except ZtcirError as error:
        diagnosis.add("bundle", "problem", "it cannot be used", str(error))
        return None
    size = sum(record.bytes for record in bundle.manifest.files.values())
    diagnosis.add(
        "bundle",
        "ok",
        f"{bundle.name}, {size / 1e6:.1f} MB, every checksum is right, "
        f"fingerprint {bundle.fingerprint[:12]}",
    )
    diagnosis.model_card = dict(bundle.manifest.model_card)
    quality = bundle.manifest.model_card.get("quality")
    if quality is not None:
        diagnosis.add("measured quality", "ok", _in_words(quality))
    return bundle


def _in_words(quality: Any) -> str:
    """Say what a model card has measured; of `ztcir eval ... --method all`, mAP@10 by method."""
    if not isinstance(quality, dict):
        return f"{quality:.3f}" if isinstance(quality, float) else str(quality)
    if isinstance(quality.get("overall"), dict):
        return _in_words(quality["overall"].get("mAP@10"))
    if isinstance(quality.get("methods"), dict):
        return f"mAP@10: {_in_words(quality['methods'])}"
    return ", ".join(f"{name} {_in_words(value)}" for name, value in quality.items())


def _look_at_index(
    diagnosis: Diagnosis, path: str | os.PathLike[str] | None, bundle: Bundle | None
) -> None:
    try:
        where = default_index_path() if path is None else Path(path)
    except ZtcirError as error:
        diagnosis.add("index", "note", "no index is chosen", str(error))
        return
    try:
        index = Index.open(where, image_tower=None)
        if bundle is not None:
            Retriever(bundle).open_index(where)
    except ZtcirError as error:
        diagnosis.add("index", "problem", f"{where} cannot be searched", str(error))
        return
    diagnosis.add("index", "ok", f"{where}, {len(index)} pictures of {index.root}")
