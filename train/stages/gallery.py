"""The gallery that Stage II mines, divided among processes: each searches its own part.

On a GPU the part is in half precision: 2.9 million embeddings of 768 numbers take 0.6 GB on each of
eight. The embeddings that a loss is computed with are read from the mapped file, as float32.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.loop.distributed import Workers
from train.loop.run import CHECKPOINT_STEPS
from train.loop.sizes import sizes_for
from train.stages.hard_negatives import Answers, nearest_wrong

__all__ = ["Gallery"]

_ABSENT = -1e4  # a score below those of right answers


class Gallery:
    """The embeddings of all images, and the search for hard negatives among them.

    Args:
        embeds: (M, D) float32, L2-normalised; a mapped file is not copied on a CPU.
        workers: the processes that divide the search; all of them must call `mine`.
        every: steps between two searches of the whole gallery; in between, only what the last one
            found is searched.
        dtype: type of the products; ``None``: half precision on a GPU, else float32.
    """

    def __init__(
        self,
        embeds: NDArray[np.float32],
        workers: Workers,
        *,
        every: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.workers, self.device, self.every = workers, workers.device, every
        self.step = 0
        """Number of the current step, which decides what is searched."""
        self._whole = torch.from_numpy(embeds)
        if dtype is None:
            dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        bounds = [len(embeds) * rank // workers.count for rank in range(workers.count + 1)]
        self._first, end = bounds[workers.rank], bounds[workers.rank + 1]
        self._part = self._whole[self._first : end].to(self.device, dtype)
        self._recent: Tensor | None = None

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Return embeddings (C, D) float32 of gallery positions (C,), on the device."""
        return self._whole[positions.cpu()].to(self.device)

    def mine(
        self, queries: Tensor, answers: Answers, count: int, *, positive_aware: float = 0.0
    ) -> Tensor:
        """Return the positions of the nearest wrong images, nearest first, in every process.

        Args:
            queries: (B, D), the same in every process, as is the result.
            answers, count, positive_aware: see `hard_negatives.mine`.

        Returns:
            (B, min(count, M)) int64; in a step that does not search the whole gallery, not more
            than the last search found.
        """
        # A run may be resumed after each checkpoint, and then has no earlier search.
        if self._recent is not None and self.step % CHECKPOINT_STEPS % self.every:
            pieces = self._pieces(self._recent)
            found = nearest_wrong(queries, pieces, answers, count, positive_aware=positive_aware)
            return found[1]
        part = self._own_part()
        best, where = nearest_wrong(queries, part, answers, count, positive_aware=positive_aware)
        where = self._nearest_of_all(best, where, min(count, len(self)))
        self._recent = torch.unique(where) if self.every > 1 else None
        return where

    def _own_part(self) -> list[tuple[Tensor, Tensor]]:
        size = sizes_for(self.device).gallery
        parts = self._part.split(size) if len(self._part) else ()
        starts = range(self._first, self._first + len(self._part), size)
        return [
            (torch.arange(start, start + len(part), device=self.device), part)
            for start, part in zip(starts, parts, strict=True)
        ]

    def _pieces(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        size = sizes_for(self.device).gallery
        return [(some, self[some].to(self._part.dtype)) for some in positions.split(size)]

    def _nearest_of_all(self, best: Tensor, where: Tensor, count: int) -> Tensor:
        """Merge what the processes have found; a part may have fewer than ``count`` images."""
        if self.workers.count == 1:
            return where
        scores = best.new_full((len(best), count), _ABSENT)
        positions = where.new_zeros(len(where), count)
        scores[:, : best.shape[1]], positions[:, : where.shape[1]] = best, where
        all_scores = torch.cat(self.workers.collect(scores), dim=1)
        all_positions = torch.cat(self.workers.collect(positions), dim=1)
        return all_positions.gather(1, all_scores.topk(count, dim=1).indices)
