"""What is exported must be what was trained: each graph against PyTorch, at several sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from export.attention import written_out_attention
from export.graphs import BareTextEncoder, GraphModule, backbone_of, sample_inputs
from train.model import Backbone, ComposedModel, text_ids
from ztcir_sdk.bundle import REFERENCE_TENSORS
from ztcir_sdk.errors import ZtcirError

__all__ = [
    "HALF_TOLERANCE",
    "ParityError",
    "ParityResult",
    "check_frozen_text",
    "check_half",
    "check_parity",
    "randomised",
]

TOLERANCE = 1e-4  # largest absolute difference of normalised embeddings, fp32
HALF_TOLERANCE = 1e-3  # largest cosine distance, fp16
SIZES = ((1, 1, 5), (2, 7, 77), (3, 2, 4), (5, 11, 20))  # references, texts, tokens


class ParityError(ZtcirError):
    """A graph does not give what PyTorch gives; nothing is exported."""


@dataclass(frozen=True)
class ParityResult:
    """Largest differences of one graph from PyTorch over all sizes.

    Attributes:
        graph: its name; output: the output's name.
        difference: in fp32, the largest absolute difference, in units of the output's largest
            absolute value (for normalised embeddings: as they are); in fp16, the largest cosine
            distance of a reference or text.
    """

    graph: str
    output: str
    difference: float


@contextmanager
def randomised(model: ComposedModel, seed: int = 0) -> Iterator[ComposedModel]:
    """The model with gates, adapters and biases of the trained parts drawn at random.

    At their initial zeros VSI and adapters could be missing from a graph and nothing would show.
    """
    generator = torch.Generator().manual_seed(seed)
    before = {name: value.clone() for name, value in model.parts().items()}
    with torch.no_grad():
        for name, value in model.parts().items():
            if name.endswith(("gates", "bias")) or ".up." in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    try:
        yield model
    finally:
        model.load_state_dict(before, strict=False)


def run_graph(path: Path, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    """All outputs of a graph, on ONNX Runtime's CPU provider."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(
        None, {name: value.numpy() for name, value in inputs.items()}
    )
    return outputs


@torch.no_grad()
def check_parity(
    model: ComposedModel | Backbone, graph: GraphModule, path: Path
) -> list[ParityResult]:
    """Compare a written graph with the module it was made from.

    Raises:
        ParityError: an output differs by more than 1e-4.
    """
    worst = dict.fromkeys(graph.outputs, 0.0)
    for inputs in _samples(model, graph):
        wanted = _outputs(graph, inputs)
        for name, expected, got in zip(graph.outputs, wanted, run_graph(path, inputs), strict=True):
            unit = 1.0 if name.endswith("embeds") else max(1.0, float(np.abs(expected).max()))
            difference = float(np.abs(got - expected).max()) / unit
            worst[name] = float(np.maximum(worst[name], difference))  # keeps NaN, unlike max
    results = [ParityResult(graph.name, name, value) for name, value in worst.items()]
    for result in results:
        if not result.difference <= TOLERANCE:  # also refuses NaN
            raise ParityError(
                f"{result.output} of the {result.graph} graph differs from PyTorch by "
                f"{result.difference:.1e}, more than {TOLERANCE:.0e}; nothing was exported."
            )
    return results


@torch.no_grad()
def check_half(
    model: ComposedModel | Backbone, graph: GraphModule, half: GraphModule, path: Path
) -> list[ParityResult]:
    """Compare an fp16 graph with the float32 module, by cosine distance a reference or text.

    ONNX Runtime's CPU provider computes much of fp16 in float32, and so flatters it; the half
    module is therefore run in PyTorch too, and the worse of both counts.

    Args:
        model, graph: in float32.
        half: what was written, of `export.graphs.half_graphs`.
        path: where to.

    Returns:
        For each output the largest cosine distance, of which `HALF_TOLERANCE` is allowed; NaN where
        a number is not finite.

    Raises:
        ParityError: an output is not float32.
    """
    worst = dict.fromkeys(graph.outputs, 0.0)
    for inputs in _samples(model, graph):
        wanted = _outputs(graph, inputs)
        with written_out_attention():
            eager = _outputs(half, inputs)
        for name, expected, *found in zip(
            graph.outputs, wanted, eager, run_graph(path, inputs), strict=True
        ):
            for got in found:
                if got.dtype != np.float32:
                    raise ParityError(
                        f"{name} of the fp16 {graph.name} graph is {got.dtype}, not float32; "
                        "nothing was exported."
                    )
                worst[name] = float(np.maximum(worst[name], _cosine_distance(expected, got)))
    return [ParityResult(graph.name, name, value) for name, value in worst.items()]


def _samples(model: ComposedModel | Backbone, graph: GraphModule) -> Iterator[dict[str, Tensor]]:
    for number, (references, texts, length) in enumerate(SIZES):
        yield sample_inputs(
            model, graph.name, references=references, texts=texts, length=length, seed=number
        )


def _outputs(graph: GraphModule, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    results = graph.module(*(inputs[name] for name in graph.inputs))
    return [x.numpy() for x in ((results,) if isinstance(results, Tensor) else results)]


def _cosine_distance(expected: np.ndarray, got: np.ndarray) -> float:
    """Largest 1 - cosine of two arrays' rows; NaN where a number is not finite, or a row zero."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (expected, got))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((1 - (a * b).sum(axis=1) / norms).max())


@torch.no_grad()
def check_frozen_text(model: ComposedModel | Backbone) -> float:
    """Largest difference of bare texts, adapters off, from open_clip's own ``encode_text``.

    The prompts are cut after their end; open_clip gets them padded to the whole context.

    Raises:
        ParityError: more than 1e-5.
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
        inputs = sample_inputs(model, "text_encoder", references=2, texts=2, length=5, seed=0)
        said = [inputs[name] for name in REFERENCE_TENSORS if name in inputs]
        if model.vsi is None:
            said += [said[0][:, :0, None, :]] * 2
        zeros = torch.zeros(len(texts))
        found = model.encode_query(ids, zeros.long(), zeros, *said)
    difference = float((found - expected).abs().max())
    if not difference <= 1e-5:
        raise ParityError(
            f"Texts without adapters differ from open_clip's encode_text by {difference:.1e}, "
            "more than 1e-05; nothing was exported."
        )
    return difference
