"""The rows of an index as they are stored, and quick approximate inner products with them.

Float32 rows are the vectors themselves; float16 rows take half the space. Int8 rows take as little,
in two files: a coarse one that a search reads, and what it lacks, for the vectors and for the order
of the few that are near. A row's step is a power of two, so a vector that was read from the index
and is written again has the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.names import STORAGES

__all__ = [
    "ONE_BY_ONE",
    "STORAGES",
    "TOLERANCE",
    "FloatRows",
    "HalfRows",
    "IntegerRows",
    "Rows",
    "as_rows",
    "encode_rows",
    "row_bytes",
    "row_products",
    "storage_files",
    "unit_vector",
]

UNIT = 1e-6
TOLERANCE = {"f32": UNIT, "f16": 1e-3, "i8": 1e-3}
"""Storage -> maximum distance of a stored vector's length from 1."""

FLOAT = np.dtype("<f4")
HALF = np.dtype("<f2")

_DEVIATIONS = 4.5
"""Errors of rounding that a search allows for, in standard deviations: one row in 300 000."""
_HALF_SUM = 1e-3
"""Maximum error of a sum that is accumulated in float16, as some CPUs do."""
ONE_BY_ONE = 8
"""Queries that are compared one by one; for more, BLAS's threads save more than they cost."""
_WIDENED = 1 << 9  # rows that are widened to float32 at once, where simsimd is missing


def unit_vector(
    path: str, vector: NDArray[np.float32], dim: int, storage: str = "f32"
) -> NDArray[np.float32]:
    """Return a copy of a vector (D,) to store, float32 and L2-normalised.

    Args:
        path: of the item, for messages.
        vector: (D,), whose length may be off by what an encoder in half precision loses.
        dim: D.
        storage: how it will be stored; within its tolerance the bits stay, so that copies are
            equal.

    Raises:
        ValueError: the vector has another shape, or is not normalised.
    """
    vector = np.array(vector, dtype=np.float32)  # a copy: it is written later
    if vector.shape != (dim,):
        raise ValueError(f"vector of {path} has shape {vector.shape}, not ({dim},)")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(norm - 1) < 1e-2:  # false for NaN as well; fp16 encoders are off by up to 1e-3
        raise ValueError(f"vector of {path} has length {norm}, not 1")
    if abs(norm - 1) > TOLERANCE[storage]:
        vector = (vector / norm).astype(np.float32)
    return vector


class Rows(Protocol):
    """Stored vectors: n rows of D dimensions."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """Width D."""
        ...

    @property
    def scanned_bytes(self) -> int:
        """Bytes that the products of all rows read."""
        ...

    def take(self, rows: Any) -> NDArray[np.float32]:
        """Return the vectors (n, D) float32 of row numbers or of a slice."""
        ...

    def subset(self, rows: Any) -> Rows:
        """Return some rows, copied to memory, or those of a slice, not copied."""
        ...

    def products(self, queries: NDArray[np.float32], rows: slice, out: NDArray[np.float32]) -> None:
        """Write approximate inner products (B, n) of queries (B, D) and the rows of a slice."""
        ...

    def margin(self, query: NDArray[np.float32]) -> float:
        """Return twice the error that a product with a query (D,) may have."""
        ...


@dataclass(frozen=True)
class _StoredRows:
    """Rows that are searched as they are stored."""

    vectors: NDArray[Any]  # (n, D)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Width D."""
        return int(self.vectors.shape[1])

    @property
    def scanned_bytes(self) -> int:
        """Bytes that the products of all rows read."""
        return self.vectors.nbytes


