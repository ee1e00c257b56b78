"""Several changes one after another: what is asked of each picture of a trail, and how they mix.

A trail starts at a reference image. Its user picks a hit and asks for a further change, and so on.
The last picture shows what was granted, and often no longer what the first one was. So each former
picture is composed with everything that was asked of it and since, the last one with its own text,
and the queries are added. The last picture counts most: a former one counts `FORMER_SHARE` as much
as the one after it. One whose texts together are too long for the model does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMER_SHARE", "MAX_FORMER", "join_texts", "mix_queries"]

FORMER_SHARE = 0.35
MAX_FORMER = 3
"""Pictures before the last one that may count; the share of more would be next to nothing."""


def join_texts(*texts: str) -> str:
    """Return modification texts as one, without those that are empty."""
    return ", ".join(text.strip() for text in texts if text.strip())


def mix_queries(
    queries: NDArray[np.float32], former: NDArray[np.float32], owners: Sequence[int]
) -> NDArray[np.float32]:
    """Add the queries of former pictures to those of the last ones.

    Args:
        queries: (B, D), L2-normalised.
        former: (F, D), L2-normalised; those of one owner in order, the newest first.
        owners: for each of `former`, the row of `queries` that it belongs to.

    Returns:
        (B, D) float32, L2-normalised; rows without former pictures are unchanged.
    """
    mixed = queries.astype(np.float64)
    shares = dict.fromkeys(owners, 1.0)
    for owner, query in zip(owners, former, strict=True):
        shares[owner] *= FORMER_SHARE
        mixed[owner] += shares[owner] * query
    rows = list(shares)
    mixed[rows] /= np.linalg.norm(mixed[rows], axis=1, keepdims=True)
    found = queries.copy()
    found[rows] = mixed[rows]
    return found
