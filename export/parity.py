"""Checks of exported graphs against PyTorch, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.attention import plain_attention
from export.graphs import BareTextEncoder, GraphModule, backbone_of, sample_inputs
from train.model import Backbone, ComposedModel, text_ids
from ztcir_sdk.bundle import REFERENCE_TENSORS
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import TEXT_ENCODER
from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings

TOLERANCE = 1e-4  # largest absolute difference of normalised embeddings, fp32
HALF_TOLERANCE = 1e-3  # largest cosine distance, fp16
TEXT_TOLERANCE = 1e-5  # largest absolute difference from open_clip's text embeddings
SIZES = [
    dict(zip(("references", "texts", "length"), size, strict=True))
    for size in ((1, 1, 5), (2, 7, 77), (3, 2, 4), (5, 11, 20))
]

Arrays = list[NDArray[Any]]


class ParityError(ZtcirError):
    """A graph differs from PyTorch; nothing is exported."""


@dataclass(frozen=True)
class ParityResult:
    """Largest difference of one output of a graph from PyTorch over all sizes.

    Attributes:
        output: name of the output.
        difference: in fp32, the largest absolute difference, in units of the output's largest
            absolute value (1 for embeddings, which are normalised); in fp16, the largest cosine
            distance of a reference or text. NaN if a number is not finite.
    """

    output: str
    difference: float


@contextmanager
def randomised(model: ComposedModel, seed: int = 0) -> Iterator[ComposedModel]:
    """Set gates, adapters, combiner and biases to random values, then restore them.

    At their initial zeros, a graph without VSI, adapters or combiner would pass every check.
    """
    generator = torch.Generator().manual_seed(seed)
    before = {name: value.clone() for name, value in model.parts().items()}
    with torch.no_grad():
        for name, value in model.parts().items():
            if name.endswith(("gates", "bias", "captions")) or ".up." in name or ".out_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    try:
        yield model
    finally:
        model.load_state_dict(before, strict=False)


@torch.no_grad()
def check_parity(
    model: ComposedModel | Backbone, graph: GraphModule, path: Path
) -> list[ParityResult]:
    """Compare an exported float32 graph with its module.

    Raises:
        ParityError: an output differs by more than 1e-4.
    """

    def difference(name: str, expected: NDArray[Any], found: NDArray[Any]) -> float:
        unit = 1.0 if name.endswith("embeds") else max(1.0, float(np.abs(expected).max()))
        return float(np.abs(found - expected).max()) / unit

    run = _open_graph(path)
    pairs = ((_outputs(graph, inputs), run(inputs)) for inputs in _samples(model, graph))
    results = _largest_differences(graph, pairs, difference)
    for result in results:
        if not result.difference <= TOLERANCE:  # also refuses NaN
            raise ParityError(
                f"{result.output} of the {graph.name} graph differs from PyTorch by "
                f"{result.difference:.1e}, more than {TOLERANCE:.0e}; nothing was exported."
            )
    return results


@torch.no_grad()
def check_half(
    model: ComposedModel | Backbone, graph: GraphModule, half: GraphModule, path: Path
) -> list[ParityResult]:
    """Compare an exported fp16 graph with the float32 module, by cosine distance.

    ONNX Runtime's CPU provider computes much of fp16 in float32, so its result is better than a
    GPU's. The half module therefore runs in PyTorch too, and the larger distance counts.

    Args:
        model: the model in float32.
        graph: its graph in float32.
        half: the exported graph, from `export.graphs.half_graphs`.
        path: the exported file.

    Returns:
        The largest cosine distance of each output; the limit is `HALF_TOLERANCE`.

    Raises:
        ParityError: an output is not float32.
    """

    def difference(name: str, expected: NDArray[Any], found: NDArray[Any]) -> float:
        if found.dtype != np.float32:
            raise ParityError(
                f"{name} of the fp16 {graph.name} graph is {found.dtype}, not float32; "
                "nothing was exported."
            )
        return float(cosine_distances(expected, found).max())

    run = _open_graph(path)

    def pairs() -> Iterator[tuple[Arrays, Arrays]]:
        for inputs in _samples(model, graph):
            expected = _outputs(graph, inputs)
            with plain_attention():
                in_torch = _outputs(half, inputs)
            yield expected, in_torch
            yield expected, run(inputs)

    return _largest_differences(graph, pairs(), difference)


def _largest_differences(
    graph: GraphModule,
    pairs: Iterable[tuple[Arrays, Arrays]],
    difference: Callable[[str, NDArray[Any], NDArray[Any]], float],
) -> list[ParityResult]:
    """Return each output's largest difference over pairs of expected and found outputs."""
    largest = dict.fromkeys(graph.outputs, 0.0)
    for both in pairs:
        for name, expected, found in zip(graph.outputs, *both, strict=True):
            # NumPy's maximum keeps NaN, unlike max.
            largest[name] = float(np.maximum(largest[name], difference(name, expected, found)))
    return [ParityResult(name, value) for name, value in largest.items()]


def _open_graph(path: Path) -> Callable[[dict[str, Tensor]], Arrays]:
    """Return a function that runs a graph on ONNX Runtime's CPU provider."""
    graph = OnnxGraph(path, RuntimeSettings(backend="onnx", device="cpu"))
    return lambda inputs: list(graph.run({name: x.numpy() for name, x in inputs.items()}).values())


def _samples(model: ComposedModel | Backbone, graph: GraphModule) -> Iterator[dict[str, Tensor]]:
    for seed, size in enumerate(SIZES):
        yield sample_inputs(model, graph.name, **size, seed=seed)


def _outputs(graph: GraphModule, inputs: dict[str, Tensor]) -> Arrays:
    results = graph.module(*(inputs[name] for name in graph.inputs))
    return [x.numpy() for x in ((results,) if isinstance(results, Tensor) else results)]


def cosine_distances(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Return 1 - cosine of the rows of two arrays (N, ...), computed in float64.

    Returns:
        (N,); NaN where a number is not finite or a row is zero.
    """
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (expected, found))
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray(1 - (a * b).sum(axis=1) / norms)


def three_digits(value: float) -> float:
    """Round to three significant digits, for manifests and result files."""
    return float(f"{value:.2e}")


@torch.no_grad()
def check_frozen_text(model: ComposedModel | Backbone) -> float:
    """Compare texts without placeholder, adapters off, with open_clip's own ``encode_text``.

    Prompts end after their last token here; open_clip gets them padded to the whole context.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: it is more than 1e-5.
    """
    backbone = backbone_of(model)
    texts = ["make it red", "the same at night, but for women and with longer sleeves", "x"]
    ids = text_ids(texts, tower=backbone.tower)
    padded = torch.zeros(len(texts), backbone.context_length, dtype=torch.long)
    padded[:, : ids.shape[1]] = ids
    expected = backbone.clip.encode_text(padded, normalize=True)
    if isinstance(model, Backbone):
        found = BareTextEncoder(model)(ids)
    else:
        inputs = sample_inputs(model, TEXT_ENCODER, references=2, texts=2, length=5, seed=0)
        learned = [inputs[name] for name in REFERENCE_TENSORS if name in inputs]
        if model.vsi is None:
            learned += [learned[0][:, :0, None, :]] * 2
        zeros = torch.zeros(len(texts))
        found = model.encode_query(ids, zeros.long(), zeros, *learned)
    difference = float((found - expected).abs().max())
    if not difference <= TEXT_TOLERANCE:
        raise ParityError(
            f"Texts without adapters differ from open_clip's encode_text by {difference:.1e}, "
            f"more than {TEXT_TOLERANCE:.0e}; nothing was exported."
        )
    return difference