class FloatRows(_StoredRows):
    """Float32 rows."""

    def take(self, rows: Any) -> NDArray[np.float32]:
        """Return the vectors (n, D)."""
        return cast("NDArray[np.float32]", self.vectors[rows])

    def subset(self, rows: Any) -> FloatRows:
        """Return some rows."""
        return FloatRows(self.vectors[rows])

    def products(self, queries: NDArray[np.float32], rows: slice, out: NDArray[np.float32]) -> None:
        """Write inner products (B, n)."""
        part = self.vectors[rows]
        if len(queries) > ONE_BY_ONE:
            np.matmul(queries, part.T, out=out)
            return
        # Not a matrix product: BLAS would start its own threads, which compete with ONNX Runtime's
        # for the cores, and wait for each other longer than one thread needs.
        for query, row in zip(queries, out, strict=True):
            row_products(part, query, row)

    def margin(self, query: NDArray[np.float32]) -> float:
        """Return twice the maximum error of a float32 inner product of unit vectors."""
        return 2 * (self.dim * 2.0**-24 + 2 * UNIT)


def row_products(
    rows: NDArray[Any], others: NDArray[Any], out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return the inner products (n,) of rows (n, D) with a vector (D,) or with others (n, D).

    Each sum depends on nothing but the two vectors.
    """
    vecdot = getattr(np, "vecdot", None)  # from NumPy 2: about twice as fast
    if vecdot is None:
        terms = "nd,d->n" if others.ndim == 1 else "nd,nd->n"
        return cast("NDArray[Any]", np.einsum(terms, rows, others, out=out))
    return cast("NDArray[Any]", vecdot(rows, others, out=out))


class HalfRows(_StoredRows):
    """Float16 rows."""

    def take(self, rows: Any) -> NDArray[np.float32]:
        """Return the vectors (n, D)."""
        return cast("NDArray[np.float32]", self.vectors[rows].astype(np.float32))

    def subset(self, rows: Any) -> HalfRows:
        """Return some rows."""
        return HalfRows(self.vectors[rows])

    def products(self, queries: NDArray[np.float32], rows: slice, out: NDArray[np.float32]) -> None:
        """Write approximate inner products (B, n)."""
        _narrow_products(queries.astype(HALF), queries, self.vectors[rows], out)

    def margin(self, query: NDArray[np.float32]) -> float:
        """Return twice the error: of the sum, and of the query in float16."""
        lost = query - query.astype(HALF).astype(np.float32)
        return 2 * (_HALF_SUM + float(np.linalg.norm(lost)))


@dataclass(frozen=True)
class IntegerRows:
    """Int8 rows: ``step * (coarse + fine / 256)``."""

    coarse: NDArray[Any]  # (n,) records of `codes` (D,) int8 and `step` float32
    fine: NDArray[np.int8]  # (n, D)

    def __len__(self) -> int:
        return len(self.coarse)

    @property
    def dim(self) -> int:
        """Width D."""
        return int(self.fine.shape[1])

    @property
    def scanned_bytes(self) -> int:
        """Bytes that the products of all rows read."""
        return self.coarse.nbytes

    def take(self, rows: Any) -> NDArray[np.float32]:
        """Return the vectors (n, D)."""
        coarse = self.coarse[rows]
        codes = coarse["codes"].astype(np.float32) + self.fine[rows].astype(np.float32) / 256
        return cast("NDArray[np.float32]", codes * coarse["step"][:, None])

    def subset(self, rows: Any) -> IntegerRows:
        """Return some rows."""
        return IntegerRows(self.coarse[rows], self.fine[rows])

    def products(self, queries: NDArray[np.float32], rows: slice, out: NDArray[np.float32]) -> None:
        """Write approximate inner products (B, n)."""
        part = self.coarse[rows]
        steps = _query_steps(queries)
        codes = np.rint(queries / steps[:, None]).astype(np.int8)
        _narrow_products(codes, codes.astype(np.float32), part["codes"], out)
        out *= self._steps[rows]
        out *= steps[:, None]

    def margin(self, query: NDArray[np.float32]) -> float:
        """Return twice the error of rounding the rows and the query.

        Rounding errors are independent and even within a step, so their sum is about normal. It
        cannot be above the sum of their largest, which is less for few dimensions.
        """
        if not len(self):
            return 0.0
        row_step, query_step = self._largest_step, float(_query_steps(query[None])[0])
        return 2 * min(
            _DEVIATIONS * math.hypot(row_step, query_step) / math.sqrt(12),
            row_step / 2 * float(np.abs(query).sum()) + query_step / 2 * math.sqrt(self.dim),
        )

    @cached_property
    def _steps(self) -> NDArray[np.float32]:
        """The steps (n,) next to each other: reading them beside the codes takes a fifth longer."""
        return np.ascontiguousarray(self.coarse["step"], dtype=np.float32)

    @cached_property
    def _largest_step(self) -> float:
        return float(self._steps.max())


def _query_steps(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.abs(queries).max(axis=1)
    return cast("NDArray[np.float32]", np.maximum(largest, np.float32(1e-6)) / np.float32(127))


def _narrow_products(
    queries: NDArray[Any],
    widened: NDArray[np.float32],
    rows: NDArray[Any],
    out: NDArray[np.float32],
) -> None:
    """Write the inner products (B, n) of queries and rows of one narrow type.

    Args:
        queries: (B, D), of the rows' type.
        widened: the same values as float32.
        rows: (n, D).
        out: (B, n).
    """
    if len(rows) == 0:
        return
    try:
        import simsimd
    except ImportError:  # there is no wheel for this platform
        for start in range(0, len(rows), _WIDENED):
            part = rows[start : start + _WIDENED].astype(np.float32)
            np.matmul(widened, part.T, out=out[:, start : start + _WIDENED])
        return
    out[:] = simsimd.cdist(queries, rows, metric="dot")


def _coarse_type(dim: int) -> np.dtype[Any]:
    return np.dtype([("codes", np.int8, (dim,)), ("step", FLOAT)])


def row_bytes(storage: str, dim: int) -> tuple[int, ...]:
    """Return the bytes of a row in each file of a storage."""
    return {"f32": (4 * dim,), "f16": (2 * dim,), "i8": (dim + 4, dim)}[storage]


def encode_rows(storage: str, vectors: NDArray[np.float32]) -> tuple[bytes, ...]:
    """Return the bytes of vectors (n, D) for each file of a storage."""
    vectors = np.ascontiguousarray(vectors, dtype=FLOAT)
    if storage == "f32":
        return (vectors.tobytes(),)
    if storage == "f16":
        return (vectors.astype(HALF).tobytes(),)
    largest = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-30))
    # The smallest power of two of which 127 reach the largest value.
    steps = np.exp2(np.ceil(np.log2(largest.astype(np.float64) / 127))).astype(FLOAT)
    scaled = vectors / steps[:, None]
    codes = np.floor(scaled + np.float32(0.5))  # what is left is from -0.5 to below 0.5
    fine = np.clip(np.rint((scaled - codes) * 256), -128, 127)
    coarse = np.empty(len(vectors), dtype=_coarse_type(vectors.shape[1]))
    coarse["codes"], coarse["step"] = codes, steps
    return coarse.tobytes(), fine.astype(np.int8).tobytes()


def as_rows(storage: str, dim: int, files: Sequence[Any]) -> Rows:
    """Return the rows of a storage's files, each a buffer of whole rows."""
    if storage == "f32":
        return FloatRows(np.frombuffer(files[0], dtype=FLOAT).reshape(-1, dim))
    if storage == "f16":
        return HalfRows(np.frombuffer(files[0], dtype=HALF).reshape(-1, dim))
    coarse = np.frombuffer(files[0], dtype=_coarse_type(dim))
    return IntegerRows(coarse, np.frombuffer(files[1], dtype=np.int8).reshape(-1, dim))


def storage_files(storage: str, generation: int) -> tuple[str, ...]:
    """Return the names of a storage's files in a generation."""
    names = (f"vectors-{generation}.{storage}",)
    return (*names, f"residuals-{generation}.i8") if storage == "i8" else names
