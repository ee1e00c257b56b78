"""Pictures that look the same: near-duplicates, which no wish can lead from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.errors import ImageError
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["SAME_LOOK", "Looks", "without_near_duplicates"]

SAME_LOOK = "the pictures look the same"
"""Why a pair gives no triplet, for the report."""

_ALIKE = 2.0  # mean difference of two thumbnails' 8-bit channels below which they are one picture


class Looks:
    """Tells pictures that look the same by their thumbnails, each made once.

    Args:
        pictures: id -> picture; one that is not there, or broken, looks like no other.
    """

    def __init__(self, pictures: Mapping[str, Callable[[], Image.Image]]) -> None:
        self._pictures = pictures
        self._thumbnails: dict[str, NDArray[np.float32] | None] = {}

    def alike(self, first: str, second: str) -> bool:
        """Whether two images, by their ids, look the same."""
        a, b = self._thumbnail(first), self._thumbnail(second)
        return a is not None and b is not None and float(np.abs(a - b).mean()) < _ALIKE

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
    """Leave out targets that look like their reference, and triplets that then have none.

    Returns:
        The triplets, in their order, and how many were left out.
    """
    looks = Looks(pictures)
    kept = []
    for triplet in triplets:
        targets = tuple(
            name for name in triplet.targets if not looks.alike(triplet.reference, name)
        )
        if targets:
            same = len(targets) == len(triplet.targets)
            kept.append(triplet if same else replace(triplet, targets=targets))
    return kept, len(triplets) - len(kept)
