"""The texts that a backbone learns from: captions, and descriptions of attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Item, TrainingImage
from train.settings import BackboneTraining
from train.wordings import KINDS, product_caption
from train.wordings.misspellings import misspell
from train.wordings.open_wordings import foreign_caption
from ztcir_sdk.names import UNKNOWN_VALUE

__all__ = ["Texts", "tokenize"]

SUBSETS: tuple[tuple[tuple[str, ...], float], ...] = (
    (KINDS, 0.8),
    (("colour", "type", "pattern"), 0.1),
    (("type", "gender", "pattern"), 0.1),
)
"""Attributes that a description names, and how often. Captions name the product, so the type is
always named: texts without it ("for women", "red") are for Stage II."""
MAX_TOKENS = 32  # tokens; the catalogue's captions are shorter


def tokenize(texts: Sequence[str]) -> Tensor:
    """Return the token ids (B, MAX_TOKENS) of texts."""
    ids: Tensor = open_clip.get_tokenizer("ViT-B-32")(texts, context_length=MAX_TOKENS)
    return ids


class Texts:
    """Captions and attribute descriptions of every image, tokenized once.

    Attributes:
        ids: (M, 1 + descriptions, T) int64; the caption is first.
        named: (M, 1 + descriptions, attributes) bool, the attributes that each text names; none
            for captions.
        values: (M, attributes) int64, attribute values by number; -1 if unknown.
        domain: (M,) int64, 1 for drawings.
    """

    def __init__(self, images: Sequence[TrainingImage], config: BackboneTraining) -> None:
        rng = np.random.default_rng([config.seed, 3])
        numbers: list[dict[str, int]] = [{} for _ in KINDS]
        weights = np.array([weight for _, weight in SUBSETS])
        texts: list[str] = []
        self.named = np.zeros((len(images), 1 + config.descriptions, len(KINDS)), bool)
        self.values = np.full((len(images), len(KINDS)), -1)
        self.domain = np.array([int(image.is_drawing) for image in images])
        for row, image in enumerate(images):
            known = _known_attributes(image.item)
            for column, name in enumerate(KINDS):
                if name in known:
                    codes = numbers[column]
                    self.values[row, column] = codes.setdefault(known[name], len(codes))
            texts.append(image.item.caption)
            for number in range(config.descriptions):
                subset = SUBSETS[rng.choice(len(SUBSETS), p=weights / weights.sum())][0]
                named = {name: known[name] for name in subset if name in known} or known
                text, named = _description(named, config, rng)
                texts.append(text)
                self.named[row, 1 + number] = [name in named for name in KINDS]
        self.ids = tokenize(texts).reshape(len(images), 1 + config.descriptions, MAX_TOKENS)

    def positives(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
        """Return which images (columns) each text (rows) of a batch is true of: (B, B) bool.

        The batch has the images ``rows`` (B,), and of each the text ``columns`` (B,).
        """
        named = self.named[rows, columns]  # (B, A)
        values = self.values[rows]
        same = values[:, None, :] == values[None, :, :]
        true_of = np.all(same | ~named[:, None, :], axis=-1) & np.any(named, axis=-1)[:, None]
        return torch.from_numpy(true_of | np.eye(len(rows), dtype=bool))


def _known_attributes(item: Item) -> dict[str, str]:
    known = {name: getattr(item, name) for name in KINDS}
    return {name: value for name, value in known.items() if value and value != UNKNOWN_VALUE}


def _description(
    named: dict[str, str], config: BackboneTraining, rng: np.random.Generator
) -> tuple[str, dict[str, str]]:
    """Return a description, at times in another language or with a typing error, and what it names.

    The lexicon of other languages has no patterns.
    """
    text = ""
    if config.foreign and rng.random() < config.foreign:
        without = {kind: value for kind, value in named.items() if kind != "pattern"}
        text = foreign_caption(without, rng)
        named = without if text else named
    text = text or product_caption(named, rng)
    if config.misspelt and rng.random() < config.misspelt:
        text = misspell(text, rng)
    return text, named
