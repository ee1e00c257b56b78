"""Attention written out for the graphs: fewer nodes than the exporter's own, softmax in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend", "written_out_attention"]

MASKED = -1.0e4  # as in `train.model.backbone`: finite in half precision too


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention`` of a model in evaluation mode, softmax in float32.

    Args:
        query: (..., T, d); key: (..., S, d); value: (..., S, d_v); all of one dtype.
        attn_mask: added to the logits, or bool, true where to look; (..., T, S).
        scale: of the logits; 1 / sqrt(d) by default.

    Returns:
        (..., T, d_v) in the dtype of ``value``.
    """
    if enable_gqa:
        raise NotImplementedError("grouped queries are not written out")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # scaled before the product, which would otherwise be the largest number of a half tower
    logits = torch.matmul(query * scale, key.transpose(-2, -1)).float()
    if is_causal:
        positions = torch.arange(query.shape[-2], device=query.device)
        attn_mask = positions[:, None] >= torch.arange(key.shape[-2], device=query.device)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, MASKED)
        logits = logits + attn_mask.float()
    return torch.matmul(torch.softmax(logits, dim=-1).to(value.dtype), value)


@contextmanager
def written_out_attention() -> Iterator[None]:
    """Let every model that asks torch for attention get `attend`'s."""
    with mock.patch.object(F, "scaled_dot_product_attention", attend):
        yield
