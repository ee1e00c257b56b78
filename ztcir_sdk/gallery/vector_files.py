"""Parquet files of vectors: what `ztcir embed` and `ztcir index --export` write, and indexes read.

A row is an image: `COLUMNS`. The file's own metadata has the key ``ztcir``: JSON with the image
tower that made the vectors and the root that paths are relative to, see `VectorFileInfo`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ztcir_sdk.errors import ZtcirError, first_line, reason_of
from ztcir_sdk.files import open_whole
from ztcir_sdk.schema import EntryError, PositiveNumber, from_json, to_json
from ztcir_sdk.sources import Source
from ztcir_sdk.sources.identity import path_id
from ztcir_sdk.sources.metadata import clean_metadata
from ztcir_sdk.sources.table_files import import_pyarrow
from ztcir_sdk.version import __version__

__all__ = [
    "COLUMNS",
    "PART",
    "ROWS_AT_ONCE",
    "VectorFile",
    "VectorFileInfo",
    "VectorRow",
    "find_vector_files",
    "part_name",
    "write_vectors",
]

COLUMNS = ("id", "path", "content_hash", "size", "mtime_ns", "metadata", "vector")
"""The columns: `path_id`; the item's fields; metadata as JSON; the vector as float32."""
FORMAT_VERSION = 1
KEY = b"ztcir"
"""Entry of the Parquet file's metadata."""
PART = re.compile(r"(\d{5})-of-(\d{5})-(\d{5})\.parquet")
"""Names of the files of `ztcir embed`: shard, number of shards, part."""
ROWS_AT_ONCE = 4096
"""Rows of a row group, and of a batch that is read."""
LENGTH_OFF = 1e-3
"""Maximum distance of a vector's length from 1."""


