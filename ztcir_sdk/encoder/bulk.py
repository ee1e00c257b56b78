"""The images of a collection to vectors, several batches at a time.

On a processor every core runs the graph for a small batch of its own: nothing waits at the end of
each operator until the slowest thread is done, and the values of a small batch stay in the caches.
On a GPU one large batch runs at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.encoder.encoder import Encoder
from ztcir_sdk.names import IMAGE_ENCODER, MAX_IMAGES
from ztcir_sdk.runtime import Graph

__all__ = ["BulkImages", "bulk_images"]

MAX_CALLERS = 8
"""Batches that run at the same time on a processor, at most: each has its own memory."""
BATCH = 8
"""Images of a batch on a processor, at most; `MAX_IMAGES` of all batches together."""


class BulkImages:
    """Prepares and encodes the images of a collection; any thread may call it.

    Attributes:
        callers: number of threads that should call `encode` at the same time.
        batch: number of images that a call should have.
    """

    def __init__(self, encoder: Encoder, graph: Graph, callers: int, batch: int) -> None:
        self.callers = callers
        self.batch = batch
        self._encoder = encoder
        self._graph = graph
        self._preprocessing = encoder.bundle.manifest.preprocessing

    def prepare(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """Decode an image file and fit it to the model's input: RGB levels, (H, W, 3).

        Raises:
            ImageError: the image cannot be used.
        """
        return self._preprocessing.levels(data, name=name)

    def encode(self, prepared: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Encode N prepared images: (N, D) float32, L2-normalised.

        Raises:
            ZtcirError: the graph fails.
        """
        pixel_values = self._preprocessing.normalised(np.stack(prepared))
        return self._encoder.run_image_encoder(self._graph, pixel_values)


@contextmanager
def bulk_images(encoder: Encoder) -> Iterator[BulkImages]:
    """Load what encodes a collection; it is released at the end of the ``with`` block.

    Raises:
        MissingDependencyError: the backend is not installed.
        ZtcirError: the graph cannot be loaded on the device.
    """
    threads = encoder.settings.threads_in_use
    if encoder.device != "cpu" or threads == 1:
        graph = encoder.graph(IMAGE_ENCODER)
        limit = graph.limits.get("R", MAX_IMAGES)
        batch = BATCH if encoder.device == "cpu" else MAX_IMAGES
        yield BulkImages(encoder, graph, 1, min(batch, limit))
        return
    callers = min(threads, MAX_CALLERS)
    graph = encoder.open_graph(IMAGE_ENCODER, threads=threads // callers)
    yield BulkImages(encoder, graph, callers, min(BATCH, MAX_IMAGES // callers))
