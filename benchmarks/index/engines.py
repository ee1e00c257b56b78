"""The index and its rivals behind one interface. Each rival has its own requirements file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.runtime.cores import available_cores

__all__ = ["EFFORTS", "ENGINES", "EXACT", "Engine"]

M, EF_CONSTRUCTION = 16, 100
EFFORTS = (10, 12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 1024)
"""Candidates while searching that are tried for a recall."""
EXACT = 0
"""The effort of an engine that has none to set."""
_BATCH = 1 << 14


class Engine(Protocol):
    """Builds an index of vectors in a folder, opens it, and searches it."""

    tunable: bool
    """Whether the recall is set by an effort."""
    filters: bool
    """Whether a search can be limited to some rows."""

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Write an index of vectors (rows, dim), L2-normalised."""
        ...

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Open it, as another process would."""
        ...

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Return the nearest rows (k,) to a query (dim,)."""
        ...

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Let later searches find only some rows, before the time is taken."""
        ...


def _package(name: str) -> Any:
    """Import a package whose types are not used."""
    return importlib.import_module(name)


class Ztcir:
    """The index of this project, with its graph."""

    tunable, filters = False, True
    storage: str = "f32"
    graph: bool = True

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Index the vectors, with a commit every 10 000 items."""
        from ztcir_sdk.index import Index

        index = Index.create(
            folder / "x.ztcir",
            dim=vectors.shape[1],
            image_tower="00" * 32,
            precision="fp32",
            root=folder,
            storage=self.storage,
        )
        with index.edit(build_graph=self.graph) as writer:
            for row, vector in enumerate(vectors):
                writer.put(
                    f"{row:09}.jpg", vector, content_hash=f"{row:064x}", size=1, mtime_ns=row
                )
                if row % 10_000 == 9_999:
                    writer.commit(build_graph=False)

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Open the index."""
        from ztcir_sdk.index import Index

        self._view = Index.open(folder / "x.ztcir", image_tower=None).view
        self._among: NDArray[np.int64] | None = None

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Search with the graph's own effort, or compare with all vectors."""
        exact = not self.graph
        [(labels, _)] = self._view.search(query[None], k, exact=exact, among=self._among)
        return labels

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Look the labels up."""
        self._among = np.flatnonzero(allowed)


class ZtcirExact(Ztcir):
    """The same, comparing with all float32 vectors."""

    graph = False


class ZtcirHalf(ZtcirExact):
    """The same with float16 vectors."""

    storage = "f16"


class ZtcirInteger(ZtcirExact):
    """The same with int8 vectors, the nearest ranked again."""

    storage = "i8"


class Hnswlib:
    """hnswlib itself."""

    tunable, filters = True, True

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Build and save a graph."""
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        graph.add_items(vectors, np.arange(len(vectors)), num_threads=available_cores())
        graph.save_index(os.fspath(folder / "graph"))

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Load it."""
        import hnswlib

        self._graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self._graph.load_index(os.fspath(folder / "graph"))
        self._filter: Callable[[int], bool] | None = None

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Search with one thread."""
        self._graph.set_ef(effort)
        rows, _ = self._graph.knn_query(query, k=k, num_threads=1, filter=self._filter)
        return np.asarray(rows[0], dtype=np.int64)

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Filter by a Python function, which is what hnswlib offers."""
        found = allowed.tolist()
        self._filter = found.__getitem__


class Faiss:
    """faiss, with one of its indexes."""

    filters = True

    def __init__(self, kind: str) -> None:
        self.tunable = kind.startswith("HNSW")
        self._kind = kind

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Build and write an index."""
        faiss = _package("faiss")

        faiss.omp_set_num_threads(available_cores())
        index = faiss.index_factory(vectors.shape[1], self._kind, faiss.METRIC_INNER_PRODUCT)
        if self.tunable:
            index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(vectors[:100_000])
        index.add(vectors)
        faiss.write_index(index, os.fspath(folder / "index"))

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Read it."""
        faiss = _package("faiss")

        faiss.omp_set_num_threads(1)
        self._faiss = faiss
        self._index = faiss.read_index(os.fspath(folder / "index"))
        self._selector: Any = None

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Search with one thread."""
        params = None
        if self.tunable:
            params = self._faiss.SearchParametersHNSW(efSearch=effort, sel=self._selector)
        elif self._selector is not None:
            params = self._faiss.SearchParameters(sel=self._selector)
        _, rows = self._index.search(query[None], k, params=params)
        return np.asarray(rows[0], dtype=np.int64)

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Filter by a bitmap."""
        bits = np.packbits(allowed, bitorder="little")
        self._bits = bits
        self._selector = self._faiss.IDSelectorBitmap(bits)


class Usearch:
    """usearch with float16 vectors, memory-mapped."""

    tunable, filters = True, False

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Build and save a graph."""
        Index = _package("usearch.index").Index  # noqa: N806

        graph = Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f16",
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        for start in range(0, len(vectors), _BATCH):
            part = vectors[start : start + _BATCH]
            keys = np.arange(start, start + len(part))
            graph.add(keys, part, threads=available_cores(), copy=True)
        graph.save(os.fspath(folder / "graph"))

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Map it."""
        Index = _package("usearch.index").Index  # noqa: N806

        self._graph = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=M)
        self._graph.view(os.fspath(folder / "graph"))

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Search with one thread."""
        self._graph.expansion_search = effort
        return np.asarray(self._graph.search(query, k, threads=1).keys, dtype=np.int64)

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Not offered by usearch in Python."""
        raise NotImplementedError


class LanceDb:
    """LanceDB with its graph of 8-bit vectors, the nearest ranked again."""

    tunable, filters = True, True

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Write a table and build its index."""
        lancedb, pa = _package("lancedb"), _package("pyarrow")

        dim = vectors.shape[1]

        def batches() -> Any:
            for start in range(0, len(vectors), _BATCH):
                part = np.ascontiguousarray(vectors[start : start + _BATCH]).reshape(-1)
                column = pa.FixedSizeListArray.from_arrays(pa.array(part), dim)
                ids = pa.array(np.arange(start, start + len(part) // dim))
                yield pa.RecordBatch.from_arrays([ids, column], names=["id", "vector"])

        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])
        database = lancedb.connect(os.fspath(folder))
        table = database.create_table("x", batches(), schema=schema)
        table.create_index(
            metric="dot",
            index_type="IVF_HNSW_SQ",
            num_partitions=1,
            m=M,
            ef_construction=EF_CONSTRUCTION,
        )

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Open the table."""
        lancedb = _package("lancedb")

        self._table = lancedb.connect(os.fspath(folder)).open_table("x")
        self._where = ""

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Search, and rank the nearest again by their float32 vectors."""
        asked = self._table.search(query).distance_type("dot").limit(k).select(["id", "_distance"])
        asked = asked.ef(max(effort, 2 * k)).refine_factor(2)
        if self._where:
            asked = asked.where(self._where, prefilter=True)
        return np.asarray(asked.to_arrow()["id"].to_numpy(), dtype=np.int64)

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Filter by the same rows as an SQL expression over their ids."""
        limit = int(np.mean(allowed) * (1 << 32))
        self._where = f"(id * 2654435761) % 4294967296 < {limit}"


class NumPy:
    """A product of the mapped vectors and the query, and the largest of it."""

    tunable, filters = False, True

    def build(self, vectors: NDArray[np.float32], folder: Path) -> None:
        """Copy the vectors."""
        vectors.tofile(folder / "vectors")

    def open(self, folder: Path, vectors: NDArray[np.float32]) -> None:
        """Read them."""
        self._vectors = np.fromfile(folder / "vectors", np.float32).reshape(vectors.shape)
        self._out: NDArray[np.int64] | None = None

    def search(self, query: NDArray[np.float32], k: int, effort: int) -> NDArray[np.int64]:
        """Search with the threads that BLAS has."""
        scores = self._vectors @ query
        if self._out is not None:
            scores[self._out] = -np.inf
        return np.argpartition(-scores, k)[:k]

    def allow(self, allowed: NDArray[np.bool_]) -> None:
        """Take the scores of the others out."""
        self._out = np.flatnonzero(~allowed)


ENGINES: Mapping[str, Callable[[], Engine]] = {
    "ztcir": Ztcir,
    "ztcir, exact": ZtcirExact,
    "ztcir, exact, f16": ZtcirHalf,
    "ztcir, exact, i8": ZtcirInteger,
    "hnswlib": Hnswlib,
    "numpy": NumPy,
    "faiss, HNSW": lambda: Faiss(f"HNSW{M}"),
    "faiss, flat": lambda: Faiss("Flat"),
    "faiss, 8-bit flat": lambda: Faiss("SQ8"),
    "usearch, f16": Usearch,
    "LanceDB": LanceDb,
}
"""Name -> engine."""
