"""Multi-head attention between queries and the projected patches of an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend"]


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(d)) v, in ``heads`` parts.

    Args:
        queries: (B, T, d); d is divisible by ``heads``.
        keys: (B, N, d).
        values: (B, N, d).
        heads: number of attention heads.

    Returns:
        (B, T, d).
    """

    def split(x: Tensor) -> Tensor:  # (B, heads, positions, d / heads)
        batch, positions, width = x.shape
        return x.reshape(batch, positions, heads, width // heads).transpose(1, 2)

    attended = F.scaled_dot_product_attention(split(queries), split(keys), split(values))
    return attended.transpose(1, 2).flatten(2)
