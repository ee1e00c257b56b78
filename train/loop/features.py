"""Cached features of the frozen image and text encoders, which both stages share.

Pooled embeddings are always cached on disk. Patch features need as many times more room as there
are patches: they are cached where the disk has room, and computed again for each batch otherwise.
Processes divide the encoding, and each maps what is on the disk. A killed computation resumes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from train.data import TrainingImage
from train.loop.distributed import Workers
from train.loop.feature_store import Arrays, Chunk, DiskFullError, FeatureStore, Layout, quantise
from train.loop.patches import KeptPatches, LivePatches, encode_pixels, prefetch
from train.loop.sizes import sizes_for
from train.model import Backbone, hash_tensors
from train.progress import progress_bar
from train.settings import StageSettings
from ztcir_sdk.files import write_whole
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["DiskFullError", "ImageFeatures", "image_features", "text_features"]

SPARE = 0.1  # share of the free disk space that is left to checkpoints and logs
EMBEDS, COMPLETE, POOLED = "embeds.npy", "complete.json", "pooled.json"


@dataclass(frozen=True)
class ImageFeatures:
    """The frozen image encoder's features of a collection.

    Attributes:
        ids: item ids, in the order of the rows.
        embeds: ``v`` (M, D) float32, L2-normalised; mapped, so that processes share its memory.
        patches: ``P`` (M, N, d_v), on disk; ``None`` if they are not cached.
        live: computes ``P`` if they are not cached.
        source: key and kind of the cached features, for ``run.json``.
        device: where `rows` returns them.
    """

    ids: tuple[str, ...]
    embeds: NDArray[np.float32]
    patches: KeptPatches | None
    live: LivePatches | None = None
    source: dict[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def embeddings(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """Return ``v`` (b, D) float32 of some rows (b,), in main memory."""
        return torch.from_numpy(self.embeds[positions])

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Name the rows that are needed next: they are read, or their images decoded, meanwhile."""
        source = self.live if self.patches is None else self.patches
        if source is not None:
            source.announce(positions)

    def rows(self, positions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``v`` (b, D) and ``P`` (b, N, d_v) of some rows (b,), as float32 on the device.

        Until they are there, ``P`` is in half precision.
        """
        source = self.live if self.patches is None else self.patches
        assert source is not None
        return self.embeddings(positions).to(self.device), source(positions).float()


def image_features(
    backbone: Backbone,
    images: Sequence[TrainingImage],
    cache: Path,
    *,
    batch: int | None = None,
    patches: bool | None = None,
    storage: str = StageSettings.patch_storage,
    workers: Workers | None = None,
) -> ImageFeatures:
    """Encode a collection, or read the features that an earlier run has cached.

    Args:
        backbone: its image encoder is frozen.
        images: the collection.
        cache: folder; its features are reused only for the same weights and the same images under
            the same ids.
        batch: images per forward pass; ``None``: what the device takes.
        patches: cache patch features; ``None``: where the disk has room.
        storage: type of cached patch features, "fp16" or "int8".
        workers: the processes that divide the encoding; all of them must call this.

    Raises:
        DiskFullError: the disk has no room for the features.
    """
    ids = tuple(image.item.id for image in images)
    folder = cache / _fingerprint(backbone, images, storage)
    folder.mkdir(parents=True, exist_ok=True)
    batch = batch or sizes_for(backbone.device).images
    size = (backbone.num_patches, backbone.patch_dim)
    pooled = Layout(len(ids), batch, backbone.embed_dim)
    whole = Layout(len(ids), batch, backbone.embed_dim, size, storage)

    def plan() -> bool | None:
        """Reserve the shards that are to be filled; return whether with patches; None: none are."""
        with FileLock(folder / "lock"):
            if (folder / COMPLETE).is_file():
                return None
            if patches is False and (folder / POOLED).is_file():
                return None
            store = FeatureStore(folder, whole)
            with_patches = _caches_patches(store, patches)
            if not with_patches and (folder / POOLED).is_file():
                return None
            (store if with_patches else FeatureStore(folder, pooled)).reserve()
            return with_patches

    with_patches = plan() if workers is None else workers.from_main(plan)
    if with_patches is not None:
        store = FeatureStore(folder, whole if with_patches else pooled)
        _fill(store, backbone, images, workers)
        if workers is not None:
            workers.wait()  # what is joined and removed now, no process reads any more
        if workers is None or workers.is_main:
            _complete(store, folder)
        if workers is not None:
            workers.wait()
    embeds = np.load(folder / EMBEDS, mmap_mode="c")  # PyTorch wants arrays that may be written
    source: dict[str, Any] = {"key": folder.name}
    if (folder / COMPLETE).is_file() and patches is not False:
        stored = _kept_patches(folder, backbone.device)
        source |= {"patches": "kept", "patch_bytes": stored.nbytes}
        return ImageFeatures(ids, embeds, stored, None, source, backbone.device)
    live = LivePatches(backbone, images)
    return ImageFeatures(
        ids, embeds, None, live, {**source, "patches": "live"}, device=backbone.device
    )


def _kept_patches(folder: Path, device: torch.device) -> KeptPatches:
    """Open the patch features of a folder whose encoding is complete."""
    layout = json.loads((folder / COMPLETE).read_text(encoding="utf-8")).get("layout")
    if layout is None:  # one file, as older versions wrote
        return KeptPatches(folder / "patches.npy", device)
    layout = Layout(**{**layout, "patches": tuple(layout["patches"])})
    return KeptPatches(FeatureStore(folder, layout), device)


def _complete(store: FeatureStore, folder: Path) -> None:
    """Join the embeddings, and mark the collection as encoded."""
    with FileLock(folder / "lock"):
        with_patches = store.layout.patches is not None
        marker = folder / (COMPLETE if with_patches else POOLED)
        if marker.is_file():  # another run has done it
            return
        if not (folder / EMBEDS).is_file() or not (folder / POOLED).is_file():
            store.join_embeds(folder / EMBEDS)
        record = {"images": store.layout.images}
        layout = {"layout": vars(store.layout)} if with_patches else {}
        write_whole(marker, json.dumps({**record, **layout}))
        store.clean()
        for old in ("progress.json", "patches.npy"):  # left by an older version that was killed
            (folder / old).unlink(missing_ok=True)


def text_features(
    backbone: Backbone,
    texts: Sequence[str],
    cache: Path,
    encode: Callable[[Sequence[str]], torch.Tensor],
    *,
    workers: Workers | None = None,
) -> NDArray[np.float32]:
    """Return the frozen embeddings (M, D) of texts, computed or cached by an earlier run.

    Args:
        backbone: its text tower computes them, by ``encode``.
        texts: in the order of the rows; at least one.
        cache: folder.
        encode: encodes some of the texts, as (m, D).
        workers: the processes that divide the encoding; all of them must call this.

    Raises:
        DiskFullError: the disk has no room for them.
    """
    digest = hashlib.sha256()
    state = backbone.clip.state_dict().items()
    hash_tensors(digest, (entry for entry in state if not entry[0].startswith("visual.")))
    digest.update(json.dumps([repr(backbone.tower), list(texts)]).encode())
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"texts-{digest.hexdigest()[:16]}.npy"
    batch = sizes_for(backbone.device).texts
    store = FeatureStore(path.with_suffix(""), Layout(len(texts), batch, backbone.embed_dim))

    def missing() -> bool:
        if path.is_file():
            return False
        store.reserve()
        return True

    if missing() if workers is None else workers.from_main(missing):
        rank, count = (0, 1) if workers is None else (workers.rank, workers.count)

        def encode_chunks(chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Arrays]]:
            for number, start in chunks:
                first = number * store.layout.shard + start
                some = texts[first : first + batch]
                yield (number, start), {"embeds": encode(some).float().cpu().numpy()}

        with progress_bar(
            total=len(texts) // count,
            what="text features",
            unit="text",
            leave=False,
            disable=True if rank else None,
        ) as bar:
            store.fill(encode_chunks, first=rank / count, filled=bar.update)
        if workers is not None:
            workers.wait()
        if rank == 0:
            with FileLock(path.with_suffix(".lock")):
                if not path.is_file():
                    store.join_embeds(path)
            shutil.rmtree(store.collection, ignore_errors=True)
        if workers is not None:
            workers.wait()
    found: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return found


def _caches_patches(store: FeatureStore, wanted: bool | None) -> bool:
    """Return whether to cache patch features: whether the disk has room for them.

    Raises:
        DiskFullError: they are wanted, but do not fit.
    """
    if wanted is False:
        return False
    needed = store.layout.patch_bytes
    free = (
        shutil.disk_usage(store.collection).free + store.reserved
    )  # reserved by a killed computation
    fits = needed <= (1 - SPARE) * free
    if wanted and not fits:
        raise DiskFullError(
            f"The patch features need {_size(needed)}, but {_size(free)} are free in "
            f"{store.collection}; free some space, choose another --cache, pool them with "
            "--patches 8x8:int8, or use --no-patches."
        )
    print(
        f"The patch features of {store.layout.images} images need {_size(needed)}, and "
        f"{_size(free)} are free: they are "
        f"{'cached' if fits else 'computed again for each batch'}.",
        file=sys.stderr,
    )
    return fits


def _fill(
    store: FeatureStore,
    backbone: Backbone,
    images: Sequence[TrainingImage],
    workers: Workers | None,
) -> None:
    """Encode the shards that no other process encodes, until all are filled."""
    layout = store.layout
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    rank, count = (0, 1) if workers is None else (workers.rank, workers.count)
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine
    threads = max(1, available_cores() // together)

    def prepare(chunk: Chunk) -> tuple[Chunk, NDArray[np.float32]]:
        number, start = chunk
        end = min(start + layout.batch, layout.size(number))
        first = number * layout.shard
        return chunk, preprocess([image.load() for image in images[first + start : first + end]])

    def encode(chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Arrays]]:
        for chunk, pixels in prefetch(prepare, chunks, threads=threads):
            v, p = encode_pixels(backbone, pixels)
            found: Arrays = {"embeds": v.cpu().numpy()}
            if layout.patches is not None:
                found["patches"] = p.cpu().numpy()
                if layout.storage == "int8":
                    found["patches"], found["scales"] = quantise(found["patches"])
            yield chunk, found

    what = "image features" if count == 1 else f"image features, process 0 of {count}"
    with progress_bar(
        total=layout.images // count, what=what, unit="image", disable=True if rank else None
    ) as bar:
        store.fill(encode, first=rank / count, filled=bar.update)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _fingerprint(backbone: Backbone, images: Sequence[TrainingImage], storage: str) -> str:
    """Return 16 hex digits of all that image features depend on: weights, preprocessing, images."""
    digest = hashlib.sha256()
    hash_tensors(digest, backbone.clip.visual.state_dict().items())
    digest.update(json.dumps(backbone.preprocess_cfg, sort_keys=True).encode())
    for image in images:
        digest.update(f"{image.item.id} {image.checksum}\n".encode())
    if backbone.patch_grid is not None:
        digest.update(f"pooled {backbone.patch_grid}".encode())
    if storage != StageSettings.patch_storage:
        digest.update(storage.encode())
    return digest.hexdigest()[:16]
