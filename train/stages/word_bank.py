"""Stage I's soft text alignment: with captions, or with a word bank for images without a caption.

A word bank holds names of objects and attributes. The target of an image is its similarity to the
nearest words, in the frozen backbone's joint space and at its temperature, so it stays soft.
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

from train.data import DataError, TrainingImage
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
"""Common attributes and scenes; names of objects come from ImageNet."""


@dataclass(frozen=True)
class WordBank:
    """Words that images without captions are aligned with.

    Attributes:
        words: distinct words.
        nearest: number of words in an image's target.
    """

    words: tuple[str, ...]
    nearest: int = 16

    def prompts(self) -> list[str]:
        """Return the text to embed for each word."""
        return [f"a photo of {word}" for word in self.words]

    def describe(self) -> dict[str, object]:
        """Return the bank's description for a run's configuration."""
        digest = hashlib.sha256(json.dumps(self.words).encode()).hexdigest()
        return {"words": len(self.words), "nearest": self.nearest, "sha256": digest}


def default_words(images: Iterable[TrainingImage]) -> tuple[str, ...]:
    """Return the attributes of a collection, common attributes and ImageNet's class names."""
    own = {
        value.lower()
        for image in images
        for value in (image.item.type, image.item.colour, image.item.gender, image.item.pattern)
        if value and value != UNKNOWN_VALUE
    }
    return tuple(dict.fromkeys([*sorted(own), *ATTRIBUTES, *open_clip.IMAGENET_CLASSNAMES]))


def read_words(path: Path) -> tuple[str, ...]:
    """Read a text file with one word per line.

    Raises:
        DataError: the file cannot be read, or has fewer than two words.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The word bank {path} cannot be read ({error}); --word-bank needs a text file."
        ) from error
    words = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(words) < 2:
        raise DataError(
            f"The word bank {path} has {len(words)} words, but needs at least 2, one per line."
        )
    return words


class TextAlignment:
    """The alignment loss of images with and without captions.

    Args:
        words: (C, D) embeddings of the word bank; ``None`` if all images have captions.
        nearest: number of words in an image's target.
        temperature: tau, of the queries' distributions.
        target_temperature: tau_t, of the target over captions.
        word_temperature: temperature of the target over words: the backbone's own.
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
        self, queries: Tensor, image_embeds: Tensor, captioned: NDArray[np.bool_], captions: Tensor
    ) -> Tensor:
        """Return the mean divergence of the queries' distributions from the images' targets.

        Args:
            queries: (B, D), ``f_t("a photo of $")``, L2-normalised.
            image_embeds: (B, D), ``v``, L2-normalised.
            captioned: (B,) bool, which images have a caption.
            captions: (K, D) embeddings of the captions, in order.
        """
        parts: list[Tensor] = []
        if captioned.any():
            some = slice(None) if captioned.all() else torch.from_numpy(np.flatnonzero(captioned))
            aligned = soft_text_alignment(
                queries[some], captions, captions, self.temperature, self.target_temperature
            )
            if captioned.all():
                return aligned
            parts.append(aligned * float(captioned.mean()))
        assert self.words is not None
        some = torch.from_numpy(np.flatnonzero(~captioned))
        aligned = nearest_word_alignment(
            queries[some],
            self.words,
            image_embeds[some],
            self.nearest,
            self.temperature,
            self.word_temperature,
        )
        parts.append(aligned * float((~captioned).mean()))
        return torch.stack(parts).sum()
