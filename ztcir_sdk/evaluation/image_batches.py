"""Cuts a stream of decoded images into batches of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

BATCH = 32
"""Images in a batch, at most,"""
PIXELS = 32_000_000
"""and their decoded pixels, beside one more image."""


def image_batches(items: Iterable[T], pixels: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield lists of consecutive items.

    Args:
        items: the items, each with at most one decoded image.
        pixels: returns the number of pixels of an item's image.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += pixels(item)
        if len(batch) == BATCH or total >= PIXELS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
