"""Prompts as token ids, for training, through the very tokenizer that the SDK searches with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from train.tokenizer import clip_tokenizer
from ztcir_sdk.tokenizer import Tokenizer

__all__ = ["COMPOSED_PROMPT", "MAPPED_PROMPT", "mapped_ids", "prompt_ids", "text_ids"]

MAPPED_PROMPT = "a photo of $"
COMPOSED_PROMPT = "a photo of $ that {text}"


@cache
def _tokenizer() -> Tokenizer:
    return clip_tokenizer()


def prompt_ids(texts: Sequence[str], *, tokens: int = 1) -> Tensor:
    """Ids of "a photo of $ that {text}", padded with 0 to the longest: (B, T) int64.

    Args:
        texts: modification texts.
        tokens: n, pseudo-words an image.
    """
    tokenizer = _tokenizer()
    prompts = [tokenizer.encode_prompt(COMPOSED_PROMPT, text, n_tokens=tokens) for text in texts]
    return torch.from_numpy(tokenizer.pad(prompts))


def mapped_ids(count: int, *, tokens: int = 1) -> Tensor:
    """Ids of "a photo of $", ``count`` times: (count, T) int64."""
    ids = _tokenizer().encode_prompt(MAPPED_PROMPT, n_tokens=tokens)
    return torch.tensor([ids] * count)


def text_ids(texts: Sequence[str]) -> Tensor:
    """Ids of bare texts, padded with 0 to the longest: (B, T) int64."""
    return torch.from_numpy(_tokenizer().encode_batch(texts))
