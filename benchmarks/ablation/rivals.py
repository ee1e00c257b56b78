"""Rival methods on the same frozen features: one pseudo-word an image, and no composing trained.

Each has its own loss and its own prompt. What is common, and differs from their papers: the
backbone, fashion-lite; the images, which are the catalogue's; as many steps as both stages of the
method have together, in batches of Stage I, under Stage I's learning rate and schedule; and inputs
of length sqrt(D), since this backbone's embeddings have length 1 and a CLIP's raw ones do not.

- Pic2Word (Saito et al., CVPR 2023, sec. 3): nothing of the loss differs.
- SEARLE (Baldrati et al., ICCV 2023, sec. 3.1 and 3.2): the regulariser's sentences are a dozen
  hand-written frames in place of GPT's, around the catalogue's types and coloured types in place of
  OpenImages' classes; fewer images are inverted, in fewer steps; weights as in the published code.
- LinCIR (Gu et al., CVPR 2024, sec. 3.2): the texts are the catalogue's captions and descriptions
  of its attributes in place of CC3M and prompts for image generators, and keywords are all words
  but function words in place of a tagger's nouns and adjectives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.model import Backbone, ComposedModel, ModelConfig, TextTower, tower_tokenizer
from train.stages.losses import info_nce
from ztcir_sdk.names import PLACEHOLDER_ID
from ztcir_sdk.tokenizer import Tokenizer

__all__ = [
    "RIVALS",
    "Rival",
    "concept_phrases",
    "cosine_loss",
    "likeliest_scale",
    "masked_caption",
    "masked_ids",
    "noisy_text",
    "projection_model",
    "self_masking_loss",
    "token_distillation",
    "tokenizer_of",
]

TEMPERATURE = 0.25  # of SEARLE's distillation
NEAREST = 15  # concepts an image, SEARLE sec. 3.1
LAMBDA_COSINE, LAMBDA_INVERSION = 1.0, 0.5  # SEARLE's weights: of the inversion,
LAMBDA_DISTILLATION, LAMBDA_REGULARISER = 1.0, 0.25  # and of phi, as its published code has them
INVERSION_LR, INVERSION_DECAY, INVERSION_EMA = 2e-2, 0.01, 0.99


@dataclass(frozen=True)
class Rival:
    """How a rival is asked, and its network.

    Attributes:
        prompt: of a composed query.
        network: (D, d_t) -> the projection of an embedding to a pseudo-word.
    """

    prompt: str
    network: Callable[[int, int], nn.Module]


def _pic2word_network(embed_dim: int, text_width: int) -> nn.Module:
    """Three fully connected layers (Saito et al. 2023, sec. 4, implementation details)."""
    width = 512
    return nn.Sequential(
        nn.Linear(embed_dim, width),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Linear(width, text_width),
    )


def _phi_network(embed_dim: int, text_width: int) -> nn.Module:
    """phi of SEARLE (Baldrati et al. 2023, sec. 3.2), which LinCIR takes over (sec. 3.2)."""
    width = 4 * embed_dim
    return nn.Sequential(
        nn.Linear(embed_dim, width),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(width, text_width),
    )


RIVALS: Mapping[str, Rival] = MappingProxyType(
    {
        "pic2word": Rival("a photo of $, {text}", _pic2word_network),
        "searle": Rival("a photo of $ that {text}", _phi_network),
        "lincir": Rival("a photo of $ that {text}", _phi_network),
    }
)


class _Projection(nn.Module):
    """A rival's network in the place of the token learner: (R, D) -> (R, 1, d_t)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_embeds: Tensor, patch_features: Tensor) -> Tensor:
        token: Tensor = self.network(image_embeds * image_embeds.shape[-1] ** 0.5)
        return token[:, None]


def projection_model(backbone: Backbone, rival: str) -> ComposedModel:
    """A rival as a model that is asked like every other: without VSI, without adapters."""
    parts = ModelConfig(token_learner_depth=0, vsi_layers=(), adapter_bottleneck=0)
    model = ComposedModel(backbone, parts)
    network = RIVALS[rival].network(backbone.embed_dim, backbone.text_width)
    model.add_module("token_learner", _Projection(network))
    return model.eval()


def cosine_loss(one: Tensor, other: Tensor) -> Tensor:
    """Mean of 1 - cos between rows (SEARLE sec. 3.1, eq. 1 and 2); (B, D), L2-normalised."""
    return (1 - (one * other).sum(dim=-1)).mean()


@torch.no_grad()
def likeliest_scale(captions: Tensor, images: Tensor, batch: int) -> float:
    """``exp(logit_scale)`` that makes captions and their images likeliest: a CLIP's inverse tau.

    A backbone's own one is what its training left of this; exported graphs do not hold it.

    Args:
        captions, images: (M, D), L2-normalised, which belong together.
        batch: among how many a caption finds its image; that many are drawn ten times.

    Returns:
        From 1 to 100, as CLIP bounds it.
    """
    drawn = np.random.default_rng(0)
    size = min(batch, len(images))
    some = [torch.from_numpy(drawn.choice(len(images), size, replace=False)) for _ in range(10)]
    scales = torch.logspace(0, 2, 61).tolist()
    losses = [
        sum(float(info_nce(captions[rows], images[rows], scale)) for rows in some)
        for scale in scales
    ]
    return float(scales[int(np.argmin(losses))])


