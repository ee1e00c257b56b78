"""Measures one model's graphs and whole queries in the SDK and in PyTorch eager.

Functions that load a model run in a process of their own: it holds two copies of a large model, and
must hold nothing that an export leaves behind.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.compared.eager import (
    TorchSearch,
    checkpoint_model,
    exact_float32,
    fail_on_recompile,
    random_model,
    stand_in_model,
    torch_failures,
    torch_threads,
)
from benchmarks.compared.sides import COMPILED, EAGER, SDK, TENSORRT, Operations, Sides
from benchmarks.comparison import Rounds, compare
from cli.output import note
from export.bundle import BundleSettings, export_bundle
from export.parity import TOLERANCE, three_digits
from train.model import ComposedModel
from ztcir_sdk.benchmark import draw_photos, random_index
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.environment import peak_memory
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.names import IMAGE_ENCODER, TEXT_ENCODER
from ztcir_sdk.retriever import Retriever


@dataclass(frozen=True)
class LatencySettings:
    """What is measured.

    Attributes:
        threads: CPU threads of one operation, on all sides.
        length: length of each comparison.
        gallery: number of random vectors that whole queries search.
        pictures: number of drawn JPEGs that whole queries start from.
        k: number of hits.
        device: "cpu" or "cuda:N", for all sides.
        compiled: whether `torch.compile` is a side too.
    """

    threads: int
    length: Rounds = field(default_factory=Rounds)
    gallery: int = 10_000
    pictures: int = 50
    k: int = 10
    device: str = "cpu"
    compiled: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        """Return the sides to measure; on a GPU also TensorRT, where it works."""
        sdk = (SDK,) if self.device == "cpu" else (SDK, TENSORRT)
        return (*sdk, EAGER, *((COMPILED,) if self.compiled else ()))

    @property
    def is_plain(self) -> bool:
        """Whether the sides are the SDK and PyTorch eager on the CPU, and no others."""
        return self.sides == (SDK, EAGER)

    def describe_sides(self) -> dict[str, Any]:
        """Return the result file's entries about the sides; there are none for plain sides."""
        if self.is_plain:
            return {}
        values: dict[str, Any] = {"device": self.device, "sides": list(self.sides)}
        if self.device != "cpu":
            values["tf32"] = False
        if self.compiled:
            values["compile"] = {"mode": "default", "dynamic": [TEXT_ENCODER]}
        return values


def export_random(name: str, folder: Path) -> None:
    """Export a backbone with random weights and open gates.

    Raises:
        ParityError: a graph differs from PyTorch.
        UnsupportedBackboneError: there is no such backbone, or it is not supported.
    """
    with random_model(name) as model:
        card = {"backbone": {"model": name}, "limits": ["weights are random: to measure speed"]}
        export_bundle(model, folder, BundleSettings(name, card))


def measure_random(name: str, folder: Path, settings: LatencySettings) -> dict[str, Any]:
    """Measure the bundle of `export_random`; see `measure`."""
    with random_model(name) as model:
        values = measure(model, Bundle.load(folder), settings, same_weights=True)
    return {"name": name, "weights": "random", **values, "peak_memory_gb": _peak_memory_gb()}


def measure_trained(
    folder: Path, checkpoint: Path | None, settings: LatencySettings
) -> dict[str, Any]:
    """Measure a bundle and its checkpoint, or the same architecture with random weights.

    Raises:
        BundleError: the bundle cannot be used.
        CheckpointError: the checkpoint cannot be used.
        UsageError: the bundle was not exported from the checkpoint.
    """
    bundle = Bundle.load(folder)
    same = checkpoint is not None
    model = stand_in_model(bundle) if checkpoint is None else checkpoint_model(checkpoint, bundle)
    values = measure(model, bundle, settings, same_weights=same)
    return {
        "name": bundle.name,
        "weights": "trained" if same else "trained, random in PyTorch",
        **values,
        "peak_memory_gb": _peak_memory_gb(),
    }


