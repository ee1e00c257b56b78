"""Frozen features, computed once: both stages leave the image encoder and the text encoder alone.

Pooled embeddings are always kept on disk. Patch features are larger by the number of patches, so
they are kept where the disk has room for them, and computed again for each batch where it has not.
A killed computation goes on where it was.
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
from tqdm import tqdm

from train.data.image import TrainingImage
from train.model.backbone import Backbone
from train.model.checkpoint import hash_tensors
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import open_whole, write_whole
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.cores import available_cores

__all__ = [
    "DiskFullError",
    "ImageFeatures",
    "LivePatches",
    "ahead",
    "encode_each",
    "image_features",
    "text_features",
]

BATCH = 128  # images a forward pass
SAVE_EVERY = 50  # forward passes between notes of how far a computation is
SPARE = 0.1  # share of the free disk that is left to checkpoints and logs


class DiskFullError(ZtcirError):
    """The disk has no room for the features."""


class LivePatches:
    """Patch features computed when they are asked for, equal to kept ones.

    Pictures that were announced are decoded in threads meanwhile; the others when they are asked
    for, side by side.

    Args:
        backbone: computes them. images: of the collection.
    """

    def __init__(self, backbone: Backbone, images: Sequence[TrainingImage]) -> None:
        self.backbone, self.images = backbone, images
        self._preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
        self._pool: ThreadPoolExecutor | None = None
        self._now: dict[int, Future[NDArray[np.float32]]] = {}
        self._next: dict[int, Future[NDArray[np.float32]]] = {}

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Begin to decode what is asked for after what was announced before.

        Two announcements are held in memory, as pixels: the one in use, and the next.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(available_cores())
        self._now, before = self._next, self._next
        self._next = {
            row: before.get(row) or self._pool.submit(self._pixels, row)
            for row in dict.fromkeys(positions.tolist())
        }

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """``P`` (b, N, d_v) of some images."""
        announced = {**self._next, **self._now}
        prepared = ahead(
            lambda row: announced[row].result() if row in announced else self._pixels(row),
            positions.tolist(),
        )
        return encode_each(self.backbone, prepared)[1]

    def _pixels(self, row: int) -> NDArray[np.float32]:
        return self._preprocess([self.images[row].load()])


@dataclass(frozen=True)
class ImageFeatures:
    """What the frozen image encoder says of a collection.

    Attributes:
        ids: item ids, in the order of the rows.
        embeds: ``v`` (M, D) float32, L2-normalised.
        patches: ``P`` (M, N, d_v) float16, on disk; ``None`` where they are not kept.
        live: computes ``P`` of some rows where they are not kept.
        source: where they are kept; for ``run.json``.
    """

    ids: tuple[str, ...]
    embeds: NDArray[np.float32]
    patches: NDArray[np.float16] | None
    live: LivePatches | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def embeddings(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """``v`` of some rows, (b, D) float32."""
        return torch.from_numpy(self.embeds[positions])

    def announce(self, positions: NDArray[np.int64]) -> None:
        """Say which rows come next; where patches are not kept, their pictures are decoded."""
        if self.live is not None:
            self.live.announce(positions)

    def rows(self, positions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """``v`` and ``P`` of some rows, as float32 tensors."""
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
    """Encode a collection, or read what an earlier run over the same images and weights left.

    Args:
        backbone: with its image encoder frozen.
        images: the collection.
        cache: folder; its features are used again only for the same weights, and the same
            pictures under the same names.
        batch: images a forward pass.
        patches: whether patch features are kept on disk; ``None``: where they fit.

    Raises:
        DiskFullError: there is no room for what has to be kept.
    """
    ids = tuple(image.item.id for image in images)
    folder = cache / _fingerprint(backbone, images)
    folder.mkdir(parents=True, exist_ok=True)
    whole, pooled = folder / "complete.json", folder / "pooled.json"
    with FileLock(folder / "lock"):
        if not whole.is_file() and (patches is not False or not pooled.is_file()):
            kept = _keeps_patches(backbone, len(ids), folder, patches)
            if kept or not pooled.is_file():
                pooled.unlink(missing_ok=True)  # for they are written again, from the start
                _compute(backbone, images, folder, batch, with_patches=kept)
                write_whole(whole if kept else pooled, json.dumps({"images": len(ids)}))
    embeds = np.load(folder / "embeds.npy")
    if whole.is_file() and patches is not False:
        stored = np.load(folder / "patches.npy", mmap_mode="r")
        source = {"key": folder.name, "patches": "kept", "patch_bytes": stored.nbytes}
        return ImageFeatures(ids, embeds, stored, source=source)
    live = LivePatches(backbone, images)
    return ImageFeatures(ids, embeds, None, live, {"key": folder.name, "patches": "live"})


def text_features(
    backbone: Backbone, texts: Sequence[str], cache: Path, encode: Callable[[], torch.Tensor]
) -> NDArray[np.float32]:
    """Frozen embeddings (M, D) of texts, computed or read from an earlier run's.

    Args:
        backbone: whose text tower they are of.
        texts: in the order of the rows.
        cache: folder.
        encode: computes them.

    Raises:
        DiskFullError: there is no room for them.
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
                f"{path} cannot be written ({error.strerror or error}); free some space, or name "
                "another --cache."
            ) from error
    found: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return found


