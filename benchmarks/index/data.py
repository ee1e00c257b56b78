"""Vectors with the distribution of CLIP's, from a seed, and exact answers to queries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FILTERED",
    "FRACTIONS",
    "NEIGHBOURS",
    "DataSet",
    "allowed_rows",
    "clip_like",
    "of_index",
]

NEIGHBOURS = 10
FRACTIONS = (0.5, 0.05, 0.005)
"""Parts of the rows that filters leave."""
TUNING, QUERIES = 200, 2000
"""Queries that efforts are set with, and others that recall is measured with."""
FILTERED = 100
"""How many of these are also searched with a filter."""
_BLOCK = 1 << 14


@dataclass(frozen=True)
class DataSet:
    """Gallery vectors in a file, and queries that are none of them."""

    name: str
    file: Path  # (rows, dim) float32, L2-normalised
    rows: int
    dim: int
    queries: NDArray[np.float32]  # (`TUNING` + `QUERIES`, dim)

    def vectors(self) -> NDArray[np.float32]:
        """Map the gallery vectors (rows, dim)."""
        shape = (self.rows, self.dim)
        return np.memmap(self.file, dtype=np.float32, mode="r", shape=shape).view(np.ndarray)

    def answers(self, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return the scores (Q, `NEIGHBOURS`) of the nearest rows to each query, ascending.

        All queries are answered; with a filter, the first `TUNING` + `FILTERED`.
        """
        queries = self.queries if allowed is None else self.queries[: TUNING + FILTERED]
        best = np.full((len(queries), NEIGHBOURS), -np.inf, dtype=np.float32)
        vectors = self.vectors()
        for start in range(0, self.rows, _BLOCK):
            scores = queries @ vectors[start : start + _BLOCK].T
            if allowed is not None:
                scores[:, ~allowed[start : start + _BLOCK]] = -np.inf
            few = np.partition(scores, -min(NEIGHBOURS, scores.shape[1]), axis=1)[:, -NEIGHBOURS:]
            both = np.concatenate([best, few], axis=1)
            best = np.partition(both, both.shape[1] - NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        return np.sort(best, axis=1)


def allowed_rows(rows: int, fraction: float) -> NDArray[np.bool_]:
    """Return which rows (rows,) a filter leaves; they have nothing to do with the vectors."""
    scattered = (np.arange(rows, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    part: NDArray[np.bool_] = scattered < np.uint64(int(fraction * (1 << 32)))
    return part


def clip_like(folder: Path, rows: int, dim: int, seed: int = 0) -> DataSet:
    """Return vectors like CLIP's: in a cone, in unequal groups, with few strong directions.

    The mean cosine between two is about 0.5, and a vector's nearest has about 0.85 to 0.95.
    """
    generator = np.random.default_rng(seed)
    spectrum = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
    spectrum /= np.linalg.norm(spectrum)
    turn, _ = np.linalg.qr(generator.standard_normal((dim, dim)))
    axes = (spectrum[:, None] * turn).astype(np.float32)
    cone = generator.standard_normal(dim).astype(np.float32)
    cone /= np.linalg.norm(cone)
    groups = max(8, rows // 100)
    centres = generator.standard_normal((groups, dim), dtype=np.float32)
    popularity = 1 / np.arange(1, groups + 1) ** 0.7
    popularity /= popularity.sum()

    def draw(count: int, source: np.random.Generator) -> NDArray[np.float32]:
        group = source.choice(groups, size=count, p=popularity)
        own = source.standard_normal((count, dim), dtype=np.float32)
        drawn = (0.8 * centres[group] + 0.6 * own) @ axes + cone
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return np.asarray(drawn, dtype=np.float32)

    queries = draw(TUNING + QUERIES, np.random.default_rng(seed + 1))
    file = folder / f"clip-like-{rows}x{dim}-{seed}.f32"
    if not file.exists() or file.stat().st_size != 4 * rows * dim:
        folder.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".new").open("wb") as stream:
            for number, start in enumerate(range(0, rows, _BLOCK)):
                source = np.random.default_rng((seed, number))
                stream.write(draw(min(_BLOCK, rows - start), source).tobytes())
        file.with_suffix(".new").replace(file)
    return DataSet(f"clip-like, {rows} x {dim}", file, rows, dim, queries)


def of_index(folder: Path, index: Path) -> DataSet:
    """Return the vectors of an index; some of them become queries, and are no gallery vectors."""
    from ztcir_sdk.index import Index

    vectors = Index.open(index, image_tower=None).vectors()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.random.default_rng(0).permutation(len(vectors))
    queries, gallery = order[: TUNING + QUERIES], np.sort(order[TUNING + QUERIES :])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{index.stem}-{len(gallery)}x{vectors.shape[1]}.f32"
    file.write_bytes(vectors[gallery].astype(np.float32).tobytes())
    name = f"{index.stem}, {len(gallery)} x {vectors.shape[1]}"
    return DataSet(name, file, len(gallery), vectors.shape[1], vectors[queries])
