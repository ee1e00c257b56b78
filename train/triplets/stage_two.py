"""What Stage II trains on and selects by, from attributes or from triplets that are given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from train.data.image import TrainingImage
from train.data.item import DataError
from train.triplets.formats import resolve
from train.triplets.from_attributes import synthesise
from train.triplets.from_captions import mine_captions
from train.wordings.phrase_wordings import CHANGES
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.names import UNKNOWN_VALUE

__all__ = ["StageTwoData", "collection_triplets", "stage_two_data"]

DEVELOPMENT_TRIPLETS = 1500
_LEAST = 100  # development triplets that are worth selecting by


@dataclass(frozen=True)
class StageTwoData:
    """Triplets to train on and to select by, and the gallery of the latter."""

    triplets: list[Triplet]
    development: list[TrainingImage]
    development_triplets: list[Triplet]
    unseen_wordings: list[Triplet]
    """In wordings that never train; none where the development triplets are given ones."""


def collection_triplets(
    images: Sequence[TrainingImage],
    *,
    count: int,
    seed: int,
    held_out: bool = False,
    noise: float = 0.0,
) -> list[Triplet]:
    """Triplets from the attributes of a collection; photos and drawings never answer each other.

    Args:
        images: the collection; its drawings take their share of ``count``.
        count: triplets at most.
        seed: of all that is drawn.
        held_out: in the wordings that are kept out of training.
        noise: share of triplets with a wrong target.
    """
    triplets: list[Triplet] = []
    for drawn in (False, True):
        items = [image.item for image in images if image.is_drawing == drawn]
        if items:
            share = round(count * len(items) / len(images))
            triplets += synthesise(items, seed=seed, limit=share, held_out=held_out, noise=noise)
    return triplets


def stage_two_data(
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    given: Sequence[Triplet] | None = None,
    *,
    count: int,
    seed: int,
    noise: float = 0.0,
    skip_missing: bool = False,
) -> StageTwoData:
    """Part what is there into training and development, so that no reference is in both.

    Where the development images have attributes, triplets made of them select the checkpoint,
    whatever is trained on; where all that is trained on is mined from captions, triplets mined
    from theirs do, if there are enough. Else those given triplets do whose reference is a
    development image; their gallery is all development images and their targets.

    Args:
        images: the training part of a collection.
        development: its other part.
        given: triplets to train on, by id, path or name of images of either part; None makes some
            from the attributes of ``images``.
        count: triplets to make.
        seed: of those that are made.
        noise: share of them with a wrong target.
        skip_missing: leave out given triplets of images that are not there.

    Raises:
        DataError: a given triplet names a missing image, or none is left to train on or to select
            by.
        ZtcirError: there are no attributes to make triplets of.
    """
    if given is None:
        if not _attributes(images):
            raise ZtcirError(
                "The images have no attributes to make triplets of; give some with --triplets, for "
                "example from `ztcir triplets --from captions`."
            )
        training = collection_triplets(images, count=count, seed=seed, noise=noise)
        selecting: list[Triplet] = []
    else:
        everyone = [image.item.id for image in (*images, *development)]
        resolved = resolve(given, everyone, skip_missing=skip_missing)
        training, selecting = _part(resolved, {image.item.id for image in development})
    if given is None or _can_be_asked(development):
        made, unseen = (
            collection_triplets(development, count=DEVELOPMENT_TRIPLETS, seed=1, held_out=held_out)
            for held_out in (False, True)
        )
        return StageTwoData(training, list(development), made, unseen)
    if mined := _mined(training, development):
        return StageTwoData(training, list(development), *mined)
    if not selecting:
        raise DataError(
            f"Of {len(given)} triplets none has its reference among the {len(development)} images "
            "that select the checkpoint; give more of them."
        )
    shown = {name for triplet in selecting for name in triplet.targets}
    gallery = [*development, *(image for image in images if image.item.id in shown)]
    return StageTwoData(training, gallery, selecting, [])


def _mined(
    training: Sequence[Triplet], development: Sequence[TrainingImage]
) -> tuple[list[Triplet], list[Triplet]] | None:
    """Triplets from the development images' captions, in both kinds of wordings."""
    if any(triplet.kind not in CHANGES for triplet in training):
        return None  # people's own words, or others': only their like can select
    items = [image.item for image in development]
    pictures = {image.item.id: image.load for image in development}
    try:
        seen, unseen = (
            mine_captions(
                items, seed=1, limit=DEVELOPMENT_TRIPLETS, held_out=held_out, pictures=pictures
            )[0]
            for held_out in (False, True)
        )
    except ZtcirError:
        return None
    return (seen, unseen) if min(len(seen), len(unseen)) >= _LEAST else None


def _part(triplets: Sequence[Triplet], held_out: set[str]) -> tuple[list[Triplet], list[Triplet]]:
    """Triplets to train on, with neither a reference nor a target held out, and to select by."""
    training, selecting, lost = [], [], 0
    for triplet in triplets:
        if triplet.reference in held_out:
            selecting.append(triplet)
        elif targets := tuple(name for name in triplet.targets if name not in held_out):
            training.append(replace(triplet, targets=targets))
        else:
            lost += 1
    print(
        f"Of {len(triplets)} triplets {len(training)} train and {len(selecting)} have a reference "
        f"that is held out; {lost} are left out, since all of their targets are.",
        file=sys.stderr,
    )
    if not training:
        raise DataError("None of the triplets is left to train on; give more of them.")
    return training, selecting


def _attributes(images: Sequence[TrainingImage]) -> bool:
    items = (image.item for image in images)
    return any({item.colour, item.type, item.gender} - {"", UNKNOWN_VALUE} for item in items)


def _can_be_asked(images: Sequence[TrainingImage]) -> bool:
    """Whether triplets can be made of some images' attributes."""
    if not _attributes(images):
        return False
    try:
        collection_triplets(images, count=2, seed=1)
    except ZtcirError:
        return False
    return True
