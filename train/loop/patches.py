"""Patch features of a batch: read ahead from the disk, or computed from images decoded ahead."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import TrainingImage
from train.loop.feature_store import FeatureStore
from train.loop.sizes import sizes_for
from train.model import Backbone
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["KeptPatches", "LivePatches", "encode_images", "encode_pixels", "prefetch"]

READERS = 8  # threads that read rows: a disk is fastest with several requests at once


class LivePatches:
    """Computes patch features of images on demand, equal to cached ones.

    Announced images are decoded in background threads; the others on demand, in several threads.
    What the encoder gives stays on its device in half precision, until the next announcement: a
    batch in micro-batches is encoded once, although its forward pass runs twice.
    """

    def __init__(self, backbone: Backbone, images: Sequence[TrainingImage]) -> None:
        self.backbone, self.images = backbone, images
        self._preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
        self._pool: ThreadPoolExecutor | None = None
        self._current: dict[int, Future[NDArray[np.float32]]] = {}
        self._next: dict[int, Future[NDArray[np.float32]]] = {}
        self._encoded: dict[int, Tensor] = {}

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Start to decode the images of some rows, which are needed after those announced before.

        Two announcements are held in memory, as pixels: the current one and the next one.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(available_cores())
        self._current = self._next
        self._encoded = {}
        self._next = {
            row: self._current.get(row) or self._pool.submit(self._pixels, row)
            for row in dict.fromkeys(positions.tolist())
        }

    def __call__(self, positions: NDArray[np.int64]) -> Tensor:
        """Return ``P`` (b, N, d_v) float16 of some rows (b,), on the encoder's device."""
        rows = positions.tolist()
        missing = [row for row in dict.fromkeys(rows) if row not in self._encoded]
        encoded = dict(self._encoded)
        if missing:
            announced = {**self._next, **self._current}
            pixels = prefetch(
                lambda row: announced[row].result() if row in announced else self._pixels(row),
                missing,
            )
            patches = encode_images(self.backbone, pixels)[1]
            fresh = dict(zip(missing, patches, strict=True))
            self._encoded.update((row, one) for row, one in fresh.items() if row in announced)
            if missing == rows:
                return patches
            encoded.update(fresh)
        return torch.stack([encoded[row] for row in rows])

    def _pixels(self, row: int) -> NDArray[np.float32]:
        return self._preprocess([self.images[row].load()])


@dataclass(frozen=True)
class _Announced:
    """Rows that are read in the background."""

    offsets: dict[int, int]
    found: Future[Tensor]

    def take(self, positions: NDArray[np.int64]) -> Tensor | None:
        """Return the features of some rows; None if one of them was not announced."""
        rows = positions.tolist()
        if any(row not in self.offsets for row in rows):
            return None
        offsets = [self.offsets[row] for row in rows]
        whole = self.found.result()
        return whole if offsets == list(range(len(whole))) else whole[offsets]


