"""Visual semantic injection (VSI): text layers attend to the image at the positions of ``$``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from train.model.attention import attend

__all__ = ["VisualSemanticInjection"]


class VisualSemanticInjection(nn.Module):
    """``h <- h + tanh(g_l) * CrossAttn_l(LN(h), P)`` at the positions of ``$`` (method, Stage I).

    Keys and values depend on the image alone: `project` computes them once per reference, and
    `inject` uses them for every text.

    Args:
        patch_dim: d_v, width of the patch features; ``text_width``: d_t.
        layers: indices of the text blocks before which VSI injects.
        width: d_vsi, width of keys and values.
        gate: initial value of every g_l, near 0.
    """

    def __init__(
        self,
        patch_dim: int,
        text_width: int,
        layers: Sequence[int],
        *,
        width: int = 128,
        heads: int = 4,
        gate: float = 0.1,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.width, self.heads = width, heads
        self.norm_patches = nn.LayerNorm(patch_dim)
        self.to_keys = nn.ModuleList(nn.Linear(patch_dim, width) for _ in layers)
        self.to_values = nn.ModuleList(nn.Linear(patch_dim, width) for _ in layers)
        self.norms = nn.ModuleList(nn.LayerNorm(text_width) for _ in layers)
        self.to_query = nn.ModuleList(nn.Linear(text_width, width) for _ in layers)
        self.to_out = nn.ModuleList(nn.Linear(width, text_width) for _ in layers)
        self.gates = nn.Parameter(torch.full((len(self.layers),), gate))

    def project(self, patch_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (R, Lv, N, d_vsi) of patch features (R, N, d_v)."""
        patches = self.norm_patches(patch_features)
        keys = torch.stack([layer(patches) for layer in self.to_keys], dim=1)
        values = torch.stack([layer(patches) for layer in self.to_values], dim=1)
        return keys, values

    def inject(self, layer: int, h: Tensor, at: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return ``h`` with the image's features injected, as the input of text block ``layer``.

        Args:
            layer: index of the text block; if it has no injection, ``h`` is returned unchanged.
            h: (B, T, d_t).
            at: (B, T) bool, true at ``$``.
            keys: (B, Lv, N, d_vsi), one row per text.
            values: (B, Lv, N, d_vsi).
        """
        if layer not in self.layers:
            return h
        i = self.layers.index(layer)
        query = self.to_query[i](self.norms[i](h))
        seen = self.to_out[i](attend(query, keys[:, i], values[:, i], self.heads))
        return h + at[..., None].to(h.dtype) * torch.tanh(self.gates[i]) * seen
