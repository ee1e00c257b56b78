"""The order in which a stage draws its batches."""

from __future__ import annotations

import numpy as np


class Batches:
    """Batches of positions by step: each epoch is a new permutation, without its short last batch.

    Args:
        count: number of images.
        size: images per batch; larger values count as ``count``.
        seed: random seed of the permutations.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, min(size, count), seed
        self.per_epoch = max(1, count // self.size)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, step: int) -> np.ndarray:
        """Return the positions (size,) int64 of the batch of ``step``."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.count)
        return self._order[number * self.size : (number + 1) * self.size]
