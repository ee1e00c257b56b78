"""Exact hard negatives: gallery embeddings never change, so the nearest wrong ones can be had."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["candidate_pool", "likely_right", "mine"]


def likely_right(
    targets: Tensor, gallery: Tensor, known: Tensor | None, *, near_duplicate: float = 0.98
) -> Tensor:
    """Gallery images that must not serve as negatives, since they may well be answers.

    Args:
        targets: (B, D) embeddings of the targets, L2-normalised.
        gallery: (M, D).
        known: (B, M) bool, images known to be right (the same attributes), or ``None``.
        near_duplicate: cosine similarity to the target from which an image counts as the same.

    Returns:
        (B, M) bool.
    """
    same = targets @ gallery.T >= near_duplicate
    return same if known is None else same | known


@torch.no_grad()
def mine(queries: Tensor, gallery: Tensor, right: Tensor, count: int) -> Tensor:
    """Positions (B, count) of the nearest wrong gallery images under the current model.

    Args:
        queries: (B, D) current query embeddings, L2-normalised.
        gallery: (M, D), count <= M.
        right: (B, M) bool, never mined.
    """
    scores = (queries @ gallery.T).masked_fill(right, -2.0)  # below any cosine
    return scores.topk(min(count, gallery.shape[0]), dim=-1).indices


def candidate_pool(targets: Tensor, references: Tensor, mined: Tensor | None) -> Tensor:
    """The gallery positions that one step's queries are contrasted with, each once, ascending.

    In-batch targets, the references themselves (the hardest negatives of all), and everybody's
    mined negatives, which serve all queries of the batch.
    """
    parts = [targets, references] if mined is None else [targets, references, mined.flatten()]
    return torch.unique(torch.cat(parts))
