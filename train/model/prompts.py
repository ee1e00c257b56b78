"""Prompts as token ids for training, through the same tokenizer that the SDK searches with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.model.text_tower import CLIP_TOWER, TextTower
from train.model.vocabulary import tower_tokenizer
from ztcir_sdk.names import COMPOSED_PROMPT, MAPPED_PROMPT, PLACEHOLDER_ID
from ztcir_sdk.tokenizer import Tokenizer

__all__ = ["encode_by_length", "mapped_ids", "masked_ids", "prompt_ids", "text_ids"]


@cache
def _tokenizer(tower: TextTower) -> Tokenizer:
    return tower_tokenizer(tower)


def prompt_ids(texts: Sequence[str], *, tokens: int = 1, tower: TextTower = CLIP_TOWER) -> Tensor:
    """Return the ids (B, T) int64 of "a photo of $ that {text}", padded for the text tower.

    Args:
        texts: modification texts.
        tokens: n, pseudo-words per image.
        tower: its tokenizer and padding are used; the default, CLIP's, pads to the longest with 0.
    """
    tokenizer = _tokenizer(tower)
    prompts = [tokenizer.encode_prompt(COMPOSED_PROMPT, text, n_tokens=tokens) for text in texts]
    return torch.from_numpy(tokenizer.pad(prompts))


def mapped_ids(count: int, *, tokens: int = 1, tower: TextTower = CLIP_TOWER) -> Tensor:
    """Return the ids (count, T) int64 of "a photo of $", ``count`` times."""
    tokenizer = _tokenizer(tower)
    ids = tokenizer.encode_prompt(MAPPED_PROMPT, n_tokens=tokens)
    return torch.from_numpy(tokenizer.pad([ids] * count))


def masked_ids(tokenizer: Tokenizer, pieces: Sequence[str | None]) -> list[int]:
    """Return a masked caption's token ids, cut to the context; a placeholder has id -1."""
    special = {tokenizer.sot, tokenizer.eot}
    ids = [
        token
        for piece in pieces
        for token in ([PLACEHOLDER_ID] if piece is None else tokenizer.encode(piece))
        if token not in special
    ]
    start = [] if tokenizer.sot is None else [tokenizer.sot]
    return [*start, *ids[: tokenizer.context_length - len(start) - 1], tokenizer.eot]


def text_ids(texts: Sequence[str], *, tower: TextTower = CLIP_TOWER) -> Tensor:
    """Return the ids (B, T) int64 of texts without a placeholder, padded for the text tower."""
    return torch.from_numpy(_tokenizer(tower).encode_batch(texts))


def encode_by_length(
    lengths: Sequence[int], encode: Callable[[NDArray[np.int64]], Tensor], most: int = 64
) -> Tensor:
    """Encode texts in groups of similar length, so that little padding is computed.

    Args:
        lengths: length of each text, in tokens or anything that grows with them; at least one.
        encode: encodes the texts at some positions (b,) as (b, D).
        most: largest group.

    Returns:
        (B, D), in the order of ``lengths``.
    """
    order = np.argsort(lengths, kind="stable")
    parts = [encode(rows) for rows in np.array_split(order, -(-len(order) // most))]
    encoded = torch.cat(parts)
    return encoded[torch.from_numpy(np.argsort(order)).to(encoded.device)]
