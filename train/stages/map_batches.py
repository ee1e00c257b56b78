"""The batches of Stage I: from a list of images with cached features, or from a stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Batches, DataError, ShardStream, TrainingImage, endless, shards_fingerprint
from train.loop.engine import Engine
from train.loop.features import ImageFeatures
from train.loop.patches import encode_images, prefetch
from train.loop.record import data_fingerprint
from train.model import Backbone
from train.settings import evaluation_interval
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["Captions", "ListedBatches", "MapBatch", "StreamedBatches", "is_captioned"]

Encode = Callable[[Tensor, Tensor, NDArray[np.int64]], Tensor]
"""Computes ``f_t("a photo of $")`` (b, D) from images' ``v`` (b, D) and ``P`` (b, N, d_v).

It is also given their numbers (b,), and may return further columns for other losses.
"""


@dataclass(frozen=True)
class MapBatch:
    """The images of one step. Every process holds the features of its share, and ``v`` of all.

    Attributes:
        encode: returns the queries (B, D) of the whole batch, with gradients.
        embeds: ``v`` (B, D) float32, on the engine's device.
        captioned: (B,) bool, which images have a caption.
        captions: (K, D) embeddings of the captions, in order, on the engine's device.
        rows: (B,) numbers of the images; of a stream, places in the batch.
    """

    encode: Callable[[Encode], Tensor]
    embeds: Tensor
    captioned: NDArray[np.bool_]
    captions: Tensor
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Captions:
    """The embedded captions of a list of images.

    Attributes:
        embeds: (K, D), one row per caption, in the images' order.
        captioned: (M,) bool, which images have a caption.
    """

    embeds: NDArray[np.float32]
    captioned: NDArray[np.bool_]

    def rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Tensor]:
        """Return which of some images (B,) have a caption, and the captions' embeddings (K, D)."""
        captioned = self.captioned[rows]
        return captioned, torch.from_numpy(self.embeds[self._row_of[rows[captioned]]])

    @cached_property
    def _row_of(self) -> NDArray[np.int64]:
        """The row of ``embeds`` for each captioned image."""
        return np.cumsum(self.captioned) - 1


class ListedBatches:
    """Batches of a list of images, whose features are cached or computed on demand.

    Args:
        engine: its processes share each batch.
        captions: captions of the images; ``None`` if they are not needed.
        order: the images of each step.
        steps: length of the run in place of ``epochs``, if not ``None``.

    Attributes:
        samples: images per step, over all processes.
        total: steps of the run.
        evaluate_every: steps between evaluations.
        needs_words: captions are needed, and some images have none.
        description: the training data, for the run's configuration.
        fingerprint: the training data, for ``run.json``.
    """

    def __init__(
        self,
        engine: Engine,
        images: Sequence[TrainingImage],
        features: ImageFeatures,
        captions: Captions | None,
        order: Batches,
        *,
        epochs: int,
        steps: int | None,
    ) -> None:
        self.engine, self.features, self.captions, self.order = engine, features, captions, order
        self.samples = order.size
        self.total = epochs * order.per_epoch if steps is None else steps
        self.evaluate_every = 2 * order.per_epoch if steps is None else evaluation_interval(steps)
        self.needs_words = captions is not None and not captions.captioned.all()
        self.description: dict[str, Any] = {"images": len(images)}
        self.fingerprint = {**data_fingerprint(images), "features": features.source}

    def __getitem__(self, step: int) -> MapBatch:
        """Return the batch of a step."""
        engine, features = self.engine, self.features
        if step + 1 < self.total:
            features.announce(engine.workers.share(np.sort(self.order[step + 1])))
        rows = np.sort(self.order[step])
        if self.captions is None:
            captioned = np.zeros(len(rows), bool)
            captions = torch.empty(0, features.embeds.shape[1])
        else:
            captioned, captions = self.captions.rows(rows)

        def encode_batch(encode: Encode) -> Tensor:
            return engine.encode(lambda part: encode(*features.rows(part), part), rows)

        embeds = features.embeddings(rows).to(engine.device)
        return MapBatch(encode_batch, embeds, captioned, captions.to(engine.device), rows)


