"""Draws by the square root of how often something occurs, so that common values do not dominate."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_EXPONENT = 0.5  # 0 would be uniform


def tempered_edges(counts: ArrayLike) -> NDArray[np.float64]:
    """Return the cumulative shares (N,) of the square roots of ``counts`` (N,)."""
    shares = np.cumsum(np.asarray(counts, np.float64) ** _EXPONENT)
    return shares / shares[-1] if len(shares) else shares


def draw_index(edges: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Draw an index with the cumulative shares ``edges``."""
    return min(int(np.searchsorted(edges, rng.random(), side="right")), len(edges) - 1)
