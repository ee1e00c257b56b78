"""Cached features of the frozen image and text encoders, which both stages share.

Pooled embeddings are always cached on disk. Patch features need as many times more room as there
are patches: they are cached where the disk has room, and computed again for each batch otherwise.
A killed computation resumes where it was.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from train.data import TrainingImage
from train.model import Backbone, hash_tensors
from train.progress import progress_bar
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import open_whole, write_whole
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.cores import available_cores

BATCH = 128  # images per forward pass
SAVE_EVERY = 50  # forward passes between two notes of the progress
SPARE = 0.1  # share of the free disk space that is left to checkpoints and logs


class DiskFullError(ZtcirError):
    """The disk has no room for the features."""


class LivePatches:
    """Computes patch features of images on demand, equal to cached ones.

    Announced images are decoded in background threads; the others on demand, in several threads.
    """

    def __init__(self, backbone: Backbone, images: Sequence[TrainingImage]) -> None:
        self.backbone, self.images = backbone, images
        self._preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
        self._pool: ThreadPoolExecutor | None = None
        self._current: dict[int, Future[NDArray[np.float32]]] = {}
        self._next: dict[int, Future[NDArray[np.float32]]] = {}

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Start to decode the images of some rows, which are needed after those announced before.

        Two announcements are held in memory, as pixels: the current one and the next one.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(available_cores())
        self._current = self._next
        self._next = {
            row: self._current.get(row) or self._pool.submit(self._pixels, row)
            for row in dict.fromkeys(positions.tolist())
        }

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return ``P`` (b, N, d_v) of some rows (b,)."""
        announced = {**self._next, **self._current}
        pixels = prefetch(
            lambda row: announced[row].result() if row in announced else self._pixels(row),
            positions.tolist(),
        )
        return encode_images(self.backbone, pixels)[1]

    def _pixels(self, row: int) -> NDArray[np.float32]:
        return self._preprocess([self.images[row].load()])


