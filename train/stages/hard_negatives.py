"""Exact hard negatives: gallery embeddings never change, so the nearest wrong ones can be had.

Nothing here holds a number for every query and every gallery image at once: the gallery is gone
through in chunks, so that it may have millions of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CHUNK", "Answers", "candidate_pool", "mine"]

CHUNK = 8192  # gallery images that are compared at a time


@dataclass(frozen=True)
class Answers:
    """Which images of a gallery answer the queries of a batch, and which may well do.

    Attributes:
        queries, positions: (K,) int64, pairs of a query of the batch and the gallery position of an
            image that is known to be right.
        targets: (B, D) embeddings of one target of each query, L2-normalised.
        references: (B,) int64 gallery positions.
        near_duplicate: cosine similarity to the target from which an image counts as the same.
    """

    queries: Tensor
    positions: Tensor
    targets: Tensor
    references: Tensor
    near_duplicate: float = 0.98

    def right(self, columns: Tensor) -> Tensor:
        """(B, C) bool: which of some gallery positions (C,), ascending, are known to be right."""
        mask = torch.zeros(len(self.targets), len(columns), dtype=torch.bool, device=columns.device)
        place, found = _find(columns, self.positions)
        mask[self.queries[found], place[found]] = True
        return mask

    def spared(self, embeds: Tensor, columns: Tensor) -> Tensor:
        """(B, C) bool: which of them must not serve as negatives, since they may well be answers.

        The reference is never an answer, however near it is to one.

        Args:
            embeds: (C, D) of the images there, L2-normalised.
            columns: (C,) gallery positions, ascending.
        """
        mask = self.targets @ embeds.T >= self.near_duplicate
        mask |= self.right(columns)
        place, found = _find(columns, self.references)
        mask[found.nonzero()[:, 0], place[found]] = False
        return mask


def _find(columns: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where (K,) some positions are among ascending ones, and whether (K,) they are there."""
    place = torch.searchsorted(columns, wanted).clamp(max=len(columns) - 1)
    return place, columns[place] == wanted


@torch.no_grad()
def mine(
    queries: Tensor, gallery: Tensor, answers: Answers, count: int, *, chunk: int = CHUNK
) -> Tensor:
    """Positions of the nearest wrong gallery images under the current model, nearest first.

    Args:
        queries: (B, D) current query embeddings, L2-normalised.
        gallery: (M, D).
        answers: never mined, unless there are fewer than ``count`` others.
        count: of each query.
        chunk: gallery images that are compared at a time; changes nothing but memory.

    Returns:
        (B, min(count, M)) int64.
    """
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(gallery), chunk):
        embeds = gallery[start : start + chunk]
        columns = torch.arange(start, start + len(embeds), device=queries.device)
        scores = queries @ embeds.T
        scores.masked_fill_(answers.spared(embeds, columns), -2.0)  # below any cosine
        near = scores.topk(min(count, len(columns)), dim=-1)
        best = torch.cat([best, near.values], dim=-1)
        where = torch.cat([where, near.indices + start], dim=-1)
        kept = best.topk(min(count, best.shape[1]), dim=-1)
        best, where = kept.values, where.gather(1, kept.indices)
    return where


def candidate_pool(targets: Tensor, references: Tensor, mined: Tensor | None) -> Tensor:
    """The gallery positions that one step's queries are contrasted with, each once, ascending.

    In-batch targets, the references themselves (the hardest negatives of all), and everybody's
    mined negatives, which serve all queries of the batch.
    """
    parts = [targets, references] if mined is None else [targets, references, mined.flatten()]
    return torch.unique(torch.cat(parts))
