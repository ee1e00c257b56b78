"""Attention as plain operators: fewer nodes than the exporter's own, with softmax in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from train.model.backbone import MASKED


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
    """Compute ``F.scaled_dot_product_attention`` without dropout, with softmax in float32.

    Args:
        query: (..., T, d); key: (..., S, d); value: (..., S, d_v); all of one dtype.
        attn_mask: (..., T, S), added to the logits; or bool, where true is attended to.

    Returns:
        (..., T, d_v) in the dtype of ``value``.

    Raises:
        NotImplementedError: grouped queries are requested.
    """
    if enable_gqa:
        raise NotImplementedError("grouped queries are not supported")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # Scale before the product: its values would otherwise be the largest of an fp16 tower.
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
def plain_attention() -> Iterator[None]:
    """Replace torch's attention by `attend` in every model."""
    with mock.patch.object(F, "scaled_dot_product_attention", attend):
        yield
