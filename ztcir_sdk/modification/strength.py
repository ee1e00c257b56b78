"""How much a text counts: the path from an image's embedding to its composed query, and beyond.

Embeddings are compared by their angles, so the path is the great circle through both. With v the
embedding of the image, q the composed query, t the angle between them, and u the unit vector that
is orthogonal to v in their plane,

    query(s) = cos(s t) v + sin(s t) u.

This is spherical interpolation (Shoemake, 1985), written so that it goes on beyond q: s = 0 gives
v, s = 1 gives q, and equal steps of s turn the query by equal angles. A straight line would not:
normalised, it turns fast in its middle, and beyond q it approaches a limit that it never reaches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import MAX_STRENGTH

__all__ = ["check_strength", "move_queries"]

SAME_DIRECTION = 1e-6
"""Sine of an angle below which two vectors span no plane."""


def check_strength(strength: float) -> float:
    """Return a strength as a float.

    Raises:
        UsageError: it is not a number from 0 to `MAX_STRENGTH`.
    """
    try:
        number = float(strength)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= MAX_STRENGTH:
        raise UsageError(
            f"strength must be from 0 (the image) over 1 (as trained) to {MAX_STRENGTH:g}, not "
            f"{strength}."
        )
    return number


def move_queries(
    images: NDArray[np.float32], queries: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """Move composed queries along their paths; see the module's formula.

    The query never turns beyond the opposite of the image, so its angle to the image grows with
    the strength.

    Args:
        images: v, (B, D), L2-normalised embeddings of the reference images.
        queries: q, (B, D), L2-normalised.
        strength: s; 0 returns `images` and 1 returns `queries`, both unchanged.

    Returns:
        (B, D) float32, L2-normalised.
    """
    if strength == 0:
        return images
    if strength == 1:
        return queries
    start, end = images.astype(np.float64), queries.astype(np.float64)
    cosine = (start * end).sum(axis=1, keepdims=True)  # (B, 1)
    across = end - cosine * start
    sine = np.linalg.norm(across, axis=1, keepdims=True)
    angle = np.minimum(strength * np.arctan2(sine, cosine), np.pi)
    unit = across / np.maximum(sine, SAME_DIRECTION)
    moved = np.cos(angle) * start + np.sin(angle) * unit
    moved = np.where(sine < SAME_DIRECTION, end, moved)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved, dtype=np.float32)
