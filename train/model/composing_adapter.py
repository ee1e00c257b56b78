"""Composing adapter (CA): lets a frozen text block compose ``$`` with words."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ComposingAdapter"]


class ComposingAdapter(nn.Module):
    """``x <- x + a * W_up gelu(W_down LN(x))``, ``W_up`` zero at the start (method, Stage II).

    Args:
        text_width: d_t, width of the text tower.
        bottleneck: inner width.
    """

    def __init__(self, text_width: int, bottleneck: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_width)
        self.down = nn.Linear(text_width, bottleneck)
        self.up = nn.Linear(bottleneck, text_width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Adapt x (B, T, d_t) by ``scale`` (B,): 1 composes, 0 returns x unchanged."""
        adapted: Tensor = self.up(F.gelu(self.down(self.norm(x))))
        return x + scale[:, None, None] * adapted
