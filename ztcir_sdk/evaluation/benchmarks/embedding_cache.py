"""A cache of embeddings on disk: one SQLite file for each image tower and precision.

The key of an embedding identifies its inputs. For an image that is the file's name, size and
modification time, as in an index, not its content: reading 123 403 unchanged images would take
longer than the rest of a second run. A change of an image that keeps size and time is not noticed.

SQLite commits are atomic: after a kill, committed vectors stay, and the next run computes the rest.
"""

from __future__ import annotations

import contextlib
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import ZtcirError

FORMAT = "1"
WAIT_SECONDS = 60.0
"""Time to wait for another process that writes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS made_by (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL);
"""


class EmbeddingCache:
    """Vectors (D,) float32 by key. For one thread; several processes may share the file.

    Attributes:
        file: the SQLite file.
        dim: width D of the vectors.
    """

    def __init__(
        self, folder: Path | None = None, *, image_tower: str, precision: str, dim: int
    ) -> None:
        """Open the cache of an image tower, or create it.

        Args:
            folder: folder of the caches; by default `default_cache_folder`.
            image_tower: fingerprint (hex) of image-tower weights and preprocessing.
            precision: precision of the image encoder; each has a cache of its own.
            dim: width D of the vectors.

        Raises:
            ZtcirError: the file cannot be read or written, or is corrupt.
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
        with self._errors_as_sentences():
            folder.mkdir(parents=True, exist_ok=True)
            # Any thread may collect an object that was not closed.
            self._connection = sqlite3.connect(
                self.file, timeout=WAIT_SECONDS, check_same_thread=False
            )
            weakref.finalize(self, self._connection.close)
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
                f"The cache {self.file} is of another image tower or another version of ztcir: "
                "delete it, or choose another folder with --cache."
            )

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; commit before that, unless there was an error."""
        with self._errors_as_sentences():
            if kind is None:
                self._connection.commit()
            self._connection.close()

    def known(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether each of N keys has a vector: (N,) bool."""
        find = "SELECT 1 FROM vectors WHERE key = ?"
        with self._errors_as_sentences():
            return np.array(
                [self._connection.execute(find, (key,)).fetchone() is not None for key in keys],
                dtype=np.bool_,
            )

    def put(self, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store N vectors, (N, D) float32, until the next commit or for good after it."""
        if vectors.shape != (len(keys), self.dim):
            raise ValueError(f"{vectors.shape} vectors for {len(keys)} keys of width {self.dim}")
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        with self._errors_as_sentences():
            self._connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                ((key, row.tobytes()) for key, row in zip(keys, rows, strict=True)),
            )

    def commit(self) -> None:
        """Keep all stored vectors, even if the process is killed."""
        with self._errors_as_sentences():
            self._connection.commit()

    def read(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of N known keys: (N, D) float32.

        Raises:
            KeyError: a key is unknown.
            ZtcirError: the file is corrupt.
        """
        vectors = np.empty((len(keys), self.dim), dtype=np.float32)
        with self._errors_as_sentences():
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
    def _errors_as_sentences(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ZtcirError(
                f"The cache {self.file} cannot be used ({error}): free some space, or choose "
                "another folder with --cache."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ZtcirError(
                f"The cache {self.file} is corrupt ({error}): delete it, and the embeddings will "
                "be computed again."
            ) from error
        except OSError as error:
            raise ZtcirError(
                f"The folder {self.file.parent} for embeddings cannot be created "
                f"({error.strerror}): choose another one with --cache."
            ) from error


def default_cache_folder() -> Path:
    """Return the folder for embeddings among the user's caches."""
    import platformdirs  # only needed here

    return platformdirs.user_cache_path("ztcir") / "embeddings"
