"""Exact hard negatives: gallery embeddings never change, so the nearest wrong ones can be found.

The gallery is compared in chunks, so that it may have millions of images: no matrix of all queries
and all gallery images is ever held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CHUNK", "Answers", "candidate_pool", "mine", "nearest_wrong"]

CHUNK = 8192  # gallery images per chunk


@dataclass(frozen=True)
class Answers:
    """The right answers of a batch of queries in a gallery, and those that may be right.

    Attributes:
        queries: (K,) int64; query ``queries[i]`` of the batch has the right answer
            ``positions[i]``.
        positions: (K,) int64 gallery positions.
        targets: (B, D) embedding of one target per query, L2-normalised.
        references: (B,) int64 gallery positions.
        near_duplicate: cosine similarity to the target above which an image may be right too.
    """

    queries: Tensor
    positions: Tensor
    targets: Tensor
    references: Tensor
    near_duplicate: float = 0.98

    def right(self, columns: Tensor) -> Tensor:
        """Return which gallery positions (C,), in ascending order, are right: (B, C) bool."""
        mask = torch.zeros(len(self.targets), len(columns), dtype=torch.bool, device=columns.device)
        place, found = _find(columns, self.positions)
        mask[self.queries[found], place[found]] = True
        return mask

    def ignored(self, embeds: Tensor, columns: Tensor) -> Tensor:
        """Return which gallery positions must not serve as negatives, because they may be right.

        The reference always serves as a negative, however similar it is to a target.

        Args:
            embeds: (C, D) embeddings at these positions, L2-normalised.
            columns: (C,) gallery positions, in ascending order.

        Returns:
            (B, C) bool.
        """
        mask = self.targets.to(embeds.dtype) @ embeds.T >= self.near_duplicate
        mask |= self.right(columns)
        return mask & ~self.is_reference(columns)

    def is_reference(self, columns: Tensor) -> Tensor:
        """Return which gallery positions (C,), in ascending order, are references: (B, C) bool."""
        mask = torch.zeros(len(self.targets), len(columns), dtype=torch.bool, device=columns.device)
        place, found = _find(columns, self.references)
        mask[found.nonzero()[:, 0], place[found]] = True
        return mask


def _find(columns: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of each wanted position in ascending columns, and whether it is there."""
    place = torch.searchsorted(columns, wanted).clamp(max=len(columns) - 1)
    return place, columns[place] == wanted


@torch.no_grad()
def mine(
    queries: Tensor,
    gallery: Tensor,
    answers: Answers,
    count: int,
    *,
    positive_aware: float = 0.0,
    chunk: int = CHUNK,
) -> Tensor:
    """Return the positions of the nearest wrong gallery images, nearest first.

    Args:
        queries: (B, D) embeddings under the current model, L2-normalised.
        gallery: (M, D) embeddings, L2-normalised.
        answers: right images; they are mined only if there are fewer than ``count`` others.
        count: images per query.
        positive_aware: share of the target's score above which an image may be right too, and is
            mined only if there are fewer than ``count`` others; 0: none.
        chunk: gallery images per chunk; only memory depends on it.

    Returns:
        (B, min(count, M)) int64.
    """
    pieces = (
        (torch.arange(start, min(start + chunk, len(gallery)), device=queries.device), part)
        for start, part in zip(range(0, len(gallery), chunk), gallery.split(chunk), strict=True)
    )
    return nearest_wrong(queries, pieces, answers, count, positive_aware=positive_aware)[1]


@torch.no_grad()
def nearest_wrong(
    queries: Tensor,
    pieces: Iterable[tuple[Tensor, Tensor]],
    answers: Answers,
    count: int,
    *,
    positive_aware: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the nearest wrong images of a part of the gallery, nearest first.

    Args:
        pieces: pairs of gallery positions (C,), in ascending order, and their embeddings (C, D),
            whose type the products have.
        queries, answers, count, positive_aware: see `mine`.

    Returns:
        Scores (B, K), by which parts can be merged, and positions (B, K) int64; K is ``count``, or
        the number of all images.
    """
    best: Tensor | None = None
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    most = positive_aware * (queries * answers.targets).sum(-1, keepdim=True)
    for columns, embeds in pieces:
        scores = (queries.to(embeds.dtype) @ embeds.T).float()
        # below any score, and in order: which of them fill up must not depend on the parts
        last = -4.0 - 1e-6 * columns
        scores = torch.where(answers.ignored(embeds, columns), last, scores)
        if positive_aware:
            # still before those that are known to be right, and the reference before all
            likely = (scores > most) & ~answers.is_reference(columns)
            scores = torch.where(likely, scores - 2.0, scores)
        near = scores.topk(min(count, len(columns)), dim=-1)
        best = near.values if best is None else torch.cat([best, near.values], dim=-1)
        where = torch.cat([where, columns[near.indices]], dim=-1)
        kept = best.topk(min(count, best.shape[1]), dim=-1)
        best, where = kept.values, where.gather(1, kept.indices)
    return queries.new_empty(len(queries), 0) if best is None else best, where


def candidate_pool(targets: Tensor, references: Tensor, mined: Tensor | None) -> Tensor:
    """Return the gallery positions that all queries of a step are contrasted with, ascending.

    These are the targets of the batch, the references (the hardest negatives of all), and the
    mined negatives of every query.
    """
    parts = [targets, references] if mined is None else [targets, references, mined.flatten()]
    return torch.unique(torch.cat(parts))
