"""Stage I's soft text alignment: with captions, or with a word bank where an image has none.

A word bank holds names of objects and attributes. The image says by itself which of them are near,
in the frozen backbone's own joint space and at its own temperature, so the target stays soft.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data.image import TrainingImage
from train.data.item import DataError
from train.stages.losses import nearest_word_alignment, soft_text_alignment
from ztcir_sdk.names import UNKNOWN_VALUE

__all__ = ["TextAlignment", "WordBank", "default_words", "read_words"]

ATTRIBUTES = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
    *("grey", "beige", "gold", "silver", "turquoise", "maroon", "navy blue", "multicoloured"),
    *("striped", "checked", "dotted", "floral", "plain", "patterned", "printed", "embroidered"),
    *("wooden", "metal", "leather", "cotton", "denim", "wool", "silk", "glass", "plastic", "stone"),
    *("furry", "shiny", "transparent", "rusty", "wet", "dirty", "old", "new", "broken", "round"),
    *("square", "long", "short", "wide", "narrow", "large", "small", "open", "closed", "empty"),
    *("indoors", "outdoors", "at night", "by day", "in snow", "in water", "close up", "from above"),
    *("a man", "a woman", "a child", "a group of people", "a crowd", "an animal", "a building"),
    *("food", "a plant", "a vehicle", "furniture", "clothing", "a landscape", "text", "a drawing"),
)
"""Words of every kind of picture, beside the names of objects."""


@dataclass(frozen=True)
class WordBank:
    """Words that images without captions are aligned with.

    Attributes:
        words: each of them once.
        nearest: words that an image's target is spread over.
    """

    words: tuple[str, ...]
    nearest: int = 16

    def prompts(self) -> list[str]:
        """The texts that are embedded."""
        return [f"a photo of {word}" for word in self.words]

    def describe(self) -> dict[str, object]:
        """For a run's configuration."""
        digest = hashlib.sha256(json.dumps(self.words).encode()).hexdigest()
        return {"words": len(self.words), "nearest": self.nearest, "sha256": digest}


def default_words(images: Iterable[TrainingImage]) -> tuple[str, ...]:
    """What a collection itself names, common attributes, and ImageNet's names of objects."""
    own = {
        value.lower()
        for image in images
        for value in (image.item.type, image.item.colour, image.item.gender, image.item.pattern)
        if value and value != UNKNOWN_VALUE
    }
    return tuple(dict.fromkeys([*sorted(own), *ATTRIBUTES, *open_clip.IMAGENET_CLASSNAMES]))


def read_words(path: Path) -> tuple[str, ...]:
    """Words of a text file, one a line.

    Raises:
        DataError: it cannot be read, or has fewer than two words.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The word bank {path} cannot be read ({error}); name a text file.") from (
            error
        )
    words = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(words) < 2:
        raise DataError(f"The word bank {path} holds {len(words)} words; give one a line, many.")
    return words


class TextAlignment:
    """The alignment's loss of a batch, for images with and without captions.

    Args:
        words: (C, D) embeddings of the word bank's words, ``None`` where all have captions.
        nearest: of the word bank.
        temperature: tau, of the queries' distributions.
        target_temperature: tau_t, of the target over captions.
        word_temperature: of the target over words: the backbone's own.
    """

    def __init__(
        self,
        words: Tensor | None,
        *,
        nearest: int,
        temperature: float,
        target_temperature: float,
        word_temperature: float,
    ) -> None:
        self.words, self.nearest = words, nearest
        self.temperature, self.target_temperature = temperature, target_temperature
        self.word_temperature = word_temperature

    def loss(
        self, queries: Tensor, image_embeds: Tensor, told: NDArray[np.bool_], captions: Tensor
    ) -> Tensor:
        """Mean over a batch of the divergences from each image's own target.

        Args:
            queries: (B, D), ``f_t("a photo of $")``; image_embeds: (B, D), ``v``; normalised.
            told: (B,), which images have a caption.
            captions: (K, D), the embeddings of theirs, in order.
        """
        parts: list[Tensor] = []
        if told.any():
            some = slice(None) if told.all() else torch.from_numpy(np.flatnonzero(told))
            aligned = soft_text_alignment(
                queries[some], captions, captions, self.temperature, self.target_temperature
            )
            if told.all():
                return aligned
            parts.append(aligned * float(told.mean()))
        assert self.words is not None
        some = torch.from_numpy(np.flatnonzero(~told))
        aligned = nearest_word_alignment(
            queries[some],
            self.words,
            image_embeds[some],
            self.nearest,
            self.temperature,
            self.word_temperature,
        )
        parts.append(aligned * float((~told).mean()))
        return torch.stack(parts).sum()
