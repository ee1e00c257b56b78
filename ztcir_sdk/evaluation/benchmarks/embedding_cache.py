"""Embeddings that need not be computed twice: one SQLite file for each image tower and precision.

An embedding is found again by a key that says what it was computed from. Of an image that is the
file's name, size and time, as in an index, and not its content: to read 123 403 images in order to
know that nothing has changed would take longer than anything else in a second run. An image that
changes with neither its size nor its time is therefore not noticed.

SQLite's own journal makes a commit whole: whatever kills the process, what was committed stays,
and the next run computes the rest.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import ZtcirError

__all__ = ["EmbeddingCache", "default_cache_folder"]

FORMAT = "1"
WAIT_SECONDS = 60.0
"""How long to wait for another process that is writing."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS made_by (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL);
"""


class EmbeddingCache:
    """Vectors (D,) float32 by key. For one thread; processes may share the file.

    Attributes:
        file: where they are.
        dim: D.
    """

    def __init__(
        self, folder: Path | None = None, *, image_tower: str, precision: str, dim: int
    ) -> None:
        """Open the cache of an image tower, and make it if there is none.

        Args:
            folder: where caches are; by default `default_cache_folder`.
            image_tower: fingerprint (hex) of image-tower weights and preprocessing.
            precision: of the image encoder: vectors of another precision are others.
            dim: D.

        Raises:
            ZtcirError: it cannot be read or written, or is damaged.
        """
        folder = default_cache_folder() if folder is None else folder
        self.file = folder / f"{image_tower[:16]}-{precision}.sqlite"
        self.dim = dim
        made_by = {
            "format": FORMAT,
            "image_tower": image_tower,
            "precision": precision,
            "dim": str(dim),
        }
        with self._sentences():
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.file, timeout=WAIT_SECONDS)
            try:
                self._connection.executescript(_SCHEMA)
                self._connection.executemany(
                    "INSERT OR IGNORE INTO made_by VALUES (?, ?)", made_by.items()
                )
                self._connection.commit()
                found = dict(self._connection.execute("SELECT name, value FROM made_by"))
            except BaseException:
                self._connection.close()
                raise
        if found != made_by:
            self._connection.close()
            raise ZtcirError(
                f"The cache {self.file} was made by another image tower or another ztcir: delete "
                "it, or name another folder with --cache."
            )

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; what was put but not committed is kept, unless there was an error."""
        with self._sentences():
            if kind is None:
                self._connection.commit()
            self._connection.close()

    def known(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Tell which of N keys have a vector: (N,) bool."""
        find = "SELECT 1 FROM vectors WHERE key = ?"
        with self._sentences():
            return np.array(
                [self._connection.execute(find, (key,)).fetchone() is not None for key in keys],
                dtype=np.bool_,
            )

    def put(self, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take N vectors, (N, D) float32; they stay once they are committed."""
        if vectors.shape != (len(keys), self.dim):
            raise ValueError(f"{vectors.shape} vectors for {len(keys)} keys of width {self.dim}")
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        with self._sentences():
            self._connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                ((key, row.tobytes()) for key, row in zip(keys, rows, strict=True)),
            )

    def commit(self) -> None:
        """Make what was put last, whatever happens to the process."""
        with self._sentences():
            self._connection.commit()

    def read(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of N keys that are known: (N, D) float32.

        Raises:
            KeyError: one is not known.
            ZtcirError: the file is damaged.
        """
        vectors = np.empty((len(keys), self.dim), dtype=np.float32)
        with self._sentences():
            for row, key in zip(vectors, keys, strict=True):
                found = self._connection.execute(
                    "SELECT vector FROM vectors WHERE key = ?", (key,)
                ).fetchone()
                if found is None:
                    raise KeyError(key)
                if len(found[0]) != 4 * self.dim:
                    raise sqlite3.DatabaseError(f"a vector of {len(found[0])} bytes")
                row[:] = np.frombuffer(found[0], dtype="<f4")
        return vectors

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ZtcirError(
                f"The cache {self.file} cannot be used ({error}): free some space, or name "
                "another folder with --cache."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ZtcirError(
                f"The cache {self.file} is damaged ({error}): delete it, and the embeddings will "
                "be computed again."
            ) from error
        except OSError as error:
            raise ZtcirError(
                f"The folder {self.file.parent} for embeddings cannot be made ({error.strerror}): "
                "name another one with --cache."
            ) from error


def default_cache_folder() -> Path:
    """Return the folder of the user's caches that embeddings go to."""
    import platformdirs  # only needed where none is named

    return platformdirs.user_cache_path("ztcir") / "embeddings"
