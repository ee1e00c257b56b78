"""Images that triplets name by id, path or file name, found in a collection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from train.data import DataError, print_notes
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.picture_formats import IMAGE_SUFFIXES


def resolve_image_names(
    triplets: Sequence[Triplet], ids: Iterable[str], *, skip_missing: bool = False
) -> list[Triplet]:
    """Replace the names of images in triplets by the ids of a collection.

    A name may be an image's id, or its path with or without a leading "./", its first folders or
    its suffix. If several images match, the one with the most common folders is used, then the one
    with the same suffix.

    Args:
        triplets: triplets as they were read.
        ids: ids of the collection's images.
        skip_missing: leave out missing targets, and triplets without any, and print how many,
            instead of raising an error.

    Raises:
        DataError: an image is missing, or a name matches two images equally well.
    """
    known = set(ids)
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name in known:
        by_stem[_parts(name)[1]].append(name)
    missing: dict[str, None] = {}

    def find(name: str) -> str | None:
        if name in known:
            return name
        matches = sorted(
            (
                (rank, other)
                for other in by_stem[_parts(name)[1]]
                if (rank := _likeness(name, other))
            ),
            reverse=True,
        )
        if len(matches) > 1 and matches[0][0] == matches[1][0]:
            first, second = sorted(other for rank, other in matches if rank == matches[0][0])[:2]
            raise DataError(
                f"The triplets name an image {name}, which could be {first} or {second}; name "
                "images by their paths relative to the collection."
            )
        if matches:
            return matches[0][1]
        missing[name] = None
        return None

    resolved = []
    for triplet in triplets:
        reference = find(triplet.reference)
        targets = tuple(filter(None, map(find, triplet.targets)))
        if reference is not None and targets:
            resolved.append(replace(triplet, reference=reference, targets=targets))
    if missing and not skip_missing:
        raise DataError(
            f"The data does not contain {len(missing)} images of the triplets, such as "
            f"{next(iter(missing))}; add the data that contains them with --data, or leave such "
            "triplets out with --skip-missing."
        )
    if missing:
        print_notes(
            [
                f"Left out {len(triplets) - len(resolved)} of {len(triplets)} triplets: "
                f"{len(missing)} images are missing, such as {next(iter(missing))}."
            ]
        )
    if triplets and not resolved:
        raise DataError("The data does not contain the images of any triplet; check --data.")
    return resolved


def _parts(name: str) -> tuple[tuple[str, ...], str, str]:
    """Return the folders of a path, the file name without an image's suffix, and that suffix."""
    path = PurePosixPath(name)
    suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ""
    return path.parts[:-1], path.name.removesuffix(suffix), suffix


def _likeness(name: str, other: str) -> tuple[int, bool] | None:
    """Return how much two paths with the same stem have in common; None if their folders differ."""
    (folders, _, suffix), (others, _, its_suffix) = _parts(name), _parts(other)
    shared = min(len(folders), len(others))
    if folders[len(folders) - shared :] != others[len(others) - shared :]:
        return None
    return 1 + shared, suffix == its_suffix
