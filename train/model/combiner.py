"""Combiner: mixes a composed query with the image's own vector and with captions it knows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Combiner"]

SHARPNESS = 50.0  # initial sharpness of the weights over captions: a temperature of 0.02
FIRST_WEIGHT = 0.3  # weight of the captions before training
RIDGE = 1e-3  # share of the mean square of the inputs that is added in `fit`


class Combiner(nn.Module):
    """``q <- q + a (g v' + f)``, then ``q <- q + a b m(q)``, each L2-normalised.

    ``v'`` is the image's vector, read from what the token learner and VSI made of it, so that it
    does not pass through the text tower: a text that asks for nothing visible can leave the image
    as it is. The gate g, the weight b and the residual f depend on the query and the image, as in
    the Combiner of CLIP4Cir (Baldrati et al., CVPRW 2022, sec. 3.2). ``m`` is the mean of known
    captions, weighted by how near they are to q: a step of a modern Hopfield network (Ramsauer et
    al. 2021, eq. 3), which draws a query towards what exists.

    Args:
        embed_dim: D, size of the joint embedding.
        text_width: d_t, width of the text tower.
        injected: Lv * d_vsi, numbers of VSI's keys for one patch; 0 without VSI.
        width: inner width.
        captions: K, number of captions that can be kept; 0: none.
    """

    captions: Tensor
    """(K, D) embeddings of captions, L2-normalised; rows of zeros are not used."""

    def __init__(
        self, embed_dim: int, text_width: int, injected: int, width: int, captions: int = 0
    ) -> None:
        super().__init__()
        reference = text_width + 2 * injected
        self.norm_word = nn.LayerNorm(text_width)
        self.image = nn.Linear(reference, embed_dim)
        self.norm_query = nn.LayerNorm(embed_dim)
        self.norm_reference = nn.LayerNorm(reference)
        self.inner = nn.Linear(embed_dim + reference, width)
        self.out_gate = nn.Linear(width, 1)
        self.out_residual = nn.Linear(width, embed_dim)
        self.out_caption = nn.Linear(width, 1)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        self.register_buffer("captions", torch.zeros(captions, embed_dim))
        for layer in (self.out_gate, self.out_residual, self.out_caption):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def describe(self, pseudo_tokens: Tensor, vsi_keys: Tensor, vsi_values: Tensor) -> Tensor:
        """Return what is known of R images, (R, d_t + 2 * Lv * d_vsi).

        Args:
            pseudo_tokens: (R, n, d_t).
            vsi_keys: (R, Lv, N, d_vsi).
            vsi_values: (R, Lv, N, d_vsi).
        """
        word = self.norm_word(pseudo_tokens.mean(dim=1))
        if not vsi_keys.shape[1]:
            return word
        means = [some.mean(dim=2).flatten(1) for some in (vsi_keys, vsi_values)]
        return torch.cat([word, *means], dim=-1)

    @torch.no_grad()
    def fit(self, described: Tensor, image_embeds: Tensor) -> None:
        """Set ``v'`` to the best linear estimate of the images' embeddings (ridge regression).

        Args:
            described: (M, ...) of `describe`.
            image_embeds: (M, D), L2-normalised.
        """
        x = described.double()
        mean_x, mean_v = x.mean(dim=0), image_embeds.double().mean(dim=0)
        x = x - mean_x
        square = x.T @ x
        square += RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
        weight = torch.linalg.solve(square, x.T @ (image_embeds.double() - mean_v)).T
        self.image.weight.copy_(weight)
        self.image.bias.copy_(mean_v - weight @ mean_x)

    @torch.no_grad()
    def remember(self, embeds: Tensor) -> None:
        """Keep the first K of some captions (C, D), L2-normalised, and begin to use them."""
        kept = embeds[: len(self.captions)]
        self.captions.zero_()
        self.captions[: len(kept)] = kept.to(self.captions)
        self.out_caption.bias.fill_(FIRST_WEIGHT)

    def forward(self, queries: Tensor, described: Tensor, scale: Tensor) -> Tensor:
        """Mix queries (B, D), L2-normalised, by ``scale`` (B,); 0 returns them unchanged.

        Args:
            queries: q.
            described: (B, ...) of `describe`, the reference of each query.
            scale: a.

        Returns:
            (B, D), L2-normalised.
        """
        by = scale[:, None]
        known = torch.cat([self.norm_query(queries), self.norm_reference(described)], dim=-1)
        inner = F.gelu(self.inner(known))
        image = F.normalize(self.image(described), dim=-1)
        mixed = queries + by * (self.out_gate(inner) * image + self.out_residual(inner))
        mixed = F.normalize(mixed, dim=-1)
        if not len(self.captions):
            return mixed
        near = (self.sharpness.exp() * mixed @ self.captions.T).softmax(dim=-1)
        recalled = F.normalize(near @ self.captions, dim=-1)
        return F.normalize(mixed + by * self.out_caption(inner) * recalled, dim=-1)
