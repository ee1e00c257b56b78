"""Features on disk, in shards that several processes fill together and that each of them maps.

A shard is claimed by a lock on a file, so any number of processes can help, of one run or of
several, and a killed one loses at most the images since its last note of the progress. What a
shard holds does not depend on who fills it, nor on how many do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from train.settings import StageSettings
from ztcir_sdk.errors import ZtcirError, reason_of
from ztcir_sdk.files import open_whole, write_whole

__all__ = ["DiskFullError", "FeatureStore", "Layout", "quantise"]

MAX_SHARD_IMAGES = 8192  # images
MIN_SHARDS = 64  # for a large collection, so that processes end at nearly the same time
SAVE_EVERY = 50  # forward passes between two notes of the progress

Arrays = dict[str, NDArray[Any]]
Chunk = tuple[int, int]
"""A shard, and the row in it that a forward pass begins with."""


class DiskFullError(ZtcirError):
    """The disk has no room for the features."""


@dataclass(frozen=True)
class Layout:
    """What the shards of a collection hold.

    Attributes:
        images: M, number of rows.
        batch: images per forward pass; bf16 rounds a little differently in another batch.
        embed_dim: D.
        patches: (N, d_v), or ``None``: embeddings alone.
        storage: type of the patch features, "fp16" or "int8".
    """

    images: int
    batch: int
    embed_dim: int
    patches: tuple[int, int] | None = None
    storage: str = StageSettings.patch_storage

    @property
    def shard(self) -> int:
        """Images per shard, a multiple of the batch."""
        least = max(-(-self.images // MIN_SHARDS), 1)
        return -(-min(least, MAX_SHARD_IMAGES) // self.batch) * self.batch

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard)

    def size(self, number: int) -> int:
        """Return the number of images in a shard."""
        return min(self.shard, self.images - number * self.shard)

    def arrays(self, number: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Return the type and shape of each array of a shard, by name."""
        count = self.size(number)
        found: dict[str, tuple[Any, tuple[int, ...]]] = {
            "embeds": (np.float32, (count, self.embed_dim))
        }
        if self.patches is not None:
            found["patches"] = (
                np.int8 if self.storage == "int8" else np.float16,
                (count, *self.patches),
            )
            if self.storage == "int8":
                found["scales"] = (np.float16, (count, self.patches[0], 1))
        return found

    @property
    def patch_bytes(self) -> int:
        """Bytes of all patch features."""
        if self.patches is None:
            return 0
        count, width = self.patches
        return self.images * count * (width + 2 if self.storage == "int8" else width * 2)

    @property
    def key(self) -> str:
        """Eight hex digits that tell layouts apart."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def quantise(patches: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return patch features (..., d_v) as int8, and the scale (..., 1) of each patch.

    ``int8 * scale`` differs from the feature by at most half a scale, 1/254 of the patch's largest
    absolute value.
    """
    largest = np.abs(patches.astype(np.float32)).max(axis=-1, keepdims=True)
    scales = np.maximum(largest / 127, 2.0**-14).astype(np.float16)  # not below a normal float16
    levels = np.rint(patches.astype(np.float32) / scales.astype(np.float32))
    return np.clip(levels, -127, 127).astype(np.int8), scales


