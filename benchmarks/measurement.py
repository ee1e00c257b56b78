"""One model's graphs and whole queries through the SDK, beside the same modules in PyTorch eager.

The functions that load a model are meant for a process of their own: two copies of a large model
are in memory then, and what an export leaves behind must not be.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import Rounds, compare
from benchmarks.eager import (
    TorchSearch,
    checkpoint_model,
    exact_float32,
    nothing_is_compiled,
    random_model,
    stand_in_model,
    torch_failures,
    torch_threads,
)
from benchmarks.sides import COMPILED, EAGER, SDK, TENSORRT, Sides
from cli.output import note
from export.bundle import export_bundle
from export.parity import TOLERANCE
from train.model import ComposedModel
from ztcir_sdk.benchmark import draw_photos, random_index
from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.retriever import Retriever

__all__ = ["LatencySettings", "export_random", "measure", "measure_random", "measure_trained"]


@dataclass(frozen=True)
class LatencySettings:
    """What is measured."""

    threads: int
    """Processor threads of one operation, on all sides."""
    how: Rounds = field(default_factory=Rounds)
    gallery: int = 10_000
    """Random vectors that whole queries search."""
    pictures: int = 50
    """Drawn JPEGs that whole queries start from."""
    k: int = 10
    device: str = "cpu"
    """"cpu" or "cuda:N", of all sides."""
    compiled: bool = False
    """Whether `torch.compile` is a side, too."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Who is to be measured; on a GPU, TensorRT where it works."""
        sdk = (SDK,) if self.device == "cpu" else (SDK, TENSORRT)
        return (*sdk, EAGER, *((COMPILED,) if self.compiled else ()))

    @property
    def is_plain(self) -> bool:
        """Whether it is the SDK and PyTorch eager on the processor, and nothing else."""
        return self.sides == (SDK, EAGER)

    def describe_sides(self) -> dict[str, Any]:
        """Return what a result says of the sides, as JSON values; nothing of the plain ones."""
        if self.is_plain:
            return {}
        said: dict[str, Any] = {"device": self.device, "sides": list(self.sides)}
        if self.device != "cpu":
            said["tf32"] = False
        if self.compiled:
            said["compile"] = {"mode": "default", "dynamic": ["text_encoder"]}
        return said


def export_random(name: str, folder: Path) -> None:
    """Export a backbone at random weights with open gates.

    Raises:
        ParityError: a graph differs from PyTorch.
        UnsupportedBackboneError: there is no such backbone, or the method cannot be applied to it.
    """
    with random_model(name) as model:
        card = {"backbone": {"model": name}, "limits": ["weights are random: to measure speed"]}
        export_bundle(model, folder, name=name, model_card=card)


def measure_random(name: str, folder: Path, settings: LatencySettings) -> dict[str, Any]:
    """Measure the bundle of `export_random`; see `measure`."""
    with random_model(name) as model:
        values = measure(model, Bundle.load(folder), settings, same_weights=True)
    return {"name": name, "weights": "random", **values, "peak_memory_gb": _peak_memory()}


def measure_trained(
    folder: Path, checkpoint: Path | None, settings: LatencySettings
) -> dict[str, Any]:
    """Measure a bundle beside its checkpoint, or beside the same architecture at random weights.

    Raises:
        BundleError, CheckpointError, UsageError: one of them cannot be used, or they do not fit.
    """
    bundle = Bundle.load(folder)
    same = checkpoint is not None
    model = stand_in_model(bundle) if checkpoint is None else checkpoint_model(checkpoint, bundle)
    values = measure(model, bundle, settings, same_weights=same)
    return {
        "name": bundle.name,
        "weights": "trained" if same else "trained, random in PyTorch",
        **values,
        "peak_memory_gb": _peak_memory(),
    }


