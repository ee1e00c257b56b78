"""The photos of an adaptation: encoded once, tagged, and described where nothing describes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.adapt.clock import Progress
from export.adapt.settings import AdaptSettings
from train.data import Item, TrainingImage, split_development
from train.loop.features import ImageFeatures, image_features, text_features
from train.model import Backbone, tower_tokenizer
from train.stages.frozen_captions import encode_captions, plain_model
from train.stages.word_bank import WordBank
from train.tags import (
    Tags,
    TagTriplets,
    WordGroup,
    default_groups,
    read_groups,
    tag_captions,
    tag_pictures,
)
from train.tags.bank import OBJECTS, with_groups, words_that_do_not_fit
from train.triplets import collection_triplets, mine_captions
from train.triplets.stage_two import has_attributes
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["Part", "Pictures", "hold_out", "read_bank", "see"]


@dataclass(frozen=True)
class Part:
    """Some of the photos.

    Attributes:
        images: the photos, with what is known about them; without attributes and caption of their
            own, what their confident tags say.
        features: their features.
        tags: their tags.
        described: (M,) bool, whether the collection itself describes them.
    """

    images: list[TrainingImage]
    features: ImageFeatures
    tags: Tags
    described: NDArray[np.bool_]

    def triplets(
        self, count: int, *, seed: int, held_out: bool = False, measure: bool = False
    ) -> list[Triplet]:
        """Make triplets: from attributes, from captions, and from tags where there is neither.

        Each source gets as many as it has photos. Photos whose attributes or captions give no
        triplets count as photos without them.

        Args:
            count: number of triplets at most.
            seed: random seed.
            held_out: use the wordings that are never trained on.
            measure: choose targets of tags for measuring; see `TagTriplets.make`.
        """
        attributed = np.array([has_attributes(image.item) for image in self.images])
        captioned = self.described & ~attributed
        rest = ~self.described
        found: list[Triplet] = []
        for some, attributes in ((attributed, True), (captioned, False)):
            if not some.any():
                continue
            images = [self.images[row] for row in np.flatnonzero(some)]
            share = round(count * len(images) / len(self.images))
            made: list[Triplet] = []
            with contextlib.suppress(ZtcirError):
                made = (
                    collection_triplets(images, count=share, seed=seed, held_out=held_out)
                    if attributes
                    else mine_captions(
                        [image.item for image in images],
                        seed=seed,
                        limit=share,
                        held_out=held_out,
                        pictures={image.item.id: image.load for image in images},
                    )[0]
                )
            found += made
            if not made:
                rest = rest | some
        rows = np.flatnonzero(rest)
        if len(rows):
            own = TagTriplets(
                [self.features.ids[row] for row in rows],
                self.features.embeds[rows],
                self.tags.take(rows),
                seed,
            )
            share = round(count * len(rows) / len(self.images))
            found += own.make(share, seed=seed, held_out=held_out, measure=measure)
        return found


@dataclass(frozen=True)
class Pictures:
    """The photos to train on, and those that select and measure."""

    training: Part
    held_out: Part
    tags: Tags
    text_seconds: float
    """Time to encode a text of the word bank."""


def hold_out(
    photos: Sequence[TrainingImage], settings: AdaptSettings
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Split photos into those to train on, and those that select and measure."""
    share = settings.held_out_share(len(photos))
    _, chosen = split_development([photo.item for photo in photos], share, seed=settings.seed)
    ids = {item.id for item in chosen}
    parts: tuple[list[TrainingImage], list[TrainingImage]] = ([], [])
    for photo in photos:
        parts[photo.item.id in ids].append(photo)
    return parts


