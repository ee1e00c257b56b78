"""The graphs: thin modules around the model, so that the training code stays clean of ONNX.

Each is exported with torch's dynamo exporter, traced with a batch of 2 or more (a dimension traced
at 1 becomes a constant), and has dynamic references, texts and, where the text tower is causal,
text length. A model gives three graphs; a backbone without trained parts two, the same image
encoder without patches and a text encoder of bare texts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.attention import written_out_attention
from export.half import HalfGraph, halved
from train.model import Backbone, ComposedModel

__all__ = [
    "OPSET",
    "GraphModule",
    "backbone_of",
    "export_graph",
    "graph_modules",
    "half_graphs",
    "sample_inputs",
]

OPSET = 18  # what TensorRT 10.3 (JetPack 6) documents in full


class ImageEncoder(nn.Module):
    """pixel_values -> image_embeds, patch_features."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_image(pixel_values)


class BareImageEncoder(nn.Module):
    """pixel_values -> image_embeds, of a backbone without trained parts."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.backbone.encode_image(pixel_values)[0]


class TokenLearnerGraph(nn.Module):
    """image_embeds, patch_features -> pseudo_tokens[, vsi_keys, vsi_values]."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_embeds: Tensor, patch_features: Tensor) -> tuple[Tensor, ...]:
        pseudo_tokens, keys, values = self.model.learn_token(image_embeds, patch_features)
        if self.model.vsi is None:
            return (pseudo_tokens,)
        return pseudo_tokens, keys, values


class TextEncoder(nn.Module):
    """Ids, which reference, how much adapter, and what the references say -> query_embeds."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.model = model

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


class TextEncoderWithoutInjection(nn.Module):
    """The text encoder of a model that has no VSI."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.model = model

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


class BareTextEncoder(nn.Module):
    """input_ids -> query_embeds, of a backbone without trained parts: its ``encode_text``."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

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
        name: one of `GRAPHS`.
        module: what is traced.
        inputs, outputs: names, in order.
        dynamic: for each input, the symbolic names of its dynamic dimensions.
        longest: T at most.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[dict[int, str], ...]
    longest: int


def backbone_of(model: ComposedModel | Backbone) -> Backbone:
    """The backbone of a model, or what is one itself."""
    return model if isinstance(model, Backbone) else model.backbone


def graph_modules(model: ComposedModel | Backbone) -> tuple[GraphModule, ...]:
    """The graphs of a model or of a backbone alone, by the method's contract, in order."""
    tower = backbone_of(model).tower
    longest = tower.context_length
    # prompts of a fixed length are part of what a tower without causal mask computes
    texts = {0: "B"} if tower.pad_to is not None else {0: "B", 1: "T"}
    if isinstance(model, Backbone):
        return (
            GraphModule(
                "image_encoder",
                BareImageEncoder(model),
                ("pixel_values",),
                ("image_embeds",),
                ({0: "R"},),
                longest,
            ),
            GraphModule(
                "text_encoder",
                BareTextEncoder(model),
                ("input_ids",),
                ("query_embeds",),
                (texts,),
                longest,
            ),
        )
    vsi = ("vsi_keys", "vsi_values") if model.vsi is not None else ()
    said = ("pseudo_tokens", *vsi)
    return (
        GraphModule(
            "image_encoder",
            ImageEncoder(model),
            ("pixel_values",),
            ("image_embeds", "patch_features"),
            ({0: "R"},),
            longest,
        ),
        GraphModule(
            "token_learner",
            TokenLearnerGraph(model),
            ("image_embeds", "patch_features"),
            said,
            ({0: "R"}, {0: "R"}),
            longest,
        ),
        GraphModule(
            "text_encoder",
            TextEncoder(model) if vsi else TextEncoderWithoutInjection(model),
            ("input_ids", "reference_index", "adapter_scale", *said),
            ("query_embeds",),
            (texts, {0: "B"}, {0: "B"}, *({0: "R"} for _ in said)),
            longest,
        ),
    )


def half_graphs(model: ComposedModel | Backbone) -> tuple[GraphModule, ...]:
    """The same graphs of a copy of the model in fp16; see `export.half`."""
    return tuple(
        replace(graph, module=HalfGraph(graph.module, graph.outputs))
        for graph in graph_modules(halved(model))
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
    """Random inputs of a graph: R references, B texts of T tokens, each with its ``$``.

    Images and texts are noise, the pseudo-words what the model makes of it. T is ``length``, kept
    between what the ``$`` needs and what the text tower can take, or what it is padded to. For a
    backbone alone the texts hold no ``$``.
    """
    backbone = backbone_of(model)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(references, 3, *backbone.image_size, generator=generator)
    if name == "image_encoder":
        return {"pixel_values": pixels}
    slots = 0 if isinstance(model, Backbone) else model.config.tokens
    end = backbone.vocab_size - 1
    length = backbone.tower.pad_to or min(max(length, slots + 2), backbone.context_length)
    ids = torch.randint(1, end - 1, (texts, length), generator=generator)
    ids[:, 0] = end - 1
    ids[:, 1 : 1 + slots] = -1
    ends = torch.randint(1 + slots, length, (texts,), generator=generator)
    ends[0] = length - 1
    for row, stop in enumerate(ends.tolist()):
        ids[row, stop] = end
        ids[row, stop + 1 :] = 0
    if isinstance(model, Backbone):
        return {"input_ids": ids}
    v, patches = model.encode_image(pixels)
    said = model.learn_token(v, patches)
    if name == "token_learner":
        return {"image_embeds": v, "patch_features": patches}
    inputs = {
        "input_ids": ids,
        "reference_index": torch.randint(0, references, (texts,), generator=generator),
        "adapter_scale": torch.rand(texts, generator=generator),
        "pseudo_tokens": said[0],
    }
    if model.vsi is not None:
        inputs |= {"vsi_keys": said[1], "vsi_values": said[2]}
    return inputs


def export_graph(graph: GraphModule, inputs: dict[str, Tensor], path: Path) -> onnx.ModelProto:
    """Write one graph as ONNX; the weights go into the file.

    Args:
        graph: what to export.
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
    with warnings.catch_warnings(), _quiet(), written_out_attention():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
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
    del program  # which holds its own copies of weights
    return onnx.load(str(path))


class _quiet:  # noqa: N801  (used like a function)
    """Silence the exporter's loggers: what matters is checked on the graph it wrote."""

    names: Sequence[str] = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")

    def __enter__(self) -> None:
        self.levels = [logging.getLogger(name).level for name in self.names]
        for name in self.names:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for name, level in zip(self.names, self.levels, strict=True):
            logging.getLogger(name).setLevel(level)
