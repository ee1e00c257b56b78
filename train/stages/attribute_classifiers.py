"""Linear classifiers of a photo's attributes, which a backbone is trained with and then drops.

Contrast with texts alone reads a photo worse than a linear probe on its patches can; the probe's
loss beside it teaches the patches what the token learner and VSI will look for.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["AttributeClassifiers"]

UNKNOWN = -1
SCALE = 16.0  # L2-normalised embeddings are small inputs for a linear layer


class AttributeClassifiers(nn.Module):
    """One classifier per attribute on the embedding, and one on the mean patch.

    Args:
        values: (M, A) int64, attribute values of the images by number, `UNKNOWN` where unknown.
        embed_dim: D, width of embeddings.
        patch_dim: d_v, width of patches.
    """

    def __init__(self, values: NDArray[np.int64], embed_dim: int, patch_dim: int) -> None:
        super().__init__()
        self._values = torch.from_numpy(values)
        counts = [int(column.max()) + 1 for column in self._values.T]
        self._known = [number for number, count in enumerate(counts) if count > 1]
        self.on_embeds = nn.ModuleList(nn.Linear(embed_dim, counts[i]) for i in self._known)
        self.on_patches = nn.ModuleList(nn.Linear(patch_dim, counts[i]) for i in self._known)

    def loss(
        self,
        rows: NDArray[np.int64],
        image_embeds: Tensor,
        mean_patches: Tensor,
        label_smoothing: float,
    ) -> Tensor:
        """Return the mean cross-entropy over attributes and both inputs.

        Args:
            rows: (B,) images.
            image_embeds: (B, D), L2-normalised.
            mean_patches: (B, d_v).
            label_smoothing: share of the probability that is spread over all values.
        """
        values = self._values[torch.from_numpy(rows)]
        losses = []
        for heads, inputs in (
            (self.on_embeds, SCALE * image_embeds),
            (self.on_patches, mean_patches),
        ):
            for number, head in zip(self._known, heads, strict=True):
                wanted = values[:, number]
                if bool((wanted != UNKNOWN).any()):
                    losses.append(
                        F.cross_entropy(
                            head(inputs),
                            wanted,
                            ignore_index=UNKNOWN,
                            label_smoothing=label_smoothing,
                        )
                    )
        return torch.stack(losses).mean() if losses else image_embeds.sum() * 0
