"""Further losses of Stage I, each a switch: self-masking, text-anchored triplets, diversity.

They are computed in the same forward call as ``f_t("a photo of $")``, as further columns of its
result, so that several processes and micro-batches need no call of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import DataError, ShardStream, TrainingImage
from train.loop.sizes import sizes_for
from train.model import (
    ComposedModel,
    encode_by_length,
    mapped_ids,
    masked_ids,
    prompt_ids,
    tower_tokenizer,
)
from train.settings import MapTraining, ModelConfig
from train.stages.losses import multi_positive_nce, noisy_text, self_masking_loss, token_similarity
from train.stages.map_batches import is_captioned
from train.triplets.from_captions import caption_edits
from train.wordings import masked_caption
from ztcir_sdk.errors import UsageError

__all__ = ["Objective", "check_objectives", "map_objectives"]

Reference = tuple[Tensor, Tensor, Tensor]
"""What `ComposedModel.learn_token` returns."""
EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]


class Objective(Protocol):
    """A further loss of Stage I.

    Attributes:
        name: name in the log; ``weight``: its weight in the loss; ``width``: columns of `encode`.
    """

    name: str
    weight: float
    width: int

    def begin(self, step: int, rows: NDArray[np.int64]) -> None:
        """Prepare a step on some images (B,), in ascending order."""

    def encode(self, rows: NDArray[np.int64], reference: Reference) -> Tensor:
        """Return what the loss needs of some of these images (b,): (b, ``width``)."""

    def loss(self, encoded: Tensor, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the loss of the whole batch (B, ``width``); None if no image has what it needs."""


def check_objectives(
    config: MapTraining, parts: ModelConfig, images: Sequence[TrainingImage] | ShardStream
) -> None:
    """Check that the losses that are switched on can be computed.

    Raises:
        UsageError: they do not fit the number of pseudo-words, or the images are a stream.
        DataError: they need captions, and no image has one.
    """
    if config.diversity and parts.tokens < 2:
        raise UsageError("--diversity compares the pseudo-words of an image: add --tokens 2.")
    if config.self_masking and parts.tokens != 1:
        raise UsageError("--self-masking replaces a keyword by one pseudo-word: add --tokens 1.")
    if config.self_masking or config.anchored:
        if isinstance(images, ShardStream):
            raise UsageError(
                "--self-masking and --anchored need all captions before the first step: leave out "
                "--stream."
            )
        if not any(is_captioned(image) for image in images):
            raise DataError(
                "--self-masking and --anchored need captions, and no image has one; leave them out."
            )


def map_objectives(
    model: ComposedModel,
    images: Sequence[TrainingImage],
    config: MapTraining,
    embed: EmbedTexts,
) -> list[Objective]:
    """Return the losses that are switched on.

    Args:
        model: the model that is trained, on its device.
        images: the training images; without captions, only diversity can be on.
        config: their weights.
        embed: embeds texts by the frozen text tower: (K, D).
    """
    found: list[Objective] = []
    if config.self_masking:
        found.append(_SelfMasking(model, images, config, embed))
    if config.anchored:
        found.append(_Anchored(model, images, config, embed))
    if config.diversity:
        found.append(_Diversity(config.diversity))
    return found