def measure(
    model: ComposedModel, bundle: Bundle, settings: LatencySettings, *, same_weights: bool
) -> dict[str, Any]:
    """Time a bundle's three graphs and whole queries, each beside PyTorch in one run.

    Args:
        model: what the bundle was exported from, or one of its architecture; moved to the device.
        bundle: what the SDK runs, in its default precision.
        settings: how, and on what.
        same_weights: whether both must give the same query embeddings.

    Returns:
        JSON values. A query starts from a JPEG file and ends with hits of `settings.gallery`
        vectors: ``first_text`` on a new picture, ``second_text`` on one that has been encoded. In
        PyTorch, prompts are padded to the whole context; ``pytorch_cut`` and ``sdk_padded`` show
        the text encoder at the other length.

    Raises:
        ZtcirError: two sides give different answers, or one does not run.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ztcir-latency-") as scratch,
        torch_threads(settings.threads),
        exact_float32(),
        torch_failures(),
        torch.inference_mode(),
    ):
        work = Path(scratch)
        files = draw_photos(work, settings.pictures)
        texts = [query.text for query in demo_queries(demo_gallery(), 120)]
        retriever = _retriever(bundle, settings, "onnx")
        index = retriever.open_index(random_index(retriever, work / "g.ztcir", settings.gallery))

        def prompt(text: str) -> list[int]:
            return (retriever.encoder.questions("composed", [text]).prompts or [])[0]

        if settings.device != "cpu":
            model.to(settings.device)
        vectors, device = index.vectors(), settings.device
        searches = {EAGER: TorchSearch(model, prompt, vectors, settings.k, device=device)}
        if settings.compiled:
            searches[COMPILED] = TorchSearch(
                model, prompt, vectors, settings.k, device=device, compiled=True
            )
        retrievers, not_measured = {SDK: retriever}, {}
        if TENSORRT in settings.sides:
            note(
                f"{bundle.name}: loading TensorRT's engines, or building them, which takes minutes"
            )
            try:
                retrievers[TENSORRT] = _tensorrt(bundle, settings, index.path, files[0], texts[0])
            except ZtcirError as error:
                not_measured[TENSORRT] = str(error)
                note(f"{bundle.name}: TensorRT is left out: {error}")
        sides = Sides(retrievers, searches)
        if settings.compiled:
            note(f"{bundle.name}: torch.compile")
        differences = sides.largest_differences(files[:3], texts[:10])
        _check_agreement(bundle, differences, same_weights=same_weights)
        middle = sorted(texts, key=lambda text: len(prompt(text)))[len(texts) // 2]
        operations = sides.operations(files, texts, middle, settings.k)
        if not settings.is_plain:
            sides.warm_up(operations, files[0], texts)
        comparisons = {}
        with nothing_is_compiled() if settings.compiled else contextlib.nullcontext():
            for what, each in operations.items():
                note(f"{bundle.name}: {what.replace('_', ' ')}")
                comparisons[what] = compare(each, baseline=EAGER, how=settings.how).to_dict()
    values = {
        "bundle": {
            "fingerprint": bundle.fingerprint,
            "precision": retriever.precision,
            "bytes": sum(record.bytes for record in bundle.manifest.files.values()),
        },
        "tokens": {"cut": len(prompt(middle)), "padded": searches[EAGER].context_length},
        "largest_difference": _rounded(differences[SDK]) if same_weights else None,
        "comparisons": comparisons,
    }
    if settings.is_plain:
        return values
    return {
        **values,
        "differences": {
            side: _rounded(difference) if same_weights or side == COMPILED else None
            for side, difference in differences.items()
        },
        "providers": {
            side: one.encoder.graph("image_encoder").provider for side, one in retrievers.items()
        },
        "not_measured": not_measured,
    }


def _retriever(bundle: Bundle, settings: LatencySettings, backend: str) -> Retriever:
    return Retriever(
        bundle,
        backend=backend,
        device=settings.device,
        threads=settings.threads,
        reference_cache_mb=0,  # a first text is on a picture that is not known
    )


def _tensorrt(
    bundle: Bundle, settings: LatencySettings, index: Path, file: Path, text: str
) -> Retriever:
    """Return a retriever whose engines are built, loaded, and have answered once.

    Raises:
        ZtcirError: TensorRT is not installed, or does not build or run a graph.
    """
    retriever = _retriever(bundle, settings, "tensorrt")
    retriever.open_index(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of each engine that it builds
        for graph in bundle.manifest.graphs:
            retriever.encoder.graph(graph)
        retriever.reference(file).encode(text)
    return retriever


def _check_agreement(bundle: Bundle, differences: dict[str, float], *, same_weights: bool) -> None:
    """Refuse to time sides that answer differently.

    Raises:
        ZtcirError: a side of the same weights as the eager one differs from it by too much.
    """
    told = {
        SDK: (f"The bundle {bundle.path}", "export it from this very model"),
        TENSORRT: (
            f"TensorRT's engines of {bundle.path}",
            "empty the folder of engines ($ZTCIR_ENGINES) and measure again",
        ),
        COMPILED: ("torch.compile's model", "leave out --compile"),
    }
    for side, difference in differences.items():
        if (same_weights or side == COMPILED) and not difference <= TOLERANCE:  # also refuses NaN
            who, cure = told[side]
            raise ZtcirError(
                f"{who} and PyTorch differ by {difference:.1e} in a query embedding, so their "
                f"times cannot be compared: {cure}."
            )


def _rounded(difference: float) -> float:
    return float(f"{difference:.2e}")


def _peak_memory() -> float:
    """Return the most memory this process has had, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