class KeptPatches:
    """Patch features on the disk, which each process maps; (M, N, d_v) in the order of the images.

    Args:
        store: the shards, or the single file of caches that older versions wrote.
        device: where `__call__` returns them.
    """

    def __init__(self, store: FeatureStore | Path, device: torch.device) -> None:
        self.device = device
        self._store = store if isinstance(store, FeatureStore) else None
        self._file = None if isinstance(store, FeatureStore) else np.load(store, mmap_mode="r")
        self._pool: ThreadPoolExecutor | None = None
        self._current: _Announced | None = None
        self._next: _Announced | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, d_v)."""
        if self._store is None:
            assert self._file is not None
            return self._file.shape
        assert self._store.layout.patches is not None
        return (self._store.layout.images, *self._store.layout.patches)

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        if self._store is None:
            assert self._file is not None
            return self._file.nbytes
        return self._store.layout.patch_bytes

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return rows (b, N, d_v) float16."""
        positions = np.atleast_1d(positions)
        found = np.empty((len(positions), *self.shape[1:]), np.float16)
        self._read(positions, range(len(positions)), found)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[np.arange(self.shape[0])]
        return whole if dtype is None else whole.astype(dtype)

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Start to read some rows, which are needed after those announced before."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(READERS + 1)
        rows = np.unique(positions)
        self._current = self._next
        offsets = {row: number for number, row in enumerate(rows.tolist())}
        self._next = _Announced(offsets, self._pool.submit(self._read_ahead, rows, self._pool))

    def __call__(self, positions: NDArray[np.int64]) -> Tensor:
        """Return ``P`` (b, N, d_v) float16 of some rows (b,), on the device."""
        for announced in (self._current, self._next):
            found = None if announced is None else announced.take(positions)
            if found is not None:
                return found.to(self.device, non_blocking=True)
        return torch.from_numpy(self[positions]).to(self.device)

    def _read_ahead(self, rows: NDArray[np.int64], pool: ThreadPoolExecutor) -> Tensor:
        whole = torch.empty(
            (len(rows), *self.shape[1:]),
            dtype=torch.float16,
            pin_memory=self.device.type == "cuda",  # copied to a GPU while it computes
        )
        found = whole.numpy()
        parts = [range(start, len(rows), READERS) for start in range(min(READERS, len(rows)))]
        for done in [pool.submit(self._read, rows, part, found) for part in parts]:
            done.result()
        return whole

    def _read(self, rows: NDArray[np.int64], part: range, found: NDArray[np.float16]) -> None:
        """Read the rows at some positions of ``rows`` to the same positions of ``found``."""
        for position in part:
            found[position] = self._row(int(rows[position]))

    def _row(self, row: int) -> NDArray[Any]:
        if self._store is None:
            assert self._file is not None
            whole: NDArray[Any] = self._file[row]
            return whole
        number, own = divmod(row, self._store.layout.shard)
        values: NDArray[Any] = self._store.map("patches", number)[own]
        if self._store.layout.storage == "int8":
            return values * self._store.map("scales", number)[own]
        return values


@torch.no_grad()
def encode_pixels(backbone: Backbone, pixels: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return ``v`` (b, D) float32 and ``P`` (b, N, d_v) float16 of preprocessed images.

    Both stay on the encoder's device.
    """
    # a convolution keeps this order of its channels, and is twice as fast in it
    given = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
    if backbone.device.type == "cuda":
        given = given.pin_memory()
    # bf16 is four times as fast here, and its rounding is too small to matter to training
    with torch.autocast(backbone.device.type, torch.bfloat16):
        v, p = backbone.encode_image(given.to(backbone.device, non_blocking=True))
    return v.float(), p.to(torch.float16)


def encode_images(
    backbone: Backbone, images: Iterable[NDArray[np.float32]]
) -> tuple[Tensor, Tensor]:
    """Return ``v`` and ``P`` of one or more preprocessed images, each (1, 3, H, W)."""
    remaining, parts = iter(images), []
    size = sizes_for(backbone.device).images
    while batch := list(itertools.islice(remaining, size)):
        parts.append(encode_pixels(backbone, np.concatenate(batch)))
    v, p = (torch.cat(each) for each in zip(*parts, strict=True))
    return v, p


def prefetch(
    prepare: Callable[[Any], Any],
    chunks: Iterable[Any],
    count: int | None = None,
    *,
    threads: int | None = None,
) -> Generator[Any]:
    """Prepare chunks in background threads, and yield the results in order.

    Args:
        prepare: runs on each chunk, in a thread.
        chunks: read one by one, in the caller's thread.
        count: chunks to start before they are needed; default: one per thread.
        threads: number of threads; default: one per core.
    """
    threads = available_cores() if threads is None else threads
    count = threads if count is None else count
    pool = ThreadPoolExecutor(threads)
    waiting: collections.deque[Future[Any]] = collections.deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(prepare, chunk))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
