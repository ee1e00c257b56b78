"""The graphs: thin modules around the model, so that the training code knows nothing of ONNX.

torch's dynamo exporter traces each with a batch of 2 or more, because a dimension traced at 1
becomes a constant. References, texts and, in a causal text tower, text length are dynamic. A model
gives three graphs. A backbone without trained parts gives two: an image encoder without patches and
a text encoder without references.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.attention import plain_attention
from export.half import HalfGraph, to_half
from train.model import Backbone, ComposedModel
from ztcir_sdk.bundle import REFERENCE_TENSORS
from ztcir_sdk.names import IMAGE_ENCODER, PLACEHOLDER_ID, TEXT_ENCODER, TOKEN_LEARNER

OPSET = 18  # the highest that TensorRT 10.3 (JetPack 6) documents


class _ModelGraph(nn.Module):
    """A graph of a whole model."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.model = model


class _BackboneGraph(nn.Module):
    """A graph of a backbone without trained parts."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone


class ImageEncoder(_ModelGraph):
    """pixel_values -> image_embeds, patch_features."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_image(pixel_values)


class BareImageEncoder(_BackboneGraph):
    """pixel_values -> image_embeds."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.backbone.encode_image(pixel_values)[0]


class TokenLearnerGraph(_ModelGraph):
    """image_embeds, patch_features -> pseudo_tokens[, vsi_keys, vsi_values]."""

    def forward(self, image_embeds: Tensor, patch_features: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.learn_token(image_embeds, patch_features)
        return outputs[: len(_reference_tensors(self.model))]


class TextEncoder(_ModelGraph):
    """input_ids, reference_index, adapter_scale, the token learner's outputs -> query_embeds."""

    def forward(
        self,
        input_ids: Tensor,
        reference_index: Tensor,
        adapter_scale: Tensor,
        pseudo_tokens: Tensor,
        vsi_keys: Tensor,
        vsi_values: Tensor,
    ) -> Tensor:
        return self.model.encode_query(
            input_ids, reference_index, adapter_scale, pseudo_tokens, vsi_keys, vsi_values
        )


class TextEncoderWithoutInjection(_ModelGraph):
    """The text encoder of a model without VSI."""

    def forward(
        self,
        input_ids: Tensor,
        reference_index: Tensor,
        adapter_scale: Tensor,
        pseudo_tokens: Tensor,
    ) -> Tensor:
        nothing = pseudo_tokens[:, :0, None, :]
        return self.model.encode_query(
            input_ids, reference_index, adapter_scale, pseudo_tokens, nothing, nothing
        )


class BareTextEncoder(_BackboneGraph):
    """input_ids -> query_embeds: the backbone's ``encode_text``."""

    def forward(self, input_ids: Tensor) -> Tensor:
        backbone = self.backbone
        x = backbone.add_positions(backbone.embed_tokens(input_ids))
        mask = backbone.causal_mask(input_ids.shape[1])
        for layer in range(backbone.text_layers):
            x = backbone.text_block(layer, x, mask)
        return backbone.pool_text(x, input_ids)


@dataclass(frozen=True)
class GraphModule:
    """A graph before its export.

    Attributes:
        name: one of `ztcir_sdk.names.GRAPHS`.
        module: the module that is traced.
        inputs: names of its inputs, in order.
        outputs: names of its outputs, in order.
        dynamic: for each input, the symbolic names of its dynamic dimensions.
        longest: largest T.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[dict[int, str], ...]
    longest: int


def backbone_of(model: ComposedModel | Backbone) -> Backbone:
    """Return the backbone of a model; a backbone is its own."""
    return model if isinstance(model, Backbone) else model.backbone


def graph_modules(model: ComposedModel | Backbone) -> tuple[GraphModule, ...]:
    """Return the graphs of a model, or of a backbone alone, in the order of a query."""
    tower = backbone_of(model).tower
    # Prompts of a fixed length are part of what a tower without causal mask computes.
    texts = {0: "B"} if tower.pad_to is not None else {0: "B", 1: "T"}
    per_reference = {0: "R"}

    def graph(
        name: str, module: nn.Module, inputs: Mapping[str, dict[int, str]], outputs: Sequence[str]
    ) -> GraphModule:
        dynamic = tuple(inputs.values())
        return GraphModule(
            name, module, tuple(inputs), tuple(outputs), dynamic, tower.context_length
        )

    pixels = {"pixel_values": per_reference}
    if isinstance(model, Backbone):
        return (
            graph(IMAGE_ENCODER, BareImageEncoder(model), pixels, ["image_embeds"]),
            graph(TEXT_ENCODER, BareTextEncoder(model), {"input_ids": texts}, ["query_embeds"]),
        )
    image_features = ("image_embeds", "patch_features")
    reference_tensors = _reference_tensors(model)
    return (
        graph(IMAGE_ENCODER, ImageEncoder(model), pixels, image_features),
        graph(
            TOKEN_LEARNER,
            TokenLearnerGraph(model),
            dict.fromkeys(image_features, per_reference),
            reference_tensors,
        ),
        graph(
            TEXT_ENCODER,
            TextEncoderWithoutInjection(model) if model.vsi is None else TextEncoder(model),
            {
                "input_ids": texts,
                "reference_index": {0: "B"},
                "adapter_scale": {0: "B"},
                **dict.fromkeys(reference_tensors, per_reference),
            },
            ["query_embeds"],
        ),
    )


def _reference_tensors(model: ComposedModel) -> tuple[str, ...]:
    """Return the names of the token learner's outputs."""
    return REFERENCE_TENSORS[:1] if model.vsi is None else REFERENCE_TENSORS


