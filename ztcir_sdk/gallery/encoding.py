"""Loaded files -> vectors, in order: decoding and the graph run at the same time, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.errors import ImageError
from ztcir_sdk.loading import PIXELS_AHEAD, DecodingPipeline, LoadedFile, decoded, pixel_count

__all__ = ["BATCH", "BulkEncoder", "ImageEncoder", "encode_files"]

BATCH = 32
"""Images that an encoder without `bulk_images` gets at once, at most,"""
BATCH_PIXELS = PIXELS_AHEAD // 2
"""and their pixels."""


class ImageEncoder(Protocol):
    """Turns images into vectors; a `Retriever` is one."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        ...

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of image-tower weights and preprocessing."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the graph: "fp32", "fp16" or "int8"."""
        ...

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """Encode N upright RGB images: (N, D) float32, L2-normalised."""
        ...


class Bulk(Protocol):
    """Prepares images in many threads and encodes several batches at once."""

    callers: int
    """Number of batches to encode at the same time."""
    batch: int
    """Number of images of a batch."""

    def prepare(self, data: bytes, name: str) -> Any:
        """Decode a file's content to what `encode` takes, or raise `ImageError`."""
        ...

    def encode(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Encode N prepared images: (N, D) float32, L2-normalised."""
        ...


@runtime_checkable
class BulkEncoder(Protocol):
    """An `ImageEncoder` that can also do more at a time."""

    def bulk_images(self) -> AbstractContextManager[Bulk]:
        """Return what encodes a collection, released at the end of the ``with`` block."""
        ...


class _OneAtATime:
    """`Bulk` of an encoder that only has `encode_images`."""

    callers, batch = 1, BATCH

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encode: Callable[[Any], NDArray[np.float32]] = encoder.encode_images
        self.prepare = decoded


def encode_files(
    pipeline: DecodingPipeline, files: Iterable[LoadedFile], encoder: ImageEncoder
) -> Iterator[tuple[LoadedFile, NDArray[np.float32] | ImageError]]:
    """Yield each file with its vector (D,), or with what is wrong with it, in their order.

    Args:
        pipeline: reads and decodes.
        files: its loaded files.
        encoder: the encoder; several batches run at once if it is a `BulkEncoder`.
    """
    if not isinstance(encoder, BulkEncoder):
        yield from _encode(pipeline, files, _OneAtATime(encoder), encoder.dim, ahead=0)
        return
    with encoder.bulk_images() as bulk:
        # One batch more than run waits, so that no thread does.
        yield from _encode(pipeline, files, bulk, encoder.dim, ahead=bulk.callers + 1)


def _encode(
    pipeline: DecodingPipeline, files: Iterable[LoadedFile], bulk: Bulk, dim: int, *, ahead: int
) -> Iterator[tuple[LoadedFile, NDArray[np.float32] | ImageError]]:
    pool = ThreadPoolExecutor(bulk.callers, thread_name_prefix="ztcir-encode")
    running: deque[tuple[_Batch, Future[NDArray[np.float32]]]] = deque()
    batch = _Batch()
    try:
        for loaded, image in pipeline.decode(files, bulk.prepare):
            batch.add(loaded, image)
            if batch.is_full(bulk.batch):
                running.append((batch, pool.submit(batch.encode, bulk, dim)))
                batch = _Batch()
            while len(running) > ahead:
                yield from _results(*running.popleft(), pipeline, dim)
        if batch.files:
            running.append((batch, pool.submit(batch.encode, bulk, dim)))
        while running:
            yield from _results(*running.popleft(), pipeline, dim)
    finally:
        pool.shutdown(cancel_futures=True)


class _Batch:
    """Decoded files, and those between them that cannot be used."""

    def __init__(self) -> None:
        self.files: list[tuple[LoadedFile, ImageError | None]] = []
        self.images: list[Any] = []
        self._pixels = 0

    def add(self, loaded: LoadedFile, image: Any) -> None:
        failed = isinstance(image, ImageError)
        self.files.append((loaded, image if failed else None))
        if not failed:
            self.images.append(image)
            self._pixels += pixel_count(image)

    def encode(self, bulk: Bulk, dim: int) -> NDArray[np.float32]:
        """Return the vectors (N, D) of its images."""
        if not self.images:
            return np.empty((0, dim), dtype=np.float32)
        return bulk.encode(self.images)

    def is_full(self, most: int) -> bool:
        full = len(self.images) == most or self._pixels >= BATCH_PIXELS
        return full or len(self.files) >= 4 * most


def _results(
    batch: _Batch, future: Future[NDArray[np.float32]], pipeline: DecodingPipeline, dim: int
) -> Iterator[tuple[LoadedFile, NDArray[np.float32] | ImageError]]:
    vectors = future.result()
    if vectors.shape != (len(batch.images), dim):
        raise ValueError(f"the encoder gave {vectors.shape} for {len(batch.images)} images")
    rows = iter(range(len(batch.images)))
    for loaded, error in batch.files:
        if error is not None:
            yield loaded, error
            continue
        row = next(rows)
        pipeline.release(pixel_count(batch.images[row]))
        yield loaded, vectors[row]