class FeatureStore:
    """The shards of one layout in the folder of a collection.

    Args:
        folder: the collection's; the shards have a subfolder of their own.
        layout: what they hold.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.layout = layout
        self.collection = folder
        self.folder = folder / f"shards-{layout.key}"
        self._held: dict[int, tuple[FileLock, dict[str, np.memmap[Any, Any]]]] = {}

    def reserve(self) -> None:
        """Create the shards with their room on the disk, so that it cannot run out later.

        Shards of other layouts that nobody fills are removed.

        Raises:
            DiskFullError: the disk has no room for them.
        """
        for other in self.collection.glob("shards-*"):
            if other != self.folder:
                _remove_unless_locked(other)
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(self.layout.shards):
            for name, (dtype, shape) in self.layout.arrays(number).items():
                path = self._path(name, number)
                if not path.is_file():
                    self._allocate(path, dtype, shape)

    def _allocate(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        try:
            fresh = path.with_name(f"fresh-{path.name}")
            np.lib.format.open_memmap(fresh, "w+", dtype, shape).flush()  # to disk
            if hasattr(os, "posix_fallocate"):
                with fresh.open("rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, fresh.stat().st_size)
            fresh.replace(path)
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DiskFullError(
                f"{path} cannot be written ({error.strerror}); free some space, choose another "
                "--cache, or use --no-patches."
            ) from error

    @property
    def reserved(self) -> int:
        """Bytes that the shards have on the disk already."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npy"))

    def is_complete(self) -> bool:
        """Whether all shards are filled."""
        return all(self._done(number) == self.layout.size(number) for number in self._numbers())

    def fill(
        self,
        encode: Callable[[Iterator[Chunk]], Iterator[tuple[Chunk, Arrays]]],
        *,
        first: float = 0.0,
        filled: Callable[[int], None] = lambda images: None,
    ) -> None:
        """Fill all shards that no other process fills, and wait for the others.

        Args:
            encode: encodes chunks lazily and in order; it may read ahead.
            first: where among the shards to begin, 0 to 1, so that processes rarely meet.
            filled: called with the number of images that were encoded.
        """
        numbers = list(self._numbers())
        begin = int(first * len(numbers))
        numbers = numbers[begin:] + numbers[:begin]
        self._fill(numbers, encode, filled, wait=False)
        # Reading ahead would hold a shard while waiting for another: two processes that do so wait
        # for each other.
        for number in numbers:
            self._fill([number], encode, filled, wait=True)

    def _fill(
        self,
        numbers: Sequence[int],
        encode: Callable[[Iterator[Chunk]], Iterator[tuple[Chunk, Arrays]]],
        filled: Callable[[int], None],
        *,
        wait: bool,
    ) -> None:
        since = 0
        try:
            for (number, start), found in encode(self._claim(numbers, wait=wait)):
                lock, arrays = self._held[number]
                count = len(found["embeds"])
                for name, array in arrays.items():
                    array[start : start + count] = found[name]
                filled(count)
                since += 1
                end = start + count
                if end == self.layout.size(number):
                    self._note(number, end, arrays)
                    del self._held[number]
                    lock.release()
                elif since % SAVE_EVERY == 0:
                    self._note(number, end, arrays)
        finally:
            for lock, _ in self._held.values():
                lock.release()
            self._held.clear()

    def _claim(self, numbers: Sequence[int], *, wait: bool) -> Iterator[Chunk]:
        """Yield the chunks of shards that nobody else has, and hold their locks."""
        for number in numbers:
            size = self.layout.size(number)
            if self._done(number) == size:
                continue
            lock = FileLock(self.folder / f"{number:05d}.lock")
            try:
                lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                continue
            except OSError:
                if self.folder.is_dir():
                    raise
                return  # another run has filled all shards, and joined them
            try:
                if self._done(number) == size:  # another process has just filled it
                    lock.release()
                    continue
                arrays = {
                    name: np.lib.format.open_memmap(self._path(name, number), "r+")
                    for name in self.layout.arrays(number)
                }
            except FileNotFoundError:
                lock.release()
                if self._path("embeds", 0).is_file():
                    raise
                return
            self._held[number] = (lock, arrays)
            for start in range(self._done(number), size, self.layout.batch):
                yield number, start

    def _numbers(self) -> range:
        return range(self.layout.shards)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:05d}.npy"

    def _done(self, number: int) -> int:
        """Return how many images of a shard are encoded and written to the disk."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            text = (self.folder / f"{number:05d}.json").read_text(encoding="utf-8")
            return int(json.loads(text)["done"])
        return 0

    def _note(self, number: int, done: int, arrays: dict[str, np.memmap[Any, Any]]) -> None:
        for array in arrays.values():
            array.flush()
        write_whole(self.folder / f"{number:05d}.json", json.dumps({"done": done}))

    def join_embeds(self, path: Path) -> None:
        """Write the embeddings of all shards to one file, which processes map.

        Raises:
            DiskFullError: the disk has no room for them.
        """
        shape = (self.layout.images, self.layout.embed_dim)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        try:
            with open_whole(path) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for number in self._numbers():
                    stream.write(np.load(self._path("embeds", number)).tobytes())
        except OSError as error:
            raise DiskFullError(
                f"{path} cannot be written ({reason_of(error)}); free some space, or choose "
                "another --cache."
            ) from error

    def clean(self) -> None:
        """Remove what only filling needs; without patch features, the whole folder."""
        if self.layout.patches is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for path in (*self.folder.glob("embeds-*.npy"), *self.folder.glob("*.lock")):
            with contextlib.suppress(OSError):  # Windows keeps what another process has open
                path.unlink()

    @cached_property
    def _maps(self) -> dict[tuple[str, int], NDArray[Any]]:
        return {}

    def map(self, name: str, number: int) -> NDArray[Any]:
        """Return an array of a shard, mapped: its rows are read from the disk when needed."""
        key = (name, number)
        if key not in self._maps:
            self._maps[key] = np.load(self._path(name, number), mmap_mode="r")
        return self._maps[key]


def _remove_unless_locked(folder: Path) -> None:
    """Remove the shards of a folder, unless another process fills one of them."""
    locks = [FileLock(path) for path in sorted(folder.glob("*.lock"))]
    try:
        for lock in locks:
            lock.acquire(timeout=0)
        shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        pass
    finally:
        for lock in locks:
            lock.release()
