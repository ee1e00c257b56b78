"""Taking what is not wanted out of a query's vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["OF_IMAGES", "OF_TEXTS", "Strength", "without_unwanted"]

Strength = tuple[float, float]
"""The least length of what is subtracted, relative to the query, and how much longer it gets for
each unit of similarity between query and unwanted thing."""

OF_TEXTS: Strength = (0.3, 1.8)
"""A picture that shows the unwanted thing itself needs more than a text that does not speak of it.
`python -m benchmarks.unwanted` measures what these leave, on photos that they were not chosen
with."""
OF_IMAGES: Strength = (0.2, 1.0)


def without_unwanted(
    query: NDArray[np.floating],
    texts: Sequence[NDArray[np.floating]],
    images: Sequence[NDArray[np.floating]],
) -> NDArray[np.float64]:
    """Return a query's vector less those of unwanted texts and images, all (D,).

    Each image then loses in score what it shares with them. A search with the result is the search
    of the whole gallery by that score.
    """
    wanted = np.asarray(query, dtype=np.float64)
    wanted = wanted / np.linalg.norm(wanted)
    total = wanted.copy()
    for vectors, (least, growth) in ((texts, OF_TEXTS), (images, OF_IMAGES)):
        for vector in np.asarray(vectors, dtype=np.float64).reshape(-1, len(wanted)):
            total -= (least + growth * max(0.0, float(wanted @ vector))) * vector
    return total
