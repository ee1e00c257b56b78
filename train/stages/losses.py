"""Contrastive losses of the three stages."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "info_nce",
    "multi_positive_nce",
    "nearest_word_alignment",
    "noisy_text",
    "self_masking_loss",
    "soft_text_alignment",
    "token_similarity",
]

EXCLUDED = -1.0e4  # a logit of probability 0; finite, so that half precision stays finite


def info_nce(queries: Tensor, targets: Tensor, scale: Tensor | float) -> Tensor:
    """Return the symmetric InfoNCE of paired rows (van den Oord et al. 2018; CLIP, eq. 1).

    Args:
        queries: (B, D), L2-normalised.
        targets: (B, D), L2-normalised.
        scale: inverse temperature.
    """
    logits = scale * queries @ targets.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def multi_positive_nce(logits: Tensor, positive: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Return the cross-entropy with a uniform target over the positives (UniCL, sec. 3.2).

    Args:
        logits: (B, C).
        positive: (B, C) bool; rows without a positive are left out of the mean.
        excluded: (B, C) bool, columns that are neither positive nor negative for a row.
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
    """Return the KL divergence of the queries' from a soft distribution over texts (Stage I).

    A caption describes only part of an image, and captions resemble each other, so the target is
    soft.

    Args:
        queries: (B, D), ``f_t("a photo of $")``, L2-normalised.
        text_embeds: (C, D) frozen embeddings of texts.
        target_embeds: (B, D) embeddings whose similarities to the texts are the target: those of
            the images' own captions.
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
    """Return the KL divergence of the queries' distribution over words from the images' (Stage I).

    It aligns images without captions: the target covers the words nearest to the image.

    Args:
        queries: (B, D), ``f_t("a photo of $")``, L2-normalised.
        word_embeds: (C, D) frozen embeddings of a word bank.
        image_embeds: (B, D), ``v``, L2-normalised.
        nearest: number of words in the target; all others have probability 0.
        temperature: tau, of the queries' distribution.
        target_temperature: temperature of the target.
    """
    near = (image_embeds @ word_embeds.T).topk(min(nearest, len(word_embeds)), dim=-1)
    target = (near.values / target_temperature).softmax(dim=-1)
    predicted = (queries @ word_embeds.T / temperature).log_softmax(dim=-1)
    return F.kl_div(predicted.gather(1, near.indices), target, reduction="batchmean")


def noisy_text(embeds: Tensor, rng: np.random.Generator) -> Tensor:
    """Add Unif(0, 1) x N(0, I) to text embeddings (LinCIR sec. 3.2), before the token learner.

    The noise is divided by sqrt(D), because the token learner multiplies by it.

    Args:
        embeds: (B, D), L2-normalised.
        rng: source of the noise.
    """
    count, width = embeds.shape
    noise = rng.random((count, 1)) * rng.standard_normal((count, width)) / width**0.5
    return embeds + torch.from_numpy(noise).to(embeds)


def self_masking_loss(masked: Tensor, whole: Tensor) -> Tensor:
    """Return the mean squared error of (B, D) embeddings (LinCIR sec. 3.2, eq. 1)."""
    return F.mse_loss(masked, whole)


def token_similarity(tokens: Tensor) -> Tensor:
    """Return how alike the pseudo-words of each image are: 0 (orthogonal) to 1 (all the same).

    The mean squared cosine between different pseudo-words, as penalties on redundant heads have it
    (Lin et al. 2017, eq. 8, without its diagonal).

    Args:
        tokens: (R, n, d_t), n at least 2.

    Returns:
        (R,).
    """
    unit = F.normalize(tokens.float(), dim=-1)
    cosines = unit @ unit.transpose(1, 2)  # (R, n, n)
    count = tokens.shape[1]
    off_diagonal = (cosines**2).sum(dim=(1, 2)) - count
    return off_diagonal / (count * (count - 1))
