"""What was made of reference pictures, kept by the content of their files for the next question."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from ztcir_sdk.bundle.manifest import Manifest
from ztcir_sdk.encoder import EncodedImage
from ztcir_sdk.preprocess import ImageSource

__all__ = ["ReferenceCache", "read_content", "reference_bytes"]

READ_WHOLE = 1 << 28
"""Files up to this size, in bytes, are read into memory, hashed and decoded from there."""


class _NamedBytes(io.BytesIO):
    """A file's content, which messages call by the file's path."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def read_content(image: ImageSource) -> tuple[ImageSource, str | None]:
    """Return a picture to decode, and the SHA-256 (hex) of the very bytes that will be decoded.

    A file may change between two looks at it, so it is read once. There is no checksum of an array
    or a PIL image, of a file that is too large to hold, or of what cannot be read: what is wrong
    with that is said by whoever decodes it.
    """
    if isinstance(image, (np.ndarray, Image.Image)):
        return image, None
    if isinstance(image, (bytes, bytearray)):
        return image, hashlib.sha256(image).hexdigest()
    try:
        if isinstance(image, (str, os.PathLike)):
            path = Path(image)
            if path.stat().st_size > READ_WHOLE:
                return image, None
            content = path.read_bytes()
            image = _NamedBytes(content, os.fspath(path))
        else:
            image.seek(0)
            content = image.read()
        return image, hashlib.sha256(content).hexdigest()
    except (OSError, ValueError, TypeError, AttributeError):
        return image, None


def reference_bytes(manifest: Manifest) -> int:
    """Return the memory that one encoded picture takes at most, in bytes.

    That is its embedding, and where the bundle learns pseudo-words its patch features and what
    the token learner says of it, all float32.
    """
    sizes, numbers = manifest.dimensions, manifest.dimensions.embed
    if "token_learner" in manifest.graphs:
        numbers += sizes.patches * sizes.patch + manifest.placeholder.tokens * sizes.text
        numbers += 2 * sizes.vsi_layers * sizes.patches * sizes.vsi
    return 4 * numbers


class ReferenceCache:
    """Encoded pictures by the SHA-256 of their files; the one not used for longest goes first.

    Any number of threads may share one.

    Attributes:
        capacity: how many pictures it keeps.
    """

    def __init__(self, capacity: int) -> None:
        """Keep `capacity` pictures; 0 keeps none."""
        self.capacity = max(0, capacity)
        self._kept: OrderedDict[str, EncodedImage] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many pictures are kept now."""
        return len(self._kept)

    def get(self, content_hash: str) -> EncodedImage | None:
        """Return what is known of a picture; it counts as used."""
        with self._lock:
            if content_hash in self._kept:
                self._kept.move_to_end(content_hash)
            return self._kept.get(content_hash)

    def put(self, content_hash: str, encoded: EncodedImage) -> None:
        """Keep a picture, and let go of those beyond the capacity."""
        with self._lock:
            self._kept[content_hash] = encoded
            self._kept.move_to_end(content_hash)
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._kept.clear()