@dataclass(frozen=True)
class ImageFeatures:
    """The frozen image encoder's features of a collection.

    Attributes:
        ids: item ids, in the order of the rows.
        embeds: ``v`` (M, D) float32, L2-normalised.
        patches: ``P`` (M, N, d_v) float16, on disk; ``None`` if they are not cached.
        live: computes ``P`` if they are not cached.
        source: key and kind of the cached features, for ``run.json``.
    """

    ids: tuple[str, ...]
    embeds: NDArray[np.float32]
    patches: NDArray[np.float16] | None
    live: LivePatches | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def embeddings(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """Return ``v`` (b, D) float32 of some rows (b,)."""
        return torch.from_numpy(self.embeds[positions])

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Name the rows that are needed next, whose images are decoded if no patches are cached."""
        if self.live is not None:
            self.live.announce(positions)

    def rows(self, positions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``v`` (b, D) and ``P`` (b, N, d_v) of some rows (b,), as float32."""
        if self.patches is not None:
            found = self.patches[positions]
        else:
            assert self.live is not None
            found = self.live(positions)
        return self.embeddings(positions), torch.from_numpy(np.asarray(found, dtype=np.float32))


def image_features(
    backbone: Backbone,
    images: Sequence[TrainingImage],
    cache: Path,
    *,
    batch: int = BATCH,
    patches: bool | None = None,
) -> ImageFeatures:
    """Encode a collection, or read the features that an earlier run has cached.

    Args:
        backbone: its image encoder is frozen.
        images: the collection.
        cache: folder; its features are reused only for the same weights and the same images under
            the same ids.
        batch: images per forward pass.
        patches: cache patch features; ``None``: where the disk has room.

    Raises:
        DiskFullError: the disk has no room for the features.
    """
    ids = tuple(image.item.id for image in images)
    folder = cache / _fingerprint(backbone, images)
    folder.mkdir(parents=True, exist_ok=True)
    complete, pooled = folder / "complete.json", folder / "pooled.json"
    with FileLock(folder / "lock"):
        if not complete.is_file() and (patches is not False or not pooled.is_file()):
            with_patches = _caches_patches(backbone, len(ids), folder, patches)
            if with_patches or not pooled.is_file():
                pooled.unlink(missing_ok=True)  # embeddings are computed again, with the patches
                _compute(backbone, images, folder, batch, with_patches=with_patches)
                marker = complete if with_patches else pooled
                write_whole(marker, json.dumps({"images": len(ids)}))
    embeds = np.load(folder / "embeds.npy")
    if complete.is_file() and patches is not False:
        stored = np.load(folder / "patches.npy", mmap_mode="r")
        source = {"key": folder.name, "patches": "kept", "patch_bytes": stored.nbytes}
        return ImageFeatures(ids, embeds, stored, source=source)
    live = LivePatches(backbone, images)
    return ImageFeatures(ids, embeds, None, live, {"key": folder.name, "patches": "live"})


def text_features(
    backbone: Backbone, texts: Sequence[str], cache: Path, encode: Callable[[], torch.Tensor]
) -> NDArray[np.float32]:
    """Return the frozen embeddings (M, D) of texts, computed or cached by an earlier run.

    Args:
        backbone: its text tower computes them, by ``encode``.
        texts: in the order of the rows.
        cache: folder.

    Raises:
        DiskFullError: the disk has no room for them.
    """
    digest = hashlib.sha256()
    state = backbone.clip.state_dict().items()
    hash_tensors(digest, (entry for entry in state if not entry[0].startswith("visual.")))
    digest.update(json.dumps([repr(backbone.tower), list(texts)]).encode())
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"texts-{digest.hexdigest()[:16]}.npy"
    if not path.is_file():
        embeds = encode().numpy()
        try:
            with open_whole(path) as stream:
                np.save(stream, embeds)
        except OSError as error:
            raise DiskFullError(
                f"{path} cannot be written ({error.strerror or error}); free some space, or choose "
                "another --cache."
            ) from error
    found: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return found


def _caches_patches(backbone: Backbone, count: int, folder: Path, wanted: bool | None) -> bool:
    """Return whether to cache patch features: whether the disk has room for them.

    Raises:
        DiskFullError: they are wanted, but do not fit.
    """
    if wanted is False:
        return False
    needed = count * backbone.num_patches * backbone.patch_dim * 2
    partial = folder / "patches.npy"  # of a killed computation
    free = shutil.disk_usage(folder).free + (partial.stat().st_size if partial.is_file() else 0)
    fits = needed <= (1 - SPARE) * free
    if wanted and not fits:
        raise DiskFullError(
            f"The patch features need {_size(needed)}, but {_size(free)} are free in {folder}; "
            "free some space, choose another --cache, or use --no-patches."
        )
    print(
        f"The patch features of {count} images need {_size(needed)}, and {_size(free)} are free: "
        f"they are {'cached' if fits else 'computed again for each batch'}.",
        file=sys.stderr,
    )
    return fits


def _compute(
    backbone: Backbone,
    images: Sequence[TrainingImage],
    folder: Path,
    batch: int,
    *,
    with_patches: bool,
) -> None:
    """Fill ``embeds.npy`` and ``patches.npy``; resumes where an earlier process was killed."""
    progress = folder / "progress.json"
    state = {"batch": batch, "patches": with_patches}
    done = _images_done(progress, state)
    shapes = {"embeds": (np.float32, (len(images), backbone.embed_dim))}
    if with_patches:
        size = (len(images), backbone.num_patches, backbone.patch_dim)
        shapes["patches"] = (np.float16, size)  # type: ignore[assignment]
    arrays = {
        name: _array(folder / f"{name}.npy", dtype, shape, fresh=done == 0)
        for name, (dtype, shape) in shapes.items()
    }

    def save(count: int) -> None:
        for array in arrays.values():
            array.flush()
        write_whole(progress, json.dumps({**state, "done": count}))

    starts = range(done, len(images), batch)
    chunks = [images[start : start + batch] for start in starts]
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    prepared = prefetch(lambda chunk: preprocess([image.load() for image in chunk]), chunks)
    bar = progress_bar(starts, what="image features")
    for number, (start, pixels) in enumerate(zip(bar, prepared, strict=True), start=1):
        found = dict(zip(("embeds", "patches"), encode_pixels(backbone, pixels), strict=True))
        for name, array in arrays.items():
            array[start : start + len(pixels)] = found[name]
        if number % SAVE_EVERY == 0:
            save(start + len(pixels))
    save(len(images))
    progress.unlink()


def _images_done(progress: Path, state: dict[str, Any]) -> int:
    """Return how many images an earlier process has encoded and written to the disk."""
    try:
        found = json.loads(progress.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    same = {key: found.get(key) for key in state} == state
    return int(found["done"]) if same else 0


def _array(path: Path, dtype: Any, shape: tuple[int, ...], *, fresh: bool) -> np.memmap[Any, Any]:
    """Open an array on disk; a fresh one reserves its room, so that it cannot run out later."""
    if not fresh:
        return np.lib.format.open_memmap(path, "r+")
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                path.unlink()
                raise DiskFullError(
                    f"{path} cannot be written ({error.strerror}); free some space, choose another "
                    "--cache, or use --no-patches."
                ) from error
    return array


@torch.no_grad()
def encode_pixels(
    backbone: Backbone, pixels: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Return ``v`` (b, D) and ``P`` (b, N, d_v) of preprocessed images (b, 3, H, W)."""
    # bf16 is four times as fast here, and its rounding is too small to matter to training
    with torch.autocast(backbone.device.type, torch.bfloat16):
        v, p = backbone.encode_image(torch.from_numpy(pixels).to(backbone.device))
    return v.float().cpu().numpy(), p.float().cpu().numpy().astype(np.float16)


def encode_images(
    backbone: Backbone, images: Iterable[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Return ``v`` and ``P`` of one or more preprocessed images, each (1, 3, H, W)."""
    remaining, parts = iter(images), []
    while batch := list(itertools.islice(remaining, BATCH)):
        parts.append(encode_pixels(backbone, np.concatenate(batch)))
    v, p = (np.concatenate(each) for each in zip(*parts, strict=True))
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


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _fingerprint(backbone: Backbone, images: Sequence[TrainingImage]) -> str:
    """Return 16 hex digits of all that image features depend on: weights, preprocessing, images."""
    digest = hashlib.sha256()
    hash_tensors(digest, backbone.clip.visual.state_dict().items())
    digest.update(json.dumps(backbone.preprocess_cfg, sort_keys=True).encode())
    for image in images:
        digest.update(f"{image.item.id} {image.checksum}\n".encode())
    return digest.hexdigest()[:16]