def token_distillation(inverted: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """Symmetric contrastive loss between two sets of pseudo-words (SEARLE sec. 3.2, eq. 4).

    Of each pseudo-word the positive is its partner, and all others of both sets are negatives.

    Args:
        inverted, predicted: (B, d_t), of any length.
        temperature: tau.
    """
    both = F.normalize(torch.cat([inverted, predicted]), dim=-1)  # (2 B, d_t)
    count = len(inverted)
    itself = torch.eye(2 * count, dtype=torch.bool, device=both.device)
    logits = (both @ both.T / temperature).masked_fill(itself, -1.0e4)
    partners = torch.arange(2 * count, device=both.device).roll(count)
    return F.cross_entropy(logits, partners)


def noisy_text(embeds: Tensor, rng: np.random.Generator) -> Tensor:
    """Text embeddings with Unif(0, 1) x N(0, I) added (LinCIR sec. 3.2), before `_Projection`.

    The projection multiplies by sqrt(D), so that the noise is divided by it here.

    Args:
        embeds: (B, D), L2-normalised.
    """
    count, width = embeds.shape
    noise = rng.random((count, 1)) * rng.standard_normal((count, width)) / width**0.5
    return embeds + torch.from_numpy(noise).to(embeds)


def self_masking_loss(masked: Tensor, whole: Tensor) -> Tensor:
    """Mean squared error over all entries (LinCIR sec. 3.2, eq. 1); (B, D) both."""
    return F.mse_loss(masked, whole)


_FUNCTIONS = (
    "a an the and or of to for with from as is are was were be it its this that these those which "
    "who than then there has have not no very so in on at by near under over into up down out off "
    "his her their our your my"
)
_FUNCTION_WORDS = frozenset(_FUNCTIONS.split())
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def masked_caption(caption: str) -> list[str | None]:
    """A caption with each run of keywords made one placeholder: words and None in turn.

    Returns:
        For example ``[None, "for", None]`` of "red dress for women". A caption without keywords
        becomes "a photo of" and the placeholder, as in LinCIR's code.
    """
    pieces: list[str | None] = []
    for word in _WORD.findall(caption.lower()):
        piece = word if word in _FUNCTION_WORDS else None
        if piece is not None and pieces and pieces[-1] is not None:
            pieces[-1] += f" {piece}"
        elif piece is not None or not pieces or pieces[-1] is not None:
            pieces.append(piece)
    return pieces if None in pieces else ["a photo of", None]


def masked_ids(tokenizer: Tokenizer, pieces: Sequence[str | None]) -> list[int]:
    """Token ids of a masked caption; each placeholder is id -1, cut to the context."""
    special = {tokenizer.sot, tokenizer.eot}
    ids = [
        token
        for piece in pieces
        for token in ([PLACEHOLDER_ID] if piece is None else tokenizer.encode(piece))
        if token not in special
    ]
    start = [] if tokenizer.sot is None else [tokenizer.sot]
    return [*start, *ids[: tokenizer.context_length - len(start) - 1], tokenizer.eot]


INVERSION_PROMPTS = (
    "this is a photo of a $",
    "this photo contains a $",
    "a photo of a $",
    "a $",
    "we see a $",
    "$",
    "we see a $ in this photo",
    "we see a $ in this image",
    "we see a $ photo",
    "we see a $ image",
    "$ photo",
    "$ image",
)
"""SEARLE's generic sentences, without those that speak of sketches, illustrations and diagrams."""

_PHRASES = (
    "a {} on a white background",
    "a {} worn with jeans in summer",
    "the {} comes in a box with its label",
    "this {} is sold in our store today",
    "a person is wearing a {} in the street",
    "the new {} of this season",
    "she bought a {} for her friend",
    "a {} that is comfortable and light",
    "a close up of a {} made of soft material",
    "he keeps the {} in the wardrobe",
    "the {} is on sale at half the price",
    "a {} that goes well with everything",
)


def concept_phrases(concepts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sentences for SEARLE's regulariser.

    Returns:
        The sentences with each concept in turn, all frames of the first concept first; and the
        frames with ``$`` in the concept's place.
    """
    whole = [frame.format(concept) for concept in concepts for frame in _PHRASES]
    return whole, [frame.format("$") for frame in _PHRASES]


def tokenizer_of(model: ComposedModel) -> Tokenizer:
    """The tokenizer of a model's text tower, made once: that takes a second."""
    return _tokenizer(model.backbone.tower)


@cache
def _tokenizer(tower: TextTower) -> Tokenizer:
    return tower_tokenizer(tower)