def measure(
    model: ComposedModel, bundle: Bundle, settings: LatencySettings, *, same_weights: bool
) -> dict[str, Any]:
    """Time a bundle's three graphs and whole queries, each beside PyTorch in one run.

    Args:
        model: the bundle's model, or one of the same architecture; moved to the device.
        bundle: the bundle that the SDK runs, in fp32 as PyTorch, if it has that.
        settings: what is measured.
        same_weights: whether both must return the same query embeddings.

    Returns:
        JSON values. A query starts from a JPEG file and ends with hits among `settings.gallery`
        vectors: ``first_text`` with a new image, ``second_text`` with an encoded one. In PyTorch,
        prompts are padded to the whole context; ``pytorch_cut`` and ``sdk_padded`` are the text
        encoder at the other length.

    Raises:
        ZtcirError: two sides return different answers, or one does not run.
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
        place = random_index(retriever, work / "g.ztcir", settings.gallery)
        index = Index.open(place, image_tower=retriever.image_tower)
        retriever.open_index(place)

        def prompt(text: str) -> list[int]:
            return (retriever.encoder.questions("composed", [text]).prompts or [])[0]

        if settings.device != "cpu":
            model.to(settings.device)
        inputs = (model, prompt, index.vectors(), settings.k)
        searches = {EAGER: TorchSearch(*inputs, device=settings.device)}
        if settings.compiled:
            searches[COMPILED] = TorchSearch(*inputs, device=settings.device, compiled=True)
        retrievers, not_measured = {SDK: retriever}, {}
        if TENSORRT in settings.sides:
            note(f"{bundle.name}: loading TensorRT engines (building them takes minutes)")
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
        comparisons = _compare_all(bundle.name, operations, settings)
    values = {
        "bundle": {
            "fingerprint": bundle.fingerprint,
            "precision": retriever.precision,
            "bytes": sum(record.bytes for record in bundle.manifest.files.values()),
        },
        "tokens": {"cut": len(prompt(middle)), "padded": searches[EAGER].context_length},
        "largest_difference": three_digits(differences[SDK]) if same_weights else None,
        "comparisons": comparisons,
    }
    if settings.is_plain:
        return values
    return {
        **values,
        "differences": {
            side: three_digits(difference) if same_weights or side == COMPILED else None
            for side, difference in differences.items()
        },
        "providers": {
            side: one.encoder.graph(IMAGE_ENCODER).provider for side, one in retrievers.items()
        },
        "not_measured": not_measured,
    }


def _compare_all(name: str, operations: Operations, settings: LatencySettings) -> dict[str, Any]:
    """Time the sides of each comparison, without compiling."""
    comparisons = {}
    with fail_on_recompile() if settings.compiled else contextlib.nullcontext():
        for what, sides in operations.items():
            note(f"{name}: {what.replace('_', ' ')}")
            comparisons[what] = compare(sides, baseline=EAGER, length=settings.length).to_dict()
    return comparisons


def _retriever(bundle: Bundle, settings: LatencySettings, backend: str) -> Retriever:
    return Retriever(
        bundle,
        backend=backend,
        precision="fp32" if "fp32" in bundle.precisions else None,  # as PyTorch
        device=settings.device,
        threads=settings.threads,
        reference_cache_mb=0,  # a first text must encode its image
    )


def _tensorrt(
    bundle: Bundle, settings: LatencySettings, index: Path, file: Path, text: str
) -> Retriever:
    """Return a retriever with built and loaded engines that has answered one query.

    Raises:
        ZtcirError: TensorRT is not installed, or cannot build or run a graph.
    """
    retriever = _retriever(bundle, settings, "tensorrt")
    retriever.open_index(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is one for each engine that is built
        for graph in bundle.manifest.graphs:
            retriever.encoder.graph(graph)
        retriever.reference(file).encode(text)
    return retriever


def _check_agreement(bundle: Bundle, differences: dict[str, float], *, same_weights: bool) -> None:
    """Refuse to time sides with different answers.

    Raises:
        ZtcirError: a side with the same weights as the eager one differs too much from it.
    """
    names_and_fixes = {
        SDK: (f"The bundle {bundle.path}", "export it from this model"),
        TENSORRT: (
            f"TensorRT's engines of {bundle.path}",
            "empty the folder of engines ($ZTCIR_ENGINES) and measure again",
        ),
        COMPILED: ("torch.compile's model", "leave out --compile"),
    }
    for side, difference in differences.items():
        if (same_weights or side == COMPILED) and not difference <= TOLERANCE:  # also refuses NaN
            name, fix = names_and_fixes[side]
            raise ZtcirError(
                f"{name} and PyTorch differ by {difference:.1e} in a query embedding, so their "
                f"times cannot be compared: {fix}."
            )


def _peak_memory_gb() -> float | None:
    """Return the largest memory that this process has had, in GB; None where it is unknown."""
    peak = peak_memory()
    return None if peak is None else round(peak / 1e9, 2)