class _Captioned:
    """Texts of some of the images, and their frozen embeddings."""

    def __init__(self, texts: Sequence[str | None], embed: EmbedTexts, device: torch.device):
        known = [text for text in texts if text is not None]
        self.distinct = {text: number for number, text in enumerate(dict.fromkeys(known))}
        self.number = np.array([-1 if text is None else self.distinct[text] for text in texts])
        self.embeds = embed(list(self.distinct))
        self.device = device

    def rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the embeddings (b, D) of some images; without a text, those of the first one."""
        chosen = np.maximum(self.number[rows], 0)
        return torch.from_numpy(np.array(self.embeds[chosen])).to(self.device)

    def has(self, rows: NDArray[np.int64]) -> Tensor:
        """Return which images (b,) have a text."""
        return torch.from_numpy(self.number[rows] >= 0).to(self.device)


class _SelfMasking:
    """Keywords of a caption are replaced by the caption's own noisy embedding as a pseudo-word.

    The result must have the embedding of the whole caption (LinCIR, Gu et al. 2024, sec. 3.2): no
    image is needed. The token learner then attends to no patches, and VSI injects nothing. The
    squared distance is summed over dimensions, so that its weight does not depend on their number.
    """

    name = "self_masking"

    def __init__(
        self,
        model: ComposedModel,
        images: Sequence[TrainingImage],
        config: MapTraining,
        embed: EmbedTexts,
    ) -> None:
        self.model, self.weight, self.seed = model, config.self_masking, config.seed
        self.width = model.backbone.embed_dim
        texts = [image.item.caption if is_captioned(image) else None for image in images]
        self.captions = _Captioned(texts, embed, model.backbone.device)
        self.texts = list(self.captions.distinct)
        self.tokenizer = tower_tokenizer(model.backbone.tower)
        self._rows: NDArray[np.int64] = np.empty(0, np.int64)
        self._noisy = torch.empty(0)

    def begin(self, step: int, rows: NDArray[np.int64]) -> None:
        rng = np.random.default_rng([self.seed, step, 3])
        self._rows, self._noisy = rows, noisy_text(self.captions.rows(rows), rng)

    def encode(self, rows: NDArray[np.int64], reference: Reference) -> Tensor:
        model, device = self.model, self.model.backbone.device
        noisy = self._noisy[torch.from_numpy(np.searchsorted(self._rows, rows)).to(device)]
        words: Tensor = model.token_learner(noisy, None)
        texts = [self.texts[number] for number in np.maximum(self.captions.number[rows], 0)]
        ids = [masked_ids(self.tokenizer, masked_caption(text)) for text in texts]

        def encode(part: NDArray[np.int64]) -> Tensor:
            padded = torch.from_numpy(self.tokenizer.pad([ids[place] for place in part]))
            index = torch.from_numpy(part).to(device)
            off = torch.zeros(len(part), device=device)
            return model.encode_query(padded.to(device), index, off, words, None, None)

        return encode_by_length(list(map(len, ids)), encode, sizes_for(device).grouped_texts)

    def loss(self, encoded: Tensor, rows: NDArray[np.int64]) -> Tensor | None:
        has = self.captions.has(rows)
        if not bool(has.any()):
            return None
        return self.width * self_masking_loss(encoded[has], self.captions.rows(rows)[has])


class _Anchored:
    """ "a photo of $ that {edit}" is pulled to the caption that the edit makes of the image's own.

    The other edited captions of the batch are the negatives. The target is a text, so no image is
    needed that shows the change.
    """

    name = "anchored"

    def __init__(
        self,
        model: ComposedModel,
        images: Sequence[TrainingImage],
        config: MapTraining,
        embed: EmbedTexts,
    ) -> None:
        self.model, self.weight = model, config.anchored
        self.temperature, self.width = config.temperature, model.backbone.embed_dim
        edits = caption_edits([image.item.caption for image in images], seed=config.seed)
        if not any(edits):
            raise DataError(
                "No caption has a phrase that others exchange for another one, so --anchored has "
                "no triplets; leave it out."
            )
        self.texts = [None if one is None else one[0] for one in edits]
        edited = [None if one is None else one[1] for one in edits]
        self.edited = _Captioned(edited, embed, model.backbone.device)

    def begin(self, step: int, rows: NDArray[np.int64]) -> None:
        pass

    def encode(self, rows: NDArray[np.int64], reference: Reference) -> Tensor:
        model, device = self.model, self.model.backbone.device
        tokens, tower = model.config.tokens, model.backbone.tower
        texts = [self.texts[row] for row in rows]

        def encode(part: NDArray[np.int64]) -> Tensor:
            some = [texts[place] for place in part]
            if any(text is not None for text in some):
                # what an image without an edit gets is left out of the loss
                ids = prompt_ids([text or "same" for text in some], tokens=tokens, tower=tower)
            else:
                ids = mapped_ids(len(part), tokens=tokens, tower=tower)
            index = torch.from_numpy(part).to(device)
            off = torch.zeros(len(part), device=device)
            return model.encode_query(ids.to(device), index, off, *reference)

        lengths = [len(text or "") for text in texts]
        return encode_by_length(lengths, encode, sizes_for(device).grouped_texts)

    def loss(self, encoded: Tensor, rows: NDArray[np.int64]) -> Tensor | None:
        has = self.edited.has(rows)
        if not bool(has.any()):
            return None
        numbers = torch.from_numpy(self.edited.number[rows]).to(encoded.device)[has]
        targets = self.edited.rows(rows)[has]
        logits = encoded[has] @ targets.T / self.temperature
        return multi_positive_nce(logits, numbers[:, None] == numbers[None, :])


class _Diversity:
    """The pseudo-words of an image should differ; see `losses.token_similarity`."""

    name, width = "diversity", 1

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def begin(self, step: int, rows: NDArray[np.int64]) -> None:
        pass

    def encode(self, rows: NDArray[np.int64], reference: Reference) -> Tensor:
        return token_similarity(reference[0])[:, None]

    def loss(self, encoded: Tensor, rows: NDArray[np.int64]) -> Tensor | None:
        return encoded.mean()
