"""What is no answer: calibrated from how an index's own images score.

A query's scores with images that have nothing to do with it are about normally distributed, around
a mean that depends on the query and the method. An answer stands out from them: it scores more than
`STANDS_OUT` standard deviations above the mean. Both are estimated from a sample of the index, by
median and quartile, which answers within the sample hardly change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError
from ztcir_sdk.index import GalleryIndex
from ztcir_sdk.names import STANDS_OUT

__all__ = ["DEVIATIONS_OF_QUARTILE", "MIN_IMAGES", "SAMPLE", "least_scores"]

SAMPLE = 2000
"""Images whose scores are looked at."""
MIN_IMAGES = 30
"""An index of fewer has no distribution to speak of."""
DEVIATIONS_OF_QUARTILE = 0.6745
"""A normal distribution's lower quartile is this many standard deviations below its median."""


def least_scores(gallery: GalleryIndex, queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the least score of an answer to each of `queries` (B, D): (B,), cosines.

    Raises:
        UsageError: the index is too small.
    """
    if len(gallery) < MIN_IMAGES:
        raise UsageError(
            f"An index of {len(gallery)} images is too small for an automatic threshold, which "
            f"needs {MIN_IMAGES}: use min_score (--min-score) instead."
        )
    sample = gallery.sample(SAMPLE).astype(np.float64)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores = unit.astype(np.float64) @ sample.T  # (B, n)
    quartile, median = np.quantile(scores, (0.25, 0.5), axis=1)
    found: NDArray[np.float64] = median + STANDS_OUT * (median - quartile) / DEVIATIONS_OF_QUARTILE
    return found
