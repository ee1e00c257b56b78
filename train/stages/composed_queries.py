"""Composed queries of triplets, and how well they find their targets."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.loop.features import ImageFeatures
from train.loop.precision import autocast
from train.loop.sizes import sizes_for
from train.model import ComposedModel, encode_by_length, prompt_ids
from train.progress import progress_bar
from train.stages.triplet_rows import TripletRows
from ztcir_sdk.evaluation.metrics import average_precision_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank

__all__ = ["encode_composed", "evaluate_composed"]


def encode_composed(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    batch: NDArray[np.int64],
    *,
    scale: float,
    precision: str = "bf16",
) -> Tensor:
    """Return composed queries (B, D) float32 of the triplets at the positions ``batch`` (B,).

    Args:
        features: of the references.
        scale: strength of the adapters.
        precision: of `TRAINING_PRECISIONS`.
    """
    return encode_by_length(
        [len(rows.texts[row]) for row in batch],
        lambda part: _encode_padded(model, features, rows.take(batch[part]), scale, precision),
        sizes_for(model.backbone.device).grouped_texts,
    )


def _encode_padded(
    model: ComposedModel, features: ImageFeatures, rows: TripletRows, scale: float, precision: str
) -> Tensor:
    v, patches = features.rows(rows.references)
    ids = prompt_ids(rows.texts, tokens=model.config.tokens, tower=model.backbone.tower)
    count, device = len(rows), model.backbone.device
    mapping_is_trained = next(model.token_learner.parameters()).requires_grad
    with autocast(device, precision):
        with contextlib.nullcontext() if mapping_is_trained else torch.no_grad():
            reference = model.learn_token(v.to(device), patches.to(device))
        queries = model.encode_query(
            ids.to(device),
            None,
            torch.full((count,), scale, device=device),
            *reference,
        )
    return queries.float()


@torch.inference_mode()
def evaluate_composed(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    *,
    scale: float = 1.0,
    precision: str = "bf16",
) -> float:
    """Return mAP@10 of triplets over a collection; each ranking leaves out its reference.

    Args: see `encode_composed`.
    """
    batches = np.array_split(np.arange(len(rows)), -(-len(rows) // 256))
    queries = [
        encode_composed(model, features, rows, batch, scale=scale, precision=precision)
        .cpu()
        .numpy()
        for batch in progress_bar(batches, what="evaluation", leave=False)
    ]
    ranking = rank(
        np.concatenate(queries), features.embeds, 10, excluded=[[row] for row in rows.references]
    )
    counts = [len(targets) for targets in rows.targets]
    right = relevance(ranking, [targets.tolist() for targets in rows.targets])
    return float(average_precision_at_k(right, counts, 10).mean())