def read_bank(settings: AdaptSettings, backbone: Backbone, progress: Progress) -> list[WordGroup]:
    """Return the word bank: the built-in words and those of files.

    Raises:
        DataError: a file cannot be read, or has too few words.
        ZtcirError: the tokenizer can hold none of a file's words.
    """
    groups = default_groups()
    tokenizer = tower_tokenizer(backbone.tower)
    for path in settings.words:
        more, lost = words_that_do_not_fit(read_groups(path), tokenizer.holds)
        if lost:
            some = ", ".join(lost[:10]) + (", ..." if len(lost) > 10 else "")
            sentence = f"The tokenizer of this backbone cannot hold {len(lost)} words of {path}"
            if not more:
                raise ZtcirError(f"{sentence}, which leaves too few: {some}.")
            progress.say(f"{sentence}, which are left out: {some}.")
        groups = with_groups(groups, more)
    return list(groups)


def see(
    backbone: Backbone,
    parts: Sequence[Sequence[TrainingImage]],
    bank: Sequence[WordGroup],
    cache: Path,
) -> Pictures:
    """Encode and tag the photos to train on and those that are held out.

    Args:
        backbone: the frozen backbone.
        parts: the photos to train on, and those that are held out.
        bank: the words.
        cache: folder of the features.

    Raises:
        DiskFullError: the disk has no room for the features.
    """
    features = [image_features(backbone, some, cache) for some in parts]
    embeds = np.concatenate([one.embeds for one in features])
    tags, seconds = _tag(backbone, embeds, bank, cache)
    counts = np.cumsum([0, *(len(some) for some in parts)])
    seen = []
    for number, images in enumerate(parts):
        rows = np.arange(counts[number], counts[number + 1])
        own = tags.take(rows)
        described = np.array([_is_described(image.item) for image in images])
        captions = tag_captions(len(images), own)
        known = [
            image if is_described else replace(image, item=replace(image.item, caption=caption))
            for image, caption, is_described in zip(images, captions, described, strict=True)
        ]
        seen.append(Part(known, features[number], own, described))
    return Pictures(seen[0], seen[1], tags, seconds)


def _tag(
    backbone: Backbone, embeds: NDArray[np.float32], bank: Sequence[WordGroup], cache: Path
) -> tuple[Tags, float]:
    """Return the photos' tags, and the time to encode one text of the bank."""
    encode_texts = partial(encode_captions, plain_model(backbone), precision="fp32")
    texts, begun = 0, time.monotonic()

    def encode(
        groups: Sequence[WordGroup], objects: Sequence[str] = ()
    ) -> list[NDArray[np.float32]]:
        """Return (words, prompts, D) of each group."""
        nonlocal texts
        prompts = [group.prompts(objects) for group in groups]
        flat = [text for own in prompts for one in own for text in one]
        if not flat:
            return []
        texts += len(flat)
        # all groups at once: each call reads the whole text tower to find what is cached
        found = np.asarray(text_features(backbone, flat, cache, encode_texts))
        counts = [len(own) * len(own[0]) for own in prompts]
        parts = np.split(found, np.cumsum(counts)[:-1])
        return [
            part.reshape(len(own), len(own[0]), -1)
            for part, own in zip(parts, prompts, strict=True)
        ]

    things = [group for group in bank if group.kind == OBJECTS]
    first = tag_pictures(embeds, things, encode(things))
    shown = list(first.groups[0].counts()) if first.groups else []
    rest = [group for group in bank if group.kind != OBJECTS]
    prompts = encode(rest, shown)
    seconds = (time.monotonic() - begun) / max(texts, 1)
    others = tag_pictures(embeds, rest, prompts)
    tags = Tags((*first.groups, *others.groups), {**first.silent, **others.silent})
    return tags, seconds


def word_bank(bank: Sequence[WordGroup]) -> WordBank:
    """Return the words that Stage I aligns photos with that have no caption."""
    return WordBank(tuple(dict.fromkeys(word for group in bank for word in group.words)))


def words_checksum(bank: Sequence[WordGroup]) -> str:
    """Return a checksum of a word bank."""
    values = [[group.kind, group.words] for group in bank]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _is_described(item: Item) -> bool:
    return has_attributes(item) or bool(item.caption.strip())