def _keeps_patches(backbone: Backbone, count: int, folder: Path, wanted: bool | None) -> bool:
    """Measure what the patch features need and what the disk has."""
    if wanted is False:
        return False
    needed = count * backbone.num_patches * backbone.patch_dim * 2
    begun = folder / "patches.npy"
    free = shutil.disk_usage(folder).free + (begun.stat().st_size if begun.is_file() else 0)
    fits = needed <= (1 - SPARE) * free
    if wanted and not fits:
        raise DiskFullError(
            f"The patch features need {_size(needed)}, but {_size(free)} are free at {folder}; "
            "free some, name another --cache, or take --no-patches."
        )
    doing = "kept" if fits else "computed again for each batch"
    print(
        f"Patch features of {count} images need {_size(needed)}, {_size(free)} are free: {doing}.",
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
    """Fill ``embeds.npy`` and ``patches.npy``, from where an earlier process was killed."""
    progress = folder / "progress.json"
    state = {"batch": batch, "patches": with_patches}
    done = _done(progress, state)
    shapes = {"embeds": (np.float32, (len(images), backbone.embed_dim))}
    if with_patches:
        size = (len(images), backbone.num_patches, backbone.patch_dim)
        shapes["patches"] = (np.float16, size)  # type: ignore[assignment]
    arrays = {
        name: _array(folder / f"{name}.npy", dtype, shape, fresh=done == 0)
        for name, (dtype, shape) in shapes.items()
    }

    def note(count: int) -> None:
        for array in arrays.values():
            array.flush()
        write_whole(progress, json.dumps({**state, "done": count}))

    starts = range(done, len(images), batch)
    chunks = [images[start : start + batch] for start in starts]
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    prepared = ahead(lambda chunk: preprocess([image.load() for image in chunk]), chunks)
    bar = tqdm(starts, desc="image features", file=sys.stderr)
    for number, (start, pixels) in enumerate(zip(bar, prepared, strict=True), start=1):
        found = dict(zip(("embeds", "patches"), encode_pixels(backbone, pixels), strict=True))
        for name, array in arrays.items():
            array[start : start + len(pixels)] = found[name]
        if number % SAVE_EVERY == 0:
            note(start + len(pixels))
    note(len(images))
    progress.unlink()


def _done(progress: Path, state: dict[str, Any]) -> int:
    """How many images an earlier process has encoded and brought to the disk."""
    try:
        found = json.loads(progress.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    same = {key: found.get(key) for key in state} == state
    return int(found["done"]) if same else 0


def _array(path: Path, dtype: Any, shape: tuple[int, ...], *, fresh: bool) -> np.memmap[Any, Any]:
    """A file of the whole size: room is reserved, since a full disk would end the process later."""
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
                    f"{path} cannot be written ({error.strerror}); free some space, name another "
                    "--cache, or take --no-patches."
                ) from error
    return array


@torch.no_grad()
def encode_pixels(
    backbone: Backbone, pixels: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """``v`` (b, D) and ``P`` (b, N, d_v) of preprocessed images, by the frozen image encoder."""
    # half precision is four times as fast here, and far below what training can tell
    with torch.autocast(backbone.device.type, torch.bfloat16):
        v, p = backbone.encode_image(torch.from_numpy(pixels).to(backbone.device))
    return v.float().cpu().numpy(), p.float().cpu().numpy().astype(np.float16)


def encode_each(
    backbone: Backbone, pictures: Iterable[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """``v`` and ``P`` of preprocessed images that come one by one, (1, 3, H, W); one or more."""
    coming, parts = iter(pictures), []
    while some := list(itertools.islice(coming, BATCH)):
        parts.append(encode_pixels(backbone, np.concatenate(some)))
    v, p = (np.concatenate(each) for each in zip(*parts, strict=True))
    return v, p


def ahead(
    prepare: Callable[[Any], Any],
    chunks: Iterable[Any],
    count: int | None = None,
    *,
    threads: int | None = None,
) -> Generator[Any]:
    """Prepare chunks in threads while earlier ones are in use, in order.

    Args:
        prepare: what is done to each. chunks: taken one by one, in the caller's thread.
        count: chunks that are begun before they are asked for; as many as threads by default.
        threads: as many as cores by default.
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
        pool.shutdown(cancel_futures=True)  # what nobody will ask for any more


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _fingerprint(backbone: Backbone, images: Sequence[TrainingImage]) -> str:
    """What image features depend on: weights, preprocessing, pictures; 16 hex digits."""
    digest = hashlib.sha256()
    hash_tensors(digest, backbone.clip.visual.state_dict().items())
    digest.update(json.dumps(backbone.preprocess_cfg, sort_keys=True).encode())
    for image in images:
        digest.update(f"{image.item.id} {image.checksum}\n".encode())
    return digest.hexdigest()[:16]
