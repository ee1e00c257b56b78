"""Append rows of vectors to the files of an index, behind the bytes that count."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.index.manifest import FileRecord, Manifest
from ztcir_sdk.index.rows import Rows, as_rows, encode_rows, row_bytes, storage_files

__all__ = ["RowWriter", "block_hashes", "rows_in_a_block", "write_rows"]

BLOCK_BYTES = 1 << 24


class RowWriter:
    """Appends rows to the files of a state, which are first cut to the rows of the state."""

    def __init__(self, folder: Path, state: Manifest) -> None:
        self._storage, self._dim = state.storage, state.dim
        self._widths = row_bytes(state.storage, state.dim)
        self._committed = state.rows
        self.rows = state.rows
        self._pending: list[NDArray[np.float32]] = []
        self._hash = hashlib.sha256()
        self._names = tuple(record.file for record in state.vectors)
        self._streams: list[BinaryIO] = []
        try:
            for record in state.vectors:
                stream = (folder / record.file).open("rb+")
                self._streams.append(stream)
                if stream.seek(0, os.SEEK_END) > record.bytes:
                    stream.truncate(record.bytes)  # left by a killed writer
        except BaseException:
            self.close()
            raise

    def append(self, vector: NDArray[np.float32]) -> int:
        """Add a vector (D,); return its row."""
        self._pending.append(vector)
        self.rows += 1
        if len(self._pending) >= rows_in_a_block(self._dim):
            self._write()
        return self.rows - 1

    def read(self, row: int) -> NDArray[np.float32]:
        """Return the vector (D,) of a row as the index will give it."""
        first_pending = self.rows - len(self._pending)
        if row >= first_pending:
            vector = self._pending[row - first_pending]
            files = encode_rows(self._storage, vector[None])
        else:
            files = ()
            for stream, width in zip(self._streams, self._widths, strict=True):
                stream.seek(width * row)
                files += (stream.read(width),)
        rows: Rows = as_rows(self._storage, self._dim, files)
        [found] = rows.take(slice(0, 1))
        return np.asarray(found)

    def _write(self) -> None:
        if not self._pending:
            return
        first = self.rows - len(self._pending)
        files = encode_rows(self._storage, np.stack(self._pending))
        for stream, width, data in zip(self._streams, self._widths, files, strict=True):
            stream.seek(width * first)
            stream.write(data)
            self._hash.update(data)
        self._pending = []

    def flush(self) -> tuple[int, int, str] | None:
        """Write the new rows to disk.

        Returns:
            First row, number of rows, and checksum of the rows since the last call.
        """
        self._write()
        if self.rows == self._committed:
            return None
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
        block = (self._committed, self.rows - self._committed, self._hash.hexdigest())
        self._committed = self.rows
        self._hash = hashlib.sha256()
        return block

    def records(self) -> tuple[FileRecord, ...]:
        """Return the records of the files with all rows so far."""
        return tuple(
            FileRecord(name, width * self.rows)
            for name, width in zip(self._names, self._widths, strict=True)
        )

    def close(self) -> None:
        """Close the files; rows that were not flushed are lost."""
        for stream in self._streams:
            with contextlib.suppress(OSError):  # what cannot be written does not count
                stream.close()


def write_rows(
    folder: Path, state: Manifest, old: Rows, rows: NDArray[np.int64], storage: str
) -> tuple[tuple[FileRecord, ...], list[tuple[int, int, str]]]:
    """Copy some rows to new files of the generation of `state`.

    Returns:
        Records of the files, and their blocks: first row, number of rows, checksum.
    """
    names = storage_files(storage, state.generation)
    widths = row_bytes(storage, state.dim)
    blocks: list[tuple[int, int, str]] = []
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context((folder / name).open("wb")) for name in names]
        for start in range(0, len(rows), step := rows_in_a_block(state.dim)):
            part = rows[start : start + step]
            hasher = hashlib.sha256()
            for stream, data in zip(streams, encode_rows(storage, old.take(part)), strict=True):
                hasher.update(data)
                stream.write(data)
            blocks.append((start, len(part), hasher.hexdigest()))
        for stream in streams:
            stream.flush()
            os.fsync(stream.fileno())
    records = tuple(
        FileRecord(name, width * len(rows)) for name, width in zip(names, widths, strict=True)
    )
    return records, blocks


def block_hashes(
    folder: Path, state: Manifest, blocks: list[tuple[int, int, str]]
) -> Iterator[tuple[int, int, bool]]:
    """Yield first row, number of rows, and whether the bytes have the checksum, of each block."""
    widths = row_bytes(state.storage, state.dim)
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context((folder / record.file).open("rb")) for record in state.vectors
        ]
        for first, count, sha256 in blocks:
            hasher = hashlib.sha256()
            # A writer hashes a block in the parts in which it wrote it.
            for start in range(first, first + count, step := rows_in_a_block(state.dim)):
                some = min(step, first + count - start)
                for stream, width in zip(streams, widths, strict=True):
                    stream.seek(width * start)
                    hasher.update(stream.read(width * some))
            yield first, count, hasher.hexdigest() == sha256


def rows_in_a_block(dim: int) -> int:
    """Return the number of vectors to process at once."""
    return max(1, BLOCK_BYTES // (4 * dim))
