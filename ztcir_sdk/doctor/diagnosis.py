"""What runs on this machine, and what to do about what does not."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.doctor.findings import Diagnosis, Finding
from ztcir_sdk.doctor.runtime import look_at_gpu, look_at_runtime
from ztcir_sdk.environment import describe_machine
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.index.default import default_index_path
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.onnx.trial import ProviderRun
from ztcir_sdk.version import __version__

__all__ = ["Diagnosis", "Finding", "ProviderRun", "diagnose"]


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
    look_at_runtime(diagnosis, gpus=bool(machine["gpus"]))
    look_at_gpu(diagnosis, machine["gpus"])
    found = _look_at_bundle(diagnosis, bundle)
    _look_at_index(diagnosis, index, found)
    return diagnosis


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
    precisions = ", ".join(_precision(bundle, name) for name in bundle.precisions)
    diagnosis.add("answers by", "ok", f"{', '.join(bundle.methods)}; in {precisions}")
    diagnosis.model_card = dict(bundle.manifest.model_card)
    quality = bundle.manifest.model_card.get("quality")
    if quality is not None:
        diagnosis.add("measured quality", "ok", _in_words(quality))
    return bundle


def _precision(bundle: Bundle, precision: str) -> str:
    """Name a precision, and the graphs that run in another one under its name."""
    used = {graph: bundle.variant(graph, precision).precision for graph in bundle.manifest.graphs}
    others = [f"{graph} in {own}" for graph, own in used.items() if own != precision]
    return f"{precision} ({', '.join(others)})" if others else precision


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
