"""Training and development triplets of Stage II, made from attributes or given by the user."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from train.data import DataError, Item, TrainingImage, print_notes
from train.triplets.from_attributes import synthesise
from train.triplets.from_captions import mine_captions
from train.triplets.image_names import resolve_image_names
from train.triplets.open_requests import synthesise_requests
from train.wordings import CHANGES
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.names import CATALOGUE_COLUMNS, is_known

__all__ = [
    "StageTwoData",
    "collection_triplets",
    "has_attributes",
    "selecting_triplets",
    "stage_two_data",
]

DEVELOPMENT_TRIPLETS = 1500
_MIN_MINED = 100  # fewer mined triplets do not select a checkpoint reliably


@dataclass(frozen=True)
class StageTwoData:
    """Triplets to train on, and triplets and a gallery to select the checkpoint by."""

    triplets: list[Triplet]
    development: list[TrainingImage]
    """Gallery of the development triplets."""
    development_triplets: list[Triplet]
    unseen_wordings: list[Triplet]
    """Development triplets in held-out wordings; none if the user gives the triplets."""


def collection_triplets(
    images: Sequence[TrainingImage],
    *,
    count: int,
    seed: int,
    held_out: bool = False,
    noise: float = 0.0,
    requests: float = 0.0,
) -> list[Triplet]:
    """Make triplets from the attributes of a collection; photos and drawings are never mixed.

    Args:
        images: the collection; photos and drawings get triplets in proportion to their number.
        count: number of triplets.
        seed: random seed.
        held_out: use the wordings that are never trained on.
        noise: share of triplets with a wrong target.
        requests: share of triplets that are open requests, as people type them; the others ask for
            one change in clean English. A collection that allows no open request has none.
    """
    open_count = round(count * requests)
    triplets: list[Triplet] = []
    for drawn in (False, True):
        items = [image.item for image in images if image.is_drawing == drawn]
        if not items:
            continue
        share = len(items) / len(images)
        triplets += synthesise(
            items,
            seed=seed,
            limit=round((count - open_count) * share),
            held_out=held_out,
            noise=noise,
        )
        if some := round(open_count * share):
            with contextlib.suppress(ZtcirError):
                triplets += synthesise_requests(items, seed=seed, limit=some, noise=noise)
    return triplets


def stage_two_data(
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    given: Sequence[Triplet] | None = None,
    *,
    count: int,
    seed: int,
    noise: float = 0.0,
    requests: float = 0.0,
    skip_missing: bool = False,
) -> StageTwoData:
    """Prepare the training and development triplets, so that no reference is in both.

    The development triplets are made from the attributes of the development images, if these have
    attributes. Else, if all given triplets are mined from captions, they are mined from the
    development images' captions, if there are enough. Else they are the given triplets whose
    reference is a development image; the targets of these join the gallery.

    Args:
        images: training images of a collection.
        development: development images of the collection.
        given: triplets to train on, with ids, paths or names of images of either part; None makes
            triplets from the attributes of ``images``.
        count: number of triplets to make.
        seed: random seed.
        noise: share of the made triplets with a wrong target.
        requests: share of the made triplets that are open requests; the same share selects.
        skip_missing: leave out given triplets with missing images instead of raising an error.

    Raises:
        DataError: an image of a given triplet is missing, or no triplet is left to train on or to
            select by.
        ZtcirError: ``given`` is None, and the images have no attributes.
    """
    if given is None:
        if not _have_attributes(images):
            raise ZtcirError(
                "The images have no attributes to make triplets from; give triplets with "
                "--triplets, for example from `ztcir triplets --from captions`."
            )
        training = collection_triplets(
            images, count=count, seed=seed, noise=noise, requests=requests
        )
        selecting: list[Triplet] = []
    else:
        ids = [image.item.id for image in (*images, *development)]
        resolved = resolve_image_names(given, ids, skip_missing=skip_missing)
        training, selecting = _split(resolved, {image.item.id for image in development})
    if given is None or _can_make_triplets(development):
        made, unseen = (
            collection_triplets(development, count=DEVELOPMENT_TRIPLETS, seed=1, held_out=held_out)
            for held_out in (False, True)
        )
        if given is None and requests:
            made = made + collection_triplets(
                development, count=DEVELOPMENT_TRIPLETS, seed=1, requests=1.0
            )
        return StageTwoData(training, list(development), made, unseen)
    if mined := _mine_development(training, development):
        return StageTwoData(training, list(development), *mined)
    if not selecting:
        raise DataError(
            f"None of {len(given)} triplets has its reference among the {len(development)} "
            "development images, which select the checkpoint; give more triplets."
        )
    targets = {name for triplet in selecting for name in triplet.targets}
    gallery = [*development, *(image for image in images if image.item.id in targets)]
    return StageTwoData(training, gallery, selecting, [])


def selecting_triplets(development: Sequence[TrainingImage]) -> list[Triplet]:
    """Return triplets of the development images that can select a checkpoint of Stage I.

    They are made from attributes, else mined from captions; none if the images have too few.
    """
    if _can_make_triplets(development):
        return collection_triplets(development, count=DEVELOPMENT_TRIPLETS, seed=1)
    mined = _mine_development([], development)
    return mined[0] if mined else []


def _mine_development(
    training: Sequence[Triplet], development: Sequence[TrainingImage]
) -> tuple[list[Triplet], list[Triplet]] | None:
    """Mine triplets from the development images' captions, in training and held-out wordings."""
    if any(triplet.kind not in CHANGES for triplet in training):
        return None  # texts from elsewhere: only similar texts can select the checkpoint
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
    return (seen, unseen) if min(len(seen), len(unseen)) >= _MIN_MINED else None


def _split(triplets: Sequence[Triplet], held_out: set[str]) -> tuple[list[Triplet], list[Triplet]]:
    """Split into triplets without held-out images, and triplets with a held-out reference."""
    training, selecting, lost = [], [], 0
    for triplet in triplets:
        if triplet.reference in held_out:
            selecting.append(triplet)
        elif targets := tuple(name for name in triplet.targets if name not in held_out):
            training.append(replace(triplet, targets=targets))
        else:
            lost += 1
    print_notes(
        [
            f"{len(training)} of {len(triplets)} triplets are trained on; {len(selecting)} have a "
            f"held-out reference; {lost} are left out because all their targets are held out."
        ]
    )
    if not training:
        raise DataError("No triplet is left to train on; give more triplets.")
    return training, selecting


def has_attributes(item: Item) -> bool:
    """Return whether any attribute of an item is known."""
    return any(is_known(getattr(item, name)) for name in CATALOGUE_COLUMNS)


def _have_attributes(images: Sequence[TrainingImage]) -> bool:
    return any(has_attributes(image.item) for image in images)


def _can_make_triplets(images: Sequence[TrainingImage]) -> bool:
    """Return whether the images' attributes give triplets."""
    if not _have_attributes(images):
        return False
    try:
        collection_triplets(images, count=2, seed=1)
    except ZtcirError:
        return False
    return True
