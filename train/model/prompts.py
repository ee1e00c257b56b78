"""Prompts as token ids, for training, through the very tokenizer that the SDK searches with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.model.text_tower import CLIP_TOWER, TextTower
from train.model.vocabulary import tower_tokenizer
from ztcir_sdk.names import COMPOSED_PROMPT, MAPPED_PROMPT
from ztcir_sdk.tokenizer import Tokenizer

__all__ = [
    "encode_alike",
    "mapped_ids",
    "prompt_ids",
    "text_ids",
]


@cache
def _tokenizer(tower: TextTower) -> Tokenizer:
    return tower_tokenizer(tower)


def prompt_ids(texts: Sequence[str], *, tokens: int = 1, tower: TextTower = CLIP_TOWER) -> Tensor:
    """Ids of "a photo of $ that {text}", padded as the tower needs: (B, T) int64.

    Args:
        texts: modification texts.
        tokens: n, pseudo-words an image.
        tower: whose tokenizer and padding; by default CLIP's, padded to the longest with 0.
    """
    tokenizer = _tokenizer(tower)
    prompts = [tokenizer.encode_prompt(COMPOSED_PROMPT, text, n_tokens=tokens) for text in texts]
    return torch.from_numpy(tokenizer.pad(prompts))


def mapped_ids(count: int, *, tokens: int = 1, tower: TextTower = CLIP_TOWER) -> Tensor:
    """Ids of "a photo of $", ``count`` times: (count, T) int64."""
    tokenizer = _tokenizer(tower)
    ids = tokenizer.encode_prompt(MAPPED_PROMPT, n_tokens=tokens)
    return torch.from_numpy(tokenizer.pad([ids] * count))


def text_ids(texts: Sequence[str], *, tower: TextTower = CLIP_TOWER) -> Tensor:
    """Ids of bare texts, padded as the tower needs: (B, T) int64."""
    return torch.from_numpy(_tokenizer(tower).encode_batch(texts))


def encode_alike(
    lengths: Sequence[int],
    encode: Callable[[NDArray[np.int64]], Tensor],
    most: int = 64,
) -> Tensor:
    """Encode texts of like length together, which spares the text tower padding.

    Args:
        lengths: of all texts, B at least 1; tokens, or whatever grows with them.
        encode: gives (b, D) of some texts, by their places (b,).
        most: texts that are encoded at a time.

    Returns:
        (B, D), in the order of ``lengths``.
    """
    order = np.argsort(lengths, kind="stable")
    parts = [encode(rows) for rows in np.array_split(order, -(-len(order) // most))]
    encoded = torch.cat(parts)
    return encoded[torch.from_numpy(np.argsort(order)).to(encoded.device)]
