"""Check whether a search can run on this machine, and list fixes for what fails."""

from __future__ import annotations

import itertools
import os
import platform
import shlex
from pathlib import Path
from typing import Any

from ztcir_sdk.bundle import DEFAULT_BUNDLE, Bundle
from ztcir_sdk.doctor.findings import Diagnosis
from ztcir_sdk.doctor.runtime import check_gpu, check_runtime
from ztcir_sdk.environment import describe_machine
from ztcir_sdk.errors import ZtcirError, install_hint
from ztcir_sdk.gallery import AnyIndex, missing_folder, open_any
from ztcir_sdk.hub import load_model
from ztcir_sdk.index import Index
from ztcir_sdk.index.default import default_index_path
from ztcir_sdk.index.graph import can_use_graphs, graph_notes
from ztcir_sdk.index.manifest import old_colours
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.sources import image_exists, printable
from ztcir_sdk.version import __version__

CHECKED_IMAGES = 1000
"""Images of an index whose files are looked for, at least, if it has as many."""


def diagnose(
    *,
    bundle: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
) -> Diagnosis:
    """Check everything that a search needs. This changes no index, and raises no error.

    Args:
        bundle: folder or name of a bundle; by default the embedded one. A model of the hub is
            downloaded if it is not on this machine.
        index: folder of an index, or its address in Milvus; by default the one that a search in
            this folder would use.
    """
    diagnosis = Diagnosis()
    machine = describe_machine()
    diagnosis.add(
        "system",
        "ok",
        f"Python {platform.python_version()}, {machine['os']}, {machine['cpu']}, "
        f"{available_cores()} of {machine['cpus_of_host']} CPU threads available",
    )
    diagnosis.add("ztcir", "ok", __version__)
    check_runtime(diagnosis, gpus=bool(machine["gpus"]))
    check_gpu(diagnosis, machine["gpus"])
    found = _check_bundle(diagnosis, bundle)
    _check_index(diagnosis, index, found)
    return diagnosis


def _check_bundle(diagnosis: Diagnosis, path: str | os.PathLike[str] | None) -> Bundle | None:
    try:
        bundle = load_model(DEFAULT_BUNDLE if path is None else path, anew=True)
    except ZtcirError as error:
        diagnosis.add("bundle", "problem", "cannot be used", str(error))
        return None
    size = sum(record.bytes for record in bundle.manifest.files.values())
    diagnosis.add(
        "bundle",
        "ok",
        f"{bundle.name}, {size / 1e6:.1f} MB, all checksums match, "
        f"fingerprint {bundle.fingerprint[:12]}",
    )
    precisions = ", ".join(_precision(bundle, name) for name in bundle.precisions)
    diagnosis.add("methods", "ok", f"{', '.join(bundle.methods)}; in {precisions}")
    diagnosis.model_card = dict(bundle.manifest.model_card)
    quality = bundle.manifest.model_card.get("quality")
    if quality is not None:
        diagnosis.add("measured quality", "ok", _quality_text(quality))
    return bundle


def _precision(bundle: Bundle, precision: str) -> str:
    """Return a precision's name, and the graphs that run in another precision instead."""
    used = {graph: bundle.variant(graph, precision).precision for graph in bundle.manifest.graphs}
    others = [f"{graph} in {own}" for graph, own in used.items() if own != precision]
    return f"{precision} ({', '.join(others)})" if others else precision


def _quality_text(quality: Any) -> str:
    """Return the measured quality of a model card as text: with several methods, their mAP@10."""
    if not isinstance(quality, dict):
        return f"{quality:.3f}" if isinstance(quality, float) else str(quality)
    if isinstance(quality.get("overall"), dict):
        return _quality_text(quality["overall"].get("mAP@10"))
    if isinstance(quality.get("methods"), dict):
        return f"mAP@10: {_quality_text(quality['methods'])}"
    return ", ".join(f"{name} {_quality_text(value)}" for name, value in quality.items())


def _check_index(
    diagnosis: Diagnosis, path: str | os.PathLike[str] | None, bundle: Bundle | None
) -> None:
    try:
        where = default_index_path() if path is None else path
    except ZtcirError as error:
        diagnosis.add("index", "note", "none selected", str(error))
        return
    try:
        index = open_any(where, image_tower=None)
        if bundle is not None:
            Retriever(bundle).open_index(where)
    except ZtcirError as error:
        diagnosis.add("index", "problem", f"{where} cannot be searched", str(error))
        return
    for sentence in index.verify():
        diagnosis.add("index", "problem", f"{where} is damaged", sentence)
    if isinstance(index, Index):
        _check_graph(diagnosis, index)
    _check_root(diagnosis, where, index)
    if isinstance(index, Index):
        for sentence in old_colours(index.manifest):
            diagnosis.add(
                "index colours", "note", "colour profiles were ignored at first", sentence
            )


def _check_graph(diagnosis: Diagnosis, index: Index) -> None:
    """Report how an index is searched, and what would make it faster."""
    graph = index.manifest.graph
    if graph is not None:
        recall = "not measured" if graph.recall is None else f"{graph.recall:.3f}"
        detail = (
            f"graph of {graph.rows} vectors, recall@10 {recall} (M {graph.m}, ef_construction "
            f"{graph.ef_construction}, ef {graph.ef})"
        )
        if can_use_graphs():
            diagnosis.add("index graph", "ok", detail)
        else:
            hint = f"{install_hint('hnsw')}; without it, a search compares all images"
            diagnosis.add("index graph", "note", f"{detail}, which needs hnswlib", hint)
        return
    for sentence in graph_notes(index.manifest):
        diagnosis.add("index graph", "note", "there is none", sentence)


def _check_root(diagnosis: Diagnosis, where: str | os.PathLike[str], index: AnyIndex) -> None:
    """Report whether the images of an index still exist; of a large one, every n-th is checked."""
    root = printable(str(index.root))
    detail = f"{where}, {len(index)} images of {root}"
    if not index.root.is_dir():
        diagnosis.add(
            "index",
            "note",
            f"{detail}, which does not exist",
            "connect the disk, or name the folder that was moved: "
            f"`ztcir index --root FOLDER --to {shlex.quote(str(where))}`",
        )
        return
    step = max(1, len(index) // CHECKED_IMAGES)
    paths = [item.path for item in itertools.islice(index.items(), 0, None, step)]
    missing = [path for path in paths if not image_exists(index.root / path)]
    if missing:
        diagnosis.add(
            "index",
            "note",
            f"{detail}; {len(missing)} of {len(paths)} that were checked do not exist",
            _fix_of_missing(index.root, missing, shlex.quote(str(where))),
        )
    else:
        diagnosis.add("index", "ok", detail)


def _fix_of_missing(root: Path, missing: list[str], where: str) -> str:
    """Return what to do about missing images: their folder may have moved, or they were deleted."""
    by_folder: dict[str, list[str]] = {}
    for path in missing:
        by_folder.setdefault(path.partition("/")[0], []).append(path)
    for paths in (missing, *by_folder.values()):
        if (gone := missing_folder(root, paths)) is not None:
            old = shlex.quote(printable(str(gone)))
            return (
                f"connect the disk, or name the new place of {old}: `ztcir index --root "
                f"{old}=FOLDER --to {where}`"
            )
    # The root may hold more than the collection, once --add has widened it.
    below = os.path.commonpath([os.path.dirname(path) for path in missing])  # noqa: PTH120
    folder = shlex.quote(printable(str(root / below)))
    return f"update the index: `ztcir index {folder} --to {where}`"
