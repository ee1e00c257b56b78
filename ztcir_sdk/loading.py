"""Images of a collection, read and decoded ahead in threads.

Read-ahead is limited in bytes and pixels, so memory does not grow with the collection.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import ImageError
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.sources import Source, SourceFile, SourceReader, list_images
from ztcir_sdk.sources.metadata import parse_metadata

__all__ = [
    "PIXELS_AHEAD",
    "DecodingPipeline",
    "GalleryImage",
    "LoadedFile",
    "decoded",
    "iter_images",
    "pixel_count",
]

Prepared = TypeVar("Prepared", bound="Image.Image | NDArray[np.uint8]")
"""What a file is decoded to."""

PIXELS_AHEAD = 64_000_000
"""Decoded pixels that may wait to be used (192 MB), beside one image for each thread."""
FILES_AHEAD = 64
"""Files that may wait to be decoded,"""
BYTES_AHEAD = 64_000_000
"""and their bytes."""


@dataclass(frozen=True)
class GalleryImage:
    """An image of a source, decoded; or the reason why it could not be."""

    key: str
    """Name without folder and suffix; in an archive, the webdataset key."""
    path: str
    """Relative to the source's root; ``shard.tar/key.jpg`` in an archive."""
    content_hash: str
    """SHA-256 (hex) of the file's bytes; empty if it cannot be read."""
    metadata: Mapping[str, Any] | None
    """JSON object beside the image in its archive, if there is one."""
    image: Image.Image | None
    """Upright RGB; None if it cannot be decoded."""
    error: str | None
    """A sentence about what is wrong with the image or its metadata."""


def iter_images(
    source: Source, *, workers: int | None = None, upright: bool = True
) -> Iterator[GalleryImage]:
    """Decode every image of a source, in the order of `list_images`, some ahead in threads.

    An unusable file is yielded too, with a sentence in place of its image. For `upright` see
    `load_image`.

    Raises:
        ZtcirError: a file or folder of `source` does not exist.
    """
    listing = list_images(source)
    for path, sentence in listing.failed:
        yield GalleryImage(Path(path).stem, path, "", None, None, sentence)
    decode = decoded if upright else _decoded_as_stored
    with DecodingPipeline(workers) as pipeline:
        for loaded, image in pipeline.decode(pipeline.load(listing.files), decode):
            file, content_hash, metadata = loaded.file, loaded.content_hash, loaded.metadata
            if isinstance(image, ImageError):
                yield GalleryImage(file.key, file.path, content_hash, metadata, None, str(image))
            else:
                pixels = image.width * image.height  # the caller may resize it
                yield GalleryImage(
                    file.key, file.path, content_hash, metadata, image, loaded.metadata_error
                )
                pipeline.release(pixels)


@dataclass
class LoadedFile:
    """A file that was read, or could not be."""

    file: SourceFile
    data: bytes = b""
    content_hash: str = ""
    metadata: Mapping[str, Any] | None = None
    unreadable: ImageError | None = None
    metadata_error: str | None = None


class DecodingPipeline:
    """Reads and decodes files ahead in threads; results come in order."""

    def __init__(self, workers: int | None) -> None:
        """Use `workers` threads for each of the two; by default one a core, at most 8."""
        workers = workers or min(8, available_cores())
        self._reader = SourceReader()
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="ztcir-read")
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="ztcir-decode")
        # Decoding waits here while too many pixels are in memory, except for the next result.
        self._gate = threading.Condition()
        self._pixels = 0
        self._next = -1
        self._closed = False

    def __enter__(self) -> DecodingPipeline:
        """Start; the threads end with the ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is not done yet, and close the files."""
        with self._gate:
            self._closed = True
            self._gate.notify_all()
        self._readers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)
        self._reader.close()

    def load(self, files: Iterable[SourceFile]) -> Iterator[LoadedFile]:
        """Read and hash files."""

        def submit(file: SourceFile) -> Future[LoadedFile]:
            if file.sequential:  # in this thread, so in order
                loaded = self._read(file)
                return self._readers.submit(_hashed, loaded)
            return self._readers.submit(lambda: _hashed(self._read(file)))

        ahead: deque[tuple[int, Future[LoadedFile]]] = deque()
        for file in files:
            ahead.append((file.size, submit(file)))
            while len(ahead) >= FILES_AHEAD or sum(size for size, _ in ahead) >= BYTES_AHEAD:
                yield ahead.popleft()[1].result()
        while ahead:
            yield ahead.popleft()[1].result()

    def decode(
        self, loaded: Iterable[LoadedFile], prepare: Callable[[bytes, str], Prepared]
    ) -> Iterator[tuple[LoadedFile, Prepared | ImageError]]:
        """Decode files; the caller must `release` the pixels of each image that it has used.

        Args:
            loaded: the files.
            prepare: what decodes the content of a file of a name, in a thread, and raises
                `ImageError`; see `decoded`.
        """
        ahead: deque[tuple[int, LoadedFile, Future[Prepared | ImageError]]] = deque()

        def next_result() -> tuple[LoadedFile, Prepared | ImageError]:
            number, one, future = ahead.popleft()
            with self._gate:
                self._next = number
                self._gate.notify_all()
            return one, future.result()

        for number, one in enumerate(loaded):
            future = self._decoders.submit(self._decode, number, one, prepare)
            ahead.append((number, one, future))
            while (
                len(ahead) >= FILES_AHEAD
                or sum(one.file.size for _, one, _ in ahead) >= BYTES_AHEAD
            ):
                yield next_result()
        while ahead:
            yield next_result()

    def release(self, pixels: int) -> None:
        """Count the pixels of an image as free, so that others may be decoded."""
        with self._gate:
            self._pixels -= pixels
            self._gate.notify_all()

    def _read(self, file: SourceFile) -> LoadedFile:
        loaded = LoadedFile(file)
        try:
            loaded.data = self._reader.read(file)
        except ImageError as error:
            loaded.unreadable = error
            return loaded
        try:
            text = self._reader.read_metadata(file)
            if text is not None:
                loaded.metadata = parse_metadata(text)
        except ImageError as error:
            loaded.metadata_error = str(error)
        except ValueError as error:
            loaded.metadata_error = (
                f"The metadata of {file.path} is ignored: it is not a JSON object ({error})."
            )
        return loaded

    def _decode(
        self, number: int, loaded: LoadedFile, prepare: Callable[[bytes, str], Prepared]
    ) -> Prepared | ImageError:
        if loaded.unreadable is not None:
            return loaded.unreadable
        with self._gate:
            self._gate.wait_for(
                lambda: self._closed or self._pixels < PIXELS_AHEAD or number <= self._next
            )
        try:
            image = prepare(loaded.data, loaded.file.path)
        except ImageError as error:
            return error
        finally:
            loaded.data = b""
        with self._gate:
            self._pixels += pixel_count(image)
        return image


def _hashed(loaded: LoadedFile) -> LoadedFile:
    if loaded.unreadable is None:
        loaded.content_hash = hashlib.sha256(loaded.data).hexdigest()
    return loaded


def decoded(data: bytes, name: str) -> Image.Image:
    """Decode a whole image file; see `load_image`."""
    return load_image(data, name=name)


def _decoded_as_stored(data: bytes, name: str) -> Image.Image:
    return load_image(data, name=name, upright=False)


def pixel_count(image: Image.Image | NDArray[np.uint8]) -> int:
    """Return the pixels of an image, or of its RGB levels (H, W, 3)."""
    if isinstance(image, Image.Image):
        return image.width * image.height
    return image.size // 3
