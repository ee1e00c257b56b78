"""What is known of a training image: its attributes and caption, and how items are split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ztcir_sdk.errors import UsageError, ZtcirError

__all__ = ["DataError", "Item", "is_known", "product_name", "split_development"]

_NOT_KNOWN = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown"})


class DataError(ZtcirError):
    """A shard, a folder or a table of training data cannot be used."""


@dataclass(frozen=True)
class Item:
    """A product: its id, its attributes as the catalogue spells them, and its name.

    An attribute is None or empty where the catalogue has no such attribute, and "NA" where
    this item lacks it.
    """

    id: str
    gender: str
    type: str
    colour: str
    pattern: str | None
    caption: str


def is_known(value: str) -> bool:
    """Whether an attribute's value says something: it is not empty, "NA", "unknown" or the like."""
    return value.strip().lower() not in _NOT_KNOWN


def product_name(item: Item) -> str:
    """What items that show one product share: the caption, or the id where there is none."""
    return " ".join(item.caption.casefold().split()) or f"item {item.id}"


def split_development(
    items: Sequence[Item], fraction: float = 0.1, *, seed: int
) -> tuple[list[Item], list[Item]]:
    """Part the items into (training, development) by product name: no name is in both.

    Args:
        items: the training split; their order does not matter to who goes where.
        fraction: how many of the product names go to development, above 0 and below 1.
        seed: an equal seed gives an equal split.

    Raises:
        UsageError: a ``fraction`` that is not between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"The development fraction lies between 0 and 1, not {fraction}.")
    names = sorted({product_name(item) for item in items})
    order = np.random.default_rng(seed).permutation(len(names))
    development = {names[place] for place in order[: round(fraction * len(names))]}
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        parts[product_name(item) in development].append(item)
    return parts
