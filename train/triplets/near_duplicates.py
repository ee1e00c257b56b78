"""Near-duplicate images: no modification text can lead from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.errors import ImageError
from ztcir_sdk.evaluation.triplets import Triplet

NEAR_DUPLICATE = "the images are near-duplicates"
"""Why a pair gives no triplet, for the report."""

_THRESHOLD = 2.0  # mean difference of the 8-bit channels of two thumbnails


class NearDuplicates:
    """Compares images by their thumbnails; each thumbnail is computed once.

    Args:
        pictures: id -> function that loads the image. A missing or broken image is a near-duplicate
            of none.
    """

    def __init__(self, pictures: Mapping[str, Callable[[], Image.Image]]) -> None:
        self._pictures = pictures
        self._thumbnails: dict[str, NDArray[np.float32] | None] = {}

    def is_pair(self, first: str, second: str) -> bool:
        """Return whether two images, given by their ids, are near-duplicates."""
        a, b = self._thumbnail(first), self._thumbnail(second)
        return a is not None and b is not None and float(np.abs(a - b).mean()) < _THRESHOLD

    def _thumbnail(self, name: str) -> NDArray[np.float32] | None:
        if name not in self._thumbnails:
            self._thumbnails[name] = None
            if name in self._pictures:
                try:
                    small = self._pictures[name]().convert("RGB").resize((16, 16))
                except ImageError:
                    return None
                self._thumbnails[name] = np.asarray(small, np.float32)
        return self._thumbnails[name]


def without_near_duplicates(
    triplets: Sequence[Triplet], pictures: Mapping[str, Callable[[], Image.Image]]
) -> tuple[list[Triplet], int]:
    """Leave out targets that are near-duplicates of their reference.

    Returns:
        The triplets that still have a target, in order, and how many triplets have none.
    """
    duplicates = NearDuplicates(pictures)
    kept = []
    for triplet in triplets:
        targets = tuple(
            name for name in triplet.targets if not duplicates.is_pair(triplet.reference, name)
        )
        if targets:
            same = len(targets) == len(triplet.targets)
            kept.append(triplet if same else replace(triplet, targets=targets))
    return kept, len(triplets) - len(kept)
