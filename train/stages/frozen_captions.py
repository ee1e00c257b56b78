"""Captions' embeddings by the frozen text tower of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.loop.precision import autocast
from train.loop.sizes import sizes_for
from train.model import Backbone, ComposedModel, ModelConfig, text_ids

__all__ = ["encode_captions", "plain_model"]


def plain_model(backbone: Backbone) -> ComposedModel:
    """Return a backbone as a model without VSI and adapters, whose texts are the backbone's own."""
    # Its unused token learner keeps its size: it draws from the random numbers of the training.
    config = ModelConfig(token_learner_depth=2, vsi_layers=(), adapter_bottleneck=0)
    model = ComposedModel(backbone, config).eval()
    return model.to(backbone.device)


@torch.inference_mode()
def encode_captions(
    model: ComposedModel,
    captions: Sequence[str],
    batch: int | None = None,
    *,
    precision: str = "bf16",
) -> Tensor:
    """Return the frozen text embeddings (M, D) float32 of captions, adapters off, on the CPU."""
    backbone, config = model.backbone, model.config
    batch = batch or sizes_for(backbone.device).texts
    layers = 0 if model.vsi is None else len(model.vsi.layers)
    no_word = torch.zeros(1, config.tokens, backbone.text_width, device=backbone.device)
    no_vsi = torch.zeros(1, layers, backbone.num_patches, config.vsi_width, device=backbone.device)
    embeds = []
    for start in range(0, len(captions), batch):
        ids = text_ids(captions[start : start + batch], tower=backbone.tower).to(backbone.device)
        zeros = torch.zeros(len(ids), device=backbone.device)
        with autocast(backbone.device, precision):
            texts = model.encode_query(ids, zeros.long(), zeros, no_word, no_vsi, no_vsi)
        embeds.append(texts.float().cpu())
    return torch.cat(embeds)
