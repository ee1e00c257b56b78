"""One model's graphs and whole queries through the SDK, beside the same modules in PyTorch eager.

The functions that load a model are meant for a process of their own: two copies of a large model
are in memory then, and what an export leaves behind must not be.
"""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.comparison import Rounds, compare
from benchmarks.eager import (
    EagerSearch,
    checkpoint_model,
    random_model,
    stand_in_model,
    torch_threads,
)
from cli.output import note
from export.bundle import export_bundle
from export.parity import TOLERANCE
from train.model import ComposedModel
from ztcir_sdk.benchmark import draw_photos, random_index
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings import demo_gallery, demo_queries
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime import Graph

__all__ = ["LatencySettings", "export_random", "measure", "measure_random", "measure_trained"]

SDK, EAGER = "sdk", "pytorch"
SDK_PADDED, EAGER_CUT = "sdk_padded", "pytorch_cut"
"""The text encoder at the other length: what cutting gives apart from what the engine gives."""


@dataclass(frozen=True)
class LatencySettings:
    """What is measured."""

    threads: int
    """Processor threads of one operation, on both sides."""
    how: Rounds = field(default_factory=Rounds)
    gallery: int = 10_000
    """Random vectors that whole queries search."""
    pictures: int = 50
    """Drawn JPEGs that whole queries start from."""
    k: int = 10


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
        model: what the bundle was exported from, or one of its architecture.
        bundle: what the SDK runs, on the processor, in its default precision.
        settings: how.
        same_weights: whether both must give the same query embeddings.

    Returns:
        JSON values. A query starts from a JPEG file and ends with hits of `settings.gallery`
        vectors: ``first_text`` on a new picture, ``second_text`` on one that has been encoded. In
        PyTorch, prompts are padded to the whole context; ``pytorch_cut`` and ``sdk_padded`` show
        the text encoder at the other length.

    Raises:
        ZtcirError: the two sides give different answers.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ztcir-latency-") as scratch,
        torch_threads(settings.threads),
        torch.inference_mode(),
    ):
        work = Path(scratch)
        files = draw_photos(work, settings.pictures)
        retriever = Retriever(
            bundle,
            device="cpu",
            threads=settings.threads,
            reference_cache_mb=0,  # a first text is on a picture that is not known
        )
        index = retriever.open_index(random_index(retriever, work / "g.ztcir", settings.gallery))
        texts = [query.text for query in demo_queries(demo_gallery(), 120)]

        def prompt(text: str) -> list[int]:
            return (retriever.encoder.questions("composed", [text]).prompts or [])[0]

        eager = EagerSearch(model, prompt, index.vectors(), settings.k)
        difference = _largest_difference(retriever, eager, files[:3], texts[:10])
        if same_weights and not difference <= TOLERANCE:  # also refuses NaN
            raise ZtcirError(
                f"The bundle {bundle.path} and PyTorch differ by {difference:.1e} in a query "
                "embedding, so their times cannot be compared: export it from this very model."
            )
        middle = sorted(texts, key=lambda text: len(prompt(text)))[len(texts) // 2]
        operations = {
            **_graphs(retriever, eager, files[0], middle),
            **_queries(retriever, eager, files, texts, settings.k),
        }
        comparisons = {}
        for what, sides in operations.items():
            note(f"{bundle.name}: {what.replace('_', ' ')}")
            comparisons[what] = compare(sides, baseline=EAGER, how=settings.how).to_dict()
    return {
        "bundle": {
            "fingerprint": bundle.fingerprint,
            "precision": retriever.precision,
            "bytes": sum(record.bytes for record in bundle.manifest.files.values()),
        },
        "tokens": {"cut": len(prompt(middle)), "padded": eager.context_length},
        "largest_difference": float(f"{difference:.2e}") if same_weights else None,
        "comparisons": comparisons,
    }


Sides = Mapping[str, Callable[[], object]]


def _graphs(retriever: Retriever, eager: EagerSearch, file: Path, text: str) -> dict[str, Sides]:
    """Return each graph alone, as both sides run it for one picture and one text."""
    encoder, model = retriever.encoder, eager.model
    image_encoder, token_learner, text_encoder = (
        encoder.graph(name) for name in ("image_encoder", "token_learner", "text_encoder")
    )
    pixels = encoder.bundle.manifest.preprocessing([file])
    seen = image_encoder.run({"pixel_values": pixels})
    shown = _declared(token_learner, seen)
    said = token_learner.run(shown)
    eager_seen = model.encode_image(torch.from_numpy(pixels))
    eager_said = model.learn_token(*eager_seen)
    for got, expected in ((seen, eager_seen), (said, eager_said)):
        _check_shapes(encoder.bundle, list(got.values()), expected)

    question = encoder.questions("composed", [text])
    cut = encoder.tokenizer.pad(question.prompts or [])
    padded = np.zeros((1, eager.context_length), dtype=np.int64)
    padded[:, : cut.shape[1]] = cut

    def read(ids: NDArray[np.int64]) -> Callable[[], object]:
        given: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "reference_index": np.zeros(1, dtype=np.int64),
            "adapter_scale": np.ones(1, dtype=np.float32),
            **said,
        }
        inputs = _declared(text_encoder, given)
        return lambda: text_encoder.run(inputs)

    def eager_read(ids: NDArray[np.int64]) -> Callable[[], object]:
        first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
        tokens = torch.from_numpy(ids)
        return lambda: model.encode_query(tokens, first, scale, *eager_said)

    return {
        "image_encoder": {
            SDK: lambda: image_encoder.run({"pixel_values": pixels}),
            EAGER: lambda: model.encode_image(torch.from_numpy(pixels)),
        },
        "token_learner": {
            SDK: lambda: token_learner.run(shown),
            EAGER: lambda: model.learn_token(*eager_seen),
        },
        "text_encoder": {
            SDK: read(cut),
            SDK_PADDED: read(padded),
            EAGER_CUT: eager_read(cut),
            EAGER: eager_read(padded),
        },
    }


