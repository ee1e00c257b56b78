"""Rival methods on the same frozen features: one pseudo-word per image, no trained composing.

Each has its own loss and prompt. Unlike in their papers, they share: the backbone, fashion-lite;
the catalogue's images; as many steps as both stages of the method, in Stage I's batches with its
learning rate and schedule; and inputs of length sqrt(D), because this backbone's embeddings have
length 1 and a CLIP's raw ones do not.

- Pic2Word (Saito et al., CVPR 2023, sec. 3): the loss is the paper's.
- SEARLE (Baldrati et al., ICCV 2023, sec. 3.1 and 3.2): the regulariser's sentences are a dozen
  hand-written frames instead of GPT's, around the catalogue's types and coloured types instead of
  OpenImages' classes; fewer images are inverted, in fewer steps; weights are the published code's.
- LinCIR (Gu et al., CVPR 2024, sec. 3.2): the texts are the catalogue's captions and descriptions
  of its attributes instead of CC3M and prompts for image generators, and keywords are all words
  except function words instead of a tagger's nouns and adjectives.
"""

from __future__ import annotations

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
from ztcir_sdk.tokenizer import Tokenizer

TEMPERATURE = 0.25  # SEARLE's distillation
NEAREST = 15  # concepts per image, SEARLE sec. 3.1
LAMBDA_COSINE, LAMBDA_INVERSION = 1.0, 0.5  # SEARLE's inversion, from its published code
LAMBDA_DISTILLATION, LAMBDA_REGULARISER = 1.0, 0.25  # SEARLE's phi, from its published code
INVERSION_LR, INVERSION_DECAY, INVERSION_EMA = 2e-2, 0.01, 0.99


@dataclass(frozen=True)
class Rival:
    """A rival's prompt and network.

    Attributes:
        prompt: template of a composed query.
        network: (D, d_t) -> the projection of an embedding to a pseudo-word.
    """

    prompt: str
    network: Callable[[int, int], nn.Module]


def _pic2word_network(embed_dim: int, text_width: int) -> nn.Module:
    """Return three fully connected layers (Saito et al. 2023, sec. 4, implementation details)."""
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
    """Return SEARLE's phi (Baldrati et al. 2023, sec. 3.2), which LinCIR also uses (sec. 3.2)."""
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
    """Return a rival as a model with the usual methods, without VSI and adapters."""
    parts = ModelConfig(token_learner_depth=0, vsi_layers=(), adapter_bottleneck=0)
    model = ComposedModel(backbone, parts)
    network = RIVALS[rival].network(backbone.embed_dim, backbone.text_width)
    model.add_module("token_learner", _Projection(network))
    return model.eval()


def cosine_loss(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean of 1 - cos between L2-normalised rows (B, D) (SEARLE sec. 3.1, eq. 1, 2)."""
    return (1 - (one * other).sum(dim=-1)).mean()


@torch.no_grad()
def likeliest_scale(captions: Tensor, images: Tensor, batch: int) -> float:
    """Return the ``exp(logit_scale)`` with the least contrastive loss: a CLIP's inverse tau.

    It stands for the backbone's own value, which exported graphs do not contain.

    Args:
        captions: (M, D), L2-normalised.
        images: (M, D), L2-normalised, the captions' images.
        batch: number of pairs in a batch; ten batches are drawn.

    Returns:
        A value from 1 to 100, CLIP's bounds.
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
    """Return the symmetric contrastive loss of two sets of pseudo-words (SEARLE sec. 3.2, eq. 4).

    A pseudo-word's positive is its partner; all others in both sets are negatives.

    Args:
        inverted: (B, d_t), of any length.
        predicted: (B, d_t), of any length.
        temperature: tau.
    """
    both = F.normalize(torch.cat([inverted, predicted]), dim=-1)  # (2 B, d_t)
    count = len(inverted)
    itself = torch.eye(2 * count, dtype=torch.bool, device=both.device)
    logits = (both @ both.T / temperature).masked_fill(itself, -1.0e4)
    partners = torch.arange(2 * count, device=both.device).roll(count)
    return F.cross_entropy(logits, partners)


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
"""SEARLE's generic sentences, except those about sketches, illustrations and diagrams."""

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
    """Return sentences for SEARLE's regulariser.

    Returns:
        The sentences of each concept, in the order of concepts, then frames; and the frames with
        ``$`` in place of the concept.
    """
    whole = [frame.format(concept) for concept in concepts for frame in _PHRASES]
    return whole, [frame.format("$") for frame in _PHRASES]


def tokenizer_of(model: ComposedModel) -> Tokenizer:
    """Return the tokenizer of a model's text tower, cached: making it takes a second."""
    return _tokenizer(model.backbone.tower)


@cache
def _tokenizer(tower: TextTower) -> Tokenizer:
    return tower_tokenizer(tower)
