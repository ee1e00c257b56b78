"""Encoded reference images, kept by the content of their files for the next query."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ztcir_sdk.bundle import Manifest
from ztcir_sdk.decoding import ImageSource, NamedBytes
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.files import hash_file, read_bounded
from ztcir_sdk.names import MAX_IMAGES, TOKEN_LEARNER
from ztcir_sdk.sources import container_of, read_image

__all__ = [
    "ReferenceCache",
    "encode_references",
    "file_hash",
    "read_content",
    "reference_bytes",
]

READ_WHOLE = 1 << 28
"""Files up to this size, in bytes, are read into memory, then hashed and decoded from there."""


def read_content(image: ImageSource) -> tuple[ImageSource, str | None]:
    """Return an image to decode, and the SHA-256 (hex) of the bytes that will be decoded.

    A file is read only once, since it may change between two reads. The hash is None for an array,
    a PIL image, a file too large for memory, and an unreadable file, whose error comes when it is
    decoded.

    Raises:
        ImageError: the path leads into an archive or a video that does not have the image.
    """
    if isinstance(image, (np.ndarray, Image.Image)):
        return image, None
    try:
        if isinstance(image, (bytes, bytearray)):
            content = bytes(image)
        elif isinstance(image, (str, os.PathLike)):
            path = Path(image)
            container = container_of(path)
            if container is not None:
                folder = container.parent
                content = image = read_image(folder, str(path.relative_to(folder)))
            elif path.stat().st_size > READ_WHOLE:
                return image, None
            else:
                content = read_bounded(path, READ_WHOLE)
                image = NamedBytes(content, os.fspath(path))
        else:
            image.seek(0)
            content = image.read()
        return image, hashlib.sha256(content).hexdigest()
    except (OSError, ValueError, TypeError, AttributeError):
        return image, None


def file_hash(image: ImageSource) -> str | None:
    """Return the SHA-256 (hex) of a file that `read_content` found too large; else None."""
    return hash_file(Path(image)) if isinstance(image, (str, os.PathLike)) else None


def reference_bytes(manifest: Manifest) -> int:
    """Return the most memory that one encoded image takes, in bytes.

    It holds the embedding and, in a bundle with a token learner, the patch features and the token
    learner's outputs, all float32.
    """
    sizes, numbers = manifest.dimensions, manifest.dimensions.embed
    if TOKEN_LEARNER in manifest.graphs:
        numbers += sizes.patches * sizes.patch + manifest.placeholder.tokens * sizes.text
        numbers += 2 * sizes.vsi_layers * sizes.patches * sizes.vsi
    return 4 * numbers


class ReferenceCache:
    """Encoded images by the SHA-256 of their files; the least recently used one is dropped first.

    Threads may share one.

    Attributes:
        capacity: the most images that it keeps.
    """

    def __init__(self, capacity: int) -> None:
        """Keep at most `capacity` images; 0 keeps none."""
        self.capacity = max(0, capacity)
        self._kept: OrderedDict[str, EncodedImage] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of images that are kept now."""
        return len(self._kept)

    def get(self, content_hash: str) -> EncodedImage | None:
        """Return an image's encoding, which counts as used; None if it is not kept."""
        with self._lock:
            if content_hash in self._kept:
                self._kept.move_to_end(content_hash)
            return self._kept.get(content_hash)

    def put(self, content_hash: str, encoded: EncodedImage) -> None:
        """Keep an image, and drop those beyond the capacity."""
        with self._lock:
            self._kept[content_hash] = encoded
            self._kept.move_to_end(content_hash)
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)


def encode_references(
    encoder: Encoder, cache: ReferenceCache, images: Sequence[ImageSource]
) -> list[tuple[EncodedImage, str | None]]:
    """Encode images that the cache does not have, and keep them there.

    Returns:
        Each image's encoding, and the SHA-256 (hex) of its file; None for an array or a PIL image.
    """
    found: list[tuple[EncodedImage, str | None]] = []
    for start in range(0, len(images), MAX_IMAGES):  # few files in memory at once
        found += _encode_some(encoder, cache, images[start : start + MAX_IMAGES])
    return found


def _encode_some(
    encoder: Encoder, cache: ReferenceCache, images: Sequence[ImageSource]
) -> list[tuple[EncodedImage, str | None]]:
    contents = [read_content(image) for image in images]
    known: dict[str | int, EncodedImage] = {}  # by content hash, else by position
    new: dict[str | int, ImageSource] = {}
    for position, (source, content_hash) in enumerate(contents):
        key = position if content_hash is None else content_hash
        cached = None if content_hash is None else cache.get(content_hash)
        if cached is not None:
            known[key] = cached
        else:
            new[key] = source
    fresh = encoder.encode_references(list(new.values())) if new else []
    for key, encoded in zip(new, fresh, strict=True):
        known[key] = encoded
        if isinstance(key, str):
            cache.put(key, encoded)
    return [
        (known[position], file_hash(source))
        if content_hash is None
        else (known[content_hash], content_hash)
        for position, (source, content_hash) in enumerate(contents)
    ]