def _queries(
    retriever: Retriever, eager: EagerSearch, files: list[Path], texts: list[str], k: int
) -> dict[str, Sides]:
    """Return whole queries: every run has another text, and a first text another picture."""
    reference, eager_reference = retriever.reference(files[0]), eager.reference(files[0])
    first, eager_first, second, eager_second = (
        zip(itertools.cycle(files), itertools.cycle(texts), strict=False) for _ in range(4)
    )
    return {
        "first_text": {
            SDK: lambda: retriever.search(*next(first), k),
            EAGER: lambda: eager.first_text(*next(eager_first)),
        },
        "second_text": {
            SDK: lambda: reference.search(next(second)[1], k),
            EAGER: lambda: eager.second_text(next(eager_second)[1], eager_reference),
        },
    }


def _declared(graph: Graph, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays that a graph takes; one may have no use for some."""
    return {spec.name: arrays[spec.name] for spec in graph.inputs}


def _largest_difference(
    retriever: Retriever, eager: EagerSearch, files: list[Path], texts: list[str]
) -> float:
    """Compare the query embeddings of both sides, from the file on."""
    worst = 0.0
    for file in files:
        reference, eager_reference = retriever.reference(file), eager.reference(file)
        for text in texts:
            got, expected = reference.encode(text), eager.query(text, eager_reference)[0].numpy()
            _check_shapes(retriever.bundle, [got], [torch.from_numpy(expected)])
            worst = max(worst, float(np.abs(got - expected).max()))
    return worst


def _check_shapes(
    bundle: Bundle, got: list[NDArray[Any]], expected: list[Tensor] | tuple[Tensor, ...]
) -> None:
    """Refuse a model of another architecture; without VSI a graph has fewer outputs."""
    for array, tensor in zip(got, expected, strict=False):
        if array.shape != tuple(tensor.shape):
            raise ZtcirError(
                f"The bundle {bundle.path} gives {array.shape} where PyTorch gives "
                f"{tuple(tensor.shape)}: name the checkpoint that it was exported from."
            )


def _peak_memory() -> float:
    """Return the most memory this process has had, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
