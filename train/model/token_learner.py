"""Token learner (TL): maps an image to the pseudo-word ``$``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.model.attention import attend

__all__ = ["TokenLearner"]


class _Block(nn.Module):
    """Cross-attention from queries to patches, then an MLP; pre-norm, residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(width, width)
        self.to_value = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, queries: Tensor, patches: Tensor | None) -> Tensor:
        if patches is not None:
            attended = attend(
                self.to_query(self.norm_query(queries)),
                self.to_key(patches),
                self.to_value(patches),
                self.heads,
            )
            queries = queries + self.to_out(attended)
        return queries + self.mlp(self.norm_mlp(queries))


class TokenLearner(nn.Module):
    """Learnable queries, conditioned on the embedding, attend to the patches (method, Stage I).

    Args:
        embed_dim: D, size of the pooled embedding.
        patch_dim: d_v, width of the patch features; ``text_width``: d_t.
        tokens: n, pseudo-words per image.
        depth: number of cross-attention blocks of ``width``; 0: a projection of ``v`` alone.
    """

    def __init__(
        self,
        embed_dim: int,
        patch_dim: int,
        text_width: int,
        *,
        tokens: int = 1,
        width: int = 256,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.condition = nn.Linear(embed_dim, width)
        self.norm_patches = nn.LayerNorm(patch_dim)
        self.to_patches = nn.Linear(patch_dim, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.to_token = nn.Linear(width, text_width)
        # a new pseudo-word has about the norm of a word: open_clip's token rows have std 0.02
        nn.init.normal_(self.to_token.weight, std=0.02 / width**0.5)
        nn.init.zeros_(self.to_token.bias)

    def forward(self, image_embeds: Tensor, patch_features: Tensor | None) -> Tensor:
        """Return ``s`` (R, n, d_t) from ``v`` (R, D) and ``P`` (R, N, d_v).

        Without ``P``, as for the embedding of a text, nothing is attended to.
        """
        # v has norm 1, so its entries are small; this brings them to a variance of about 1
        condition = self.condition(image_embeds * image_embeds.shape[-1] ** 0.5)
        queries = self.queries + condition[:, None]  # (R, n, width)
        if len(self.blocks):
            patches = None
            if patch_features is not None:
                patches = self.to_patches(self.norm_patches(patch_features))
            for block in self.blocks:
                queries = block(queries, patches)
        token: Tensor = self.to_token(self.norm_out(queries))
        return token