class StreamedBatches:
    """Batches of a stream; each process reads its own shards.

    Images are read in one thread and decoded in others, one batch ahead. Steps should be requested
    in order; to reach any other step, the stream is read up to it without decoding.

    Args:
        engine: its processes share each batch; its model is on the device of ``backbone``.
        size: images per step; rounded up to a multiple of the number of processes.
        lengths: folder where each process notes its number of images per epoch; see `endless`.
        embed: returns embeddings (K, D) of captions; ``None`` if captions are not needed.

    Attributes:
        samples, total, evaluate_every, needs_words, description, fingerprint: see `ListedBatches`.
    """

    def __init__(
        self,
        engine: Engine,
        backbone: Backbone,
        stream: ShardStream,
        size: int,
        *,
        steps: int,
        lengths: Path,
        embed: Callable[[Sequence[str]], Tensor] | None,
    ) -> None:
        workers = engine.workers
        if workers.count > len(stream.shards):
            raise DataError(
                f"{len(stream.shards)} shards are too few for {workers.count} processes, which "
                "share none; start fewer processes, or leave out --stream."
            )
        stream.rank, stream.world = workers.rank, workers.count
        self.engine, self.backbone, self.stream, self.embed = engine, backbone, stream, embed
        self.size = -(-size // workers.count)
        self.length = lengths / f"stream-{workers.rank}.txt"
        self.samples, self.total = self.size * workers.count, steps
        self.evaluate_every = evaluation_interval(steps)
        self.needs_words = embed is not None
        # the images of a batch depend on how the shards are shared out
        self.description: dict[str, Any] = {
            "shards": len(stream.shards),
            "processes": workers.count,
            "stream": {"seed": stream.seed, "buffer": stream.buffer},
        }
        self.fingerprint = shards_fingerprint(stream.shards)
        self._next = -1
        self._prepared: Generator[tuple[TrainingImage, NDArray[np.float32]]] | None = None

    def __getitem__(self, step: int) -> MapBatch:
        """Return the batch of a step."""
        engine = self.engine
        if self._prepared is None or step != self._next:
            self._prepared = self._read_from(step)
        drawn = list(islice(self._prepared, self.size))
        self._next = step + 1
        v, patches = encode_images(self.backbone, (pixels for _, pixels in drawn))
        captioned = torch.tensor([is_captioned(image) for image, _ in drawn])
        captions = torch.zeros_like(v)
        if self.embed is not None and captioned.any():
            texts = [image.item.caption for image, _ in drawn if is_captioned(image)]
            captions[captioned.to(v.device)] = self.embed(texts).to(v)
        # one gathering for all: embeddings, captions and whether there is one
        own = torch.cat([v, captions, captioned.to(v)[:, None]], dim=1)
        whole = engine.workers.gather(own, self.samples)
        width, all_captioned = v.shape[1], whole[:, -1] > 0

        def rows(part: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            return v[part], patches[part].float()

        def encode_batch(encode: Encode) -> Tensor:
            share = np.arange(self.size)
            return engine.encode_share(lambda part: encode(*rows(part), part), share, self.samples)

        return MapBatch(
            encode_batch,
            whole[:, :width],
            all_captioned.cpu().numpy(),
            whole[all_captioned, width:-1],
            np.arange(self.samples),
        )

    def _read_from(self, step: int) -> Generator[tuple[TrainingImage, NDArray[np.float32]]]:
        """Yield the images of this process and their pixels, from a step on."""
        if self._prepared is not None:
            self._prepared.close()
        preprocess = Preprocessing.from_open_clip(self.backbone.preprocess_cfg)

        def prepare(image: TrainingImage) -> tuple[TrainingImage, NDArray[np.float32]]:
            return image, preprocess([image.load()])

        images = endless(self.stream, step * self.size, self.length)
        read = prefetch(lambda _: next(images), count(), self.size, threads=1)
        return prefetch(prepare, read, self.size)


def is_captioned(image: TrainingImage) -> bool:
    """Return whether an image has a caption."""
    return bool(image.item.caption.strip())