def half_graphs(model: ComposedModel | Backbone) -> tuple[GraphModule, ...]:
    """Return the same graphs of an fp16 copy of the model; see `export.half`."""
    return tuple(
        replace(graph, module=HalfGraph(graph.module, graph.outputs))
        for graph in graph_modules(to_half(model))
    )


@torch.no_grad()
def sample_inputs(
    model: ComposedModel | Backbone,
    name: str,
    *,
    references: int,
    texts: int,
    length: int,
    seed: int,
) -> dict[str, Tensor]:
    """Return random inputs of a graph.

    Images and texts are noise; the pseudo-words are what the model computes from the images.

    Args:
        model: the model, or a backbone alone, whose texts get no placeholder.
        name: graph, one of `ztcir_sdk.names.GRAPHS`.
        references: R, number of images.
        texts: B, number of texts, each with its placeholder.
        length: T, number of tokens, limited to what the placeholder needs and the text tower takes.
        seed: random seed.
    """
    backbone = backbone_of(model)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(references, 3, *backbone.image_size, generator=generator)
    if name == IMAGE_ENCODER:
        return {"pixel_values": pixels}
    slots = 0 if isinstance(model, Backbone) else model.config.tokens
    end = backbone.vocab_size - 1
    length = backbone.tower.pad_to or min(max(length, slots + 2), backbone.context_length)
    ids = torch.randint(1, end - 1, (texts, length), generator=generator)
    ids[:, 0] = end - 1
    ids[:, 1 : 1 + slots] = PLACEHOLDER_ID
    ends = torch.randint(1 + slots, length, (texts,), generator=generator)
    ends[0] = length - 1
    for row, stop in enumerate(ends.tolist()):
        ids[row, stop] = end
        ids[row, stop + 1 :] = 0
    if isinstance(model, Backbone):
        return {"input_ids": ids}
    v, patches = model.encode_image(pixels)
    if name == TOKEN_LEARNER:
        return {"image_embeds": v, "patch_features": patches}
    learned = dict(zip(REFERENCE_TENSORS, model.learn_token(v, patches), strict=True))
    return {
        "input_ids": ids,
        "reference_index": torch.randint(0, references, (texts,), generator=generator),
        "adapter_scale": torch.rand(texts, generator=generator),
        **{name: learned[name] for name in _reference_tensors(model)},
    }


def export_graph(graph: GraphModule, inputs: dict[str, Tensor], path: Path) -> onnx.ModelProto:
    """Write one graph as an ONNX file with its weights inside, and return it.

    Args:
        graph: the graph.
        inputs: sample inputs with at least 2 references, 2 texts and 3 tokens.
        path: the ``.onnx`` file.
    """
    dims: dict[str, Any] = {
        name: torch.export.Dim(name, min=1, max=graph.longest if name == "T" else 4096)
        for name in ("R", "B", "T")
    }
    shapes: Any = tuple({axis: dims[name] for axis, name in axes.items()} for axes in graph.dynamic)
    if isinstance(graph.module, HalfGraph):
        shapes = (shapes,)  # its inputs are one variadic argument
    with silence(), plain_attention():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(inputs[name] for name in graph.inputs),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    del program  # it holds copies of the weights
    return onnx.load(str(path))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Silence exporters and quantizers, which log, warn and print: their files are checked."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
