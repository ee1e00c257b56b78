"""Contrastive losses of the three stages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "any_positive_nce",
    "info_nce",
    "multi_positive_nce",
    "nearest_word_alignment",
    "soft_text_alignment",
]

EXCLUDED = -1.0e4  # a logit that no softmax sees; finite, so that half precision stays finite


def info_nce(queries: Tensor, targets: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE between rows that belong together (van den Oord et al. 2018; CLIP, eq. 1).

    Args:
        queries, targets: (B, D), L2-normalised.
        scale: inverse temperature.
    """
    logits = scale * queries @ targets.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def any_positive_nce(logits: Tensor, positive: Tensor, excluded: Tensor | None = None) -> Tensor:
    """``-log`` of the probability of being right at all (MIL-NCE, Miech et al. 2020, eq. 1).

    A query with many answers needs some of them first, not all of them equally near.

    Args:
        logits: (B, C); positive: (B, C) bool, each row with a positive.
        excluded: (B, C) bool, columns that are neither right nor wrong for a row.
    """
    if excluded is not None:
        logits = logits.masked_fill(excluded & ~positive, EXCLUDED)
    right = logits.masked_fill(~positive, EXCLUDED).logsumexp(dim=-1)
    return (logits.logsumexp(dim=-1) - right).mean()


def multi_positive_nce(logits: Tensor, positive: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Cross-entropy against the uniform distribution over a row's positives (UniCL, sec. 3.2).

    Args:
        logits: (B, C).
        positive: (B, C) bool; rows without a positive do not count.
        excluded: (B, C) bool, columns that are neither right nor wrong for a row.
    """
    if excluded is not None:
        logits = logits.masked_fill(excluded & ~positive, EXCLUDED)
    log_probability = logits.log_softmax(dim=-1)
    weight = positive.float()
    count = weight.sum(dim=-1)
    per_row = -(log_probability * weight).sum(dim=-1) / count.clamp(min=1)
    return per_row[count > 0].mean()


def soft_text_alignment(
    queries: Tensor,
    text_embeds: Tensor,
    target_embeds: Tensor,
    temperature: float,
    target_temperature: float,
) -> Tensor:
    """KL from a soft target over real texts to the pseudo-word's view of them (method, Stage I).

    A caption tells part of an image and captions resemble each other, so the target is soft.

    Args:
        queries: (B, D), ``f_t("a photo of $")``, L2-normalised.
        text_embeds: (C, D) frozen embeddings of captions or of a word bank.
        target_embeds: (B, D) what each image's target distribution is taken from: its own
            caption's embedding, or the image's where it has no caption.
        temperature: tau, of the queries' distribution.
        target_temperature: tau_t, of the target.
    """
    target = (target_embeds @ text_embeds.T / target_temperature).softmax(dim=-1)
    predicted = (queries @ text_embeds.T / temperature).log_softmax(dim=-1)
    return F.kl_div(predicted, target, reduction="batchmean")


def nearest_word_alignment(
    queries: Tensor,
    word_embeds: Tensor,
    image_embeds: Tensor,
    nearest: int,
    temperature: float,
    target_temperature: float,
) -> Tensor:
    """KL from an image's view of its nearest words to the pseudo-word's view of all words.

    For images without captions (method, Stage I).

    Args:
        queries: (B, D), ``f_t("a photo of $")``, L2-normalised.
        word_embeds: (C, D) frozen embeddings of a word bank.
        image_embeds: (B, D), ``v``, L2-normalised.
        nearest: words of the target; the others' probability in it is zero.
        temperature: tau, of the queries' distribution.
        target_temperature: of the target.
    """
    near = (image_embeds @ word_embeds.T).topk(min(nearest, len(word_embeds)), dim=-1)
    target = (near.values / target_temperature).softmax(dim=-1)
    predicted = (queries @ word_embeds.T / temperature).log_softmax(dim=-1)
    return F.kl_div(predicted.gather(1, near.indices), target, reduction="batchmean")
