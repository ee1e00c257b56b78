"""What is known about a training image: attributes, caption, and the split that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ztcir_sdk.errors import UsageError, ZtcirError

ONE_HELD_OUT_OF = 20
"""A stream holds out one product name of this many."""


class DataError(ZtcirError):
    """A shard, a folder or a table of training data cannot be used."""


@dataclass(frozen=True, slots=True)
class Item:
    """A product: its id, its attributes as the catalogue spells them, and its caption.

    An attribute is None or empty if the catalogue does not have it, and `UNKNOWN_VALUE` if the
    catalogue has it but this item does not.
    """

    id: str
    gender: str
    type: str
    colour: str
    pattern: str | None
    caption: str


def product_name(item: Item) -> str:
    """Return what all items of one product share: the caption, or the id if there is none."""
    return " ".join(item.caption.casefold().split()) or f"item {item.id}"


def is_held_out(item: Item) -> bool:
    """Return whether a stream keeps an item out of training; this depends on the caption alone."""
    digest = hashlib.sha256(product_name(item).encode()).digest()
    return int.from_bytes(digest[:8], "big") % ONE_HELD_OUT_OF == 0


def split_development(
    items: Sequence[Item], fraction: float = 0.1, *, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split items into (training, development) so that no product name is in both.

    Args:
        items: the training split, in any order: the order does not change the result.
        fraction: share of the product names that go to development, between 0 and 1.
        seed: random seed.

    Raises:
        UsageError: ``fraction`` is not between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"The development fraction must be between 0 and 1, not {fraction}.")
    names = sorted({product_name(item) for item in items})
    order = np.random.default_rng(seed).permutation(len(names))
    development = {names[place] for place in order[: round(fraction * len(names))]}
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        parts[product_name(item) in development].append(item)
    return parts