class VectorFileInfo(Struct, frozen=True):
    """Where the vectors of a file come from."""

    image_tower: str
    """Fingerprint (hex) of the image-tower weights and preprocessing that made the vectors."""
    precision: str
    """Precisions of the graphs that made them, joined by "+"; only informative."""
    dim: PositiveNumber
    """Width D of the vectors."""
    root: str
    """Absolute folder of the paths, on the machine that wrote the file."""
    ztcir: str = __version__
    """Version that wrote it."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class VectorRow:
    """An image in a file of vectors, without its vector."""

    path: str
    content_hash: str
    size: int
    mtime_ns: int
    metadata: Mapping[str, Any] | None


def part_name(shard: int, shards: int, part: int) -> str:
    """Return the name of a part of a shard; see `PART`."""
    return f"{shard:05}-of-{shards:05}-{part:05}.parquet"


def find_vector_files(source: Source) -> list[Path]:
    """Return the files of vectors that a source names, by name; [] if it is a collection.

    These are Parquet files, and folders that `ztcir embed` wrote.

    Raises:
        ZtcirError: one of them does not exist, or a collection is named beside them.
    """
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    found: list[Path] = []
    other: list[Path] = []
    for path in map(Path, given):
        if path.suffix.lower() == ".parquet":
            found.append(path)
        elif path.is_dir() and (parts := _parts_in(path)):
            found += parts
        else:
            other.append(path)
    if found and other:
        raise ZtcirError(
            f"{found[0]} holds vectors and {other[0]} does not: index images and vectors in two "
            "calls."
        )
    for path in found:
        if not path.is_file():
            raise ZtcirError(f"{path} does not exist: check the path.")
    return found


def _parts_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if PART.fullmatch(entry.name))


class VectorFile:
    """A file of vectors, opened and checked.

    Attributes:
        path: the file.
        info: where its vectors come from.
        rows: number of rows.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ZtcirError: it is damaged, of another format, or does not say what made its vectors.
            MissingDependencyError: pyarrow is not installed.
        """
        self.path = path
        pa, pq = import_pyarrow()
        with _readable(path), pq.ParquetFile(path) as file:
            found = (file.schema_arrow.metadata or {}).get(KEY)
            names = set(file.schema_arrow.names)
            self.rows: int = file.metadata.num_rows
            if found is not None and names.issuperset(COLUMNS):
                kind = file.schema_arrow.field("vector").type
        if found is None or not names.issuperset(COLUMNS):
            raise ZtcirError(
                f"{path} is not a file of vectors that ztcir wrote, so it does not say which image "
                "tower made them: write it with `ztcir embed` or `ztcir index --export`."
            )
        self.info = self._parse(found)
        if not pa.types.is_fixed_size_list(kind) or kind.list_size != self.info.dim:
            raise self._damaged(f"its vectors are {kind}, not {self.info.dim} numbers")

    def _parse(self, found: bytes) -> VectorFileInfo:
        try:
            values = json.loads(found)
            version = values.get("format_version") if isinstance(values, dict) else FORMAT_VERSION
            if version != FORMAT_VERSION:
                raise ZtcirError(
                    f"{self.path} has the format {version!r} of vectors, which ztcir {__version__} "
                    "does not know: update ztcir."
                )
            return from_json(values, VectorFileInfo)
        except (EntryError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error

    def batches(self) -> Iterator[tuple[list[VectorRow], NDArray[np.float32]]]:
        """Yield the images and their vectors (n, D), a few thousand at a time.

        Raises:
            ZtcirError: the file is damaged.
        """
        _, pq = import_pyarrow()
        with _readable(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(COLUMNS)):
                column = batch.column("vector")
                flat = column.flatten().to_numpy(zero_copy_only=False)
                if column.null_count or len(flat) != len(batch) * self.info.dim:
                    raise self._damaged("a vector is missing")
                vectors = np.asarray(flat, dtype=np.float32).reshape(-1, self.info.dim)
                lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
                if not (np.abs(lengths - 1) < LENGTH_OFF).all():  # NaN too
                    raise self._damaged("a vector is not of length 1")
                yield self._rows(batch), vectors

    def records(self) -> Iterator[VectorRow]:
        """Yield the images without their vectors.

        Raises:
            ZtcirError: the file is damaged.
        """
        _, pq = import_pyarrow()
        columns = [name for name in COLUMNS if name != "vector"]
        with _readable(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                yield from self._rows(batch)

    def _rows(self, batch: Any) -> list[VectorRow]:
        names = ("path", "content_hash", "size", "mtime_ns", "metadata")
        rows = []
        for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            path, content_hash, size, mtime_ns, metadata = values
            if not path or content_hash is None or size is None or mtime_ns is None:
                raise self._damaged("a row lacks its path, content_hash, size or mtime_ns")
            parsed = None if metadata is None else json.loads(metadata)
            if not isinstance(parsed, dict | None):
                raise self._damaged(f"the metadata of {path} is not an object")
            rows.append(
                VectorRow(path, content_hash, size, mtime_ns, parsed and clean_metadata(parsed))
            )
        return rows

    def _damaged(self, why: str) -> ZtcirError:
        return ZtcirError(f"{self.path} is damaged ({why}): write it again.")


def write_vectors(
    path: Path,
    info: VectorFileInfo,
    batches: Iterable[tuple[Sequence[VectorRow], NDArray[np.float32]]],
) -> int:
    """Write a file of vectors as a whole; return the number of rows.

    Args:
        path: file to create or replace.
        info: where the vectors come from.
        batches: images, and their vectors (n, D).

    Raises:
        ZtcirError: it cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    pa, pq = import_pyarrow()
    kinds = {"id": pa.int64(), "size": pa.int64(), "mtime_ns": pa.int64()}
    kinds["vector"] = pa.list_(pa.float32(), info.dim)
    schema = pa.schema(
        [pa.field(name, kinds.get(name, pa.string())) for name in COLUMNS],
        metadata={KEY: json.dumps(to_json(info)).encode()},
    )
    count = 0
    try:
        with open_whole(path) as stream, pq.ParquetWriter(stream, schema) as writer:
            for rows, vectors in batches:
                flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
                columns = [
                    pa.array([path_id(row.path) for row in rows], pa.int64()),
                    pa.array([row.path for row in rows], pa.string()),
                    pa.array([row.content_hash for row in rows], pa.string()),
                    pa.array([row.size for row in rows], pa.int64()),
                    pa.array([row.mtime_ns for row in rows], pa.int64()),
                    pa.array([_json(row.metadata) for row in rows], pa.string()),
                    pa.FixedSizeListArray.from_arrays(flat, info.dim),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                count += len(rows)
    except OSError as error:
        raise ZtcirError(
            f"{path} cannot be written ({reason_of(error)}): choose another place."
        ) from error
    return count


def _json(metadata: Mapping[str, Any] | None) -> str | None:
    return None if metadata is None else json.dumps(dict(metadata), ensure_ascii=False)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Replace what pyarrow raises about a damaged file by a sentence."""
    pa, _ = import_pyarrow()
    try:
        yield
    except (OSError, ValueError, pa.ArrowException, RecursionError) as error:
        if isinstance(error, ZtcirError):
            raise
        raise ZtcirError(
            f"{path} cannot be read as Parquet ({first_line(error)}): write it again."
        ) from error
