"""What Stage I sees in a step: from a list of images with kept features, or from a stream."""

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

from train.data.batches import Batches
from train.data.image import TrainingImage
from train.data.item import DataError
from train.data.stream import ShardStream, endless, shards_fingerprint
from train.loop.engine import Engine
from train.loop.features import ImageFeatures, ahead, encode_each
from train.loop.record import data_fingerprint
from train.model.backbone import Backbone
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["Captions", "ListedBatches", "MapBatch", "StreamedBatches", "is_captioned"]

Encode = Callable[[Tensor, Tensor], Tensor]
"""``f_t("a photo of $")`` (b, D) of some images' ``v`` (b, D) and ``P`` (b, N, d_v)."""


@dataclass(frozen=True)
class MapBatch:
    """One step's images. Every process holds the features of its share, and ``v`` of all.

    Attributes:
        encode: gives the queries (B, D) of the whole batch, gradients included.
        embeds: ``v`` (B, D) float32, on the engine's device.
        told: (B,) bool: which images have a caption.
        captions: (K, D) embeddings of theirs, in order, on the engine's device.
    """

    encode: Callable[[Encode], Tensor]
    embeds: Tensor
    told: NDArray[np.bool_]
    captions: Tensor


@dataclass(frozen=True)
class Captions:
    """The captions of a list of images, embedded.

    Attributes:
        embeds: (K, D), of those that there are, in the images' order.
        told: (M,) bool: which images have one.
    """

    embeds: NDArray[np.float32]
    told: NDArray[np.bool_]

    def rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Tensor]:
        """Which of some images have a caption, (B,), and the captions' embeddings, (K, D)."""
        told = self.told[rows]
        return told, torch.from_numpy(self.embeds[self._place[rows[told]]])

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        return np.cumsum(self.told) - 1  # image -> row of `embeds`


class ListedBatches:
    """Batches of a list of images, whose features are kept or computed when they are needed.

    Args:
        engine: whose processes share a batch.
        images: the list. features: theirs.
        captions: theirs; ``None`` where nobody asks for them.
        order: which images a step sees.
        steps: of the run; ``None`` for ``epochs``.

    Attributes:
        samples: images a step, of all processes. total: steps of the run.
        evaluate_every: steps between evaluations.
        needs_words: whether some images have no caption.
        sort, fingerprint: what is trained on, for the run's configuration and ``run.json``.
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
        self.evaluate_every = 2 * order.per_epoch if steps is None else -(-steps // 4)
        self.needs_words = captions is not None and not captions.told.all()
        self.sort: dict[str, Any] = {"images": len(images)}
        self.fingerprint = {**data_fingerprint(images), "features": features.source}

    def __getitem__(self, step: int) -> MapBatch:
        """The batch of a step."""
        engine, features = self.engine, self.features
        if step + 1 < self.total:
            features.announce(engine.workers.share(np.sort(self.order[step + 1])))
        rows = np.sort(self.order[step])
        if self.captions is None:
            told, captions = np.zeros(len(rows), bool), torch.empty(0, features.embeds.shape[1])
        else:
            told, captions = self.captions.rows(rows)

        def encode(some: Encode) -> Tensor:
            return engine.encode(lambda part: some(*features.rows(part)), rows)

        embeds = features.embeddings(rows).to(engine.device)
        return MapBatch(encode, embeds, told, captions.to(engine.device))


class StreamedBatches:
    """Batches of a stream: each process reads its own shards, all see the whole batch's loss.

    Pictures are read in one thread and decoded in others, a batch ahead. Batches are meant to be
    asked for in order; another step than the next one goes there through the stream, without
    decoding.

    Args:
        engine: its processes; its model is where ``backbone`` is.
        backbone: encodes the pictures.
        stream: this process's.
        size: images a step, at least; as many in every process.
        steps: of the run.
        lengths: folder of the processes' numbers of images an epoch, see `endless`.
        embed: embeddings (K, D) of captions; ``None`` where nobody asks for them.

    Attributes:
        samples, total, evaluate_every, needs_words, sort, fingerprint: as of `ListedBatches`.
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
                f"{len(stream.shards)} shards are too few for {workers.count} processes, each of "
                "which reads its own; start fewer of them, or leave out --stream."
            )
        stream.rank, stream.world = workers.rank, workers.count
        self.engine, self.backbone, self.stream, self.embed = engine, backbone, stream, embed
        self.size = -(-size // workers.count)
        self.length = lengths / f"stream-{workers.rank}.txt"
        self.samples, self.total = self.size * workers.count, steps
        self.evaluate_every = -(-steps // 4)
        self.needs_words = embed is not None
        # which process reads what decides what a batch is
        self.sort: dict[str, Any] = {
            "shards": len(stream.shards),
            "processes": workers.count,
            "stream": {"seed": stream.seed, "buffer": stream.buffer},
        }
        self.fingerprint = shards_fingerprint(stream.shards)
        self._next = -1
        self._prepared: Generator[tuple[TrainingImage, NDArray[np.float32]]] | None = None

    def __getitem__(self, step: int) -> MapBatch:
        """The batch of a step."""
        engine = self.engine
        if self._prepared is None or step != self._next:
            self._prepared = self._go_to(step)
        drawn = list(islice(self._prepared, self.size))
        self._next = step + 1
        found, patches = encode_each(self.backbone, (one for _, one in drawn))
        v = torch.from_numpy(found)
        told = torch.tensor([is_captioned(image) for image, _ in drawn])
        captions = torch.zeros_like(v)
        if self.embed is not None and told.any():
            said = [image.item.caption for image, _ in drawn if is_captioned(image)]
            captions[told] = self.embed(said).cpu()
        own = torch.cat([v, captions, told.float()[:, None]], dim=1).to(engine.device)
        whole = engine.workers.gather(own, self.samples)
        width, all_told = v.shape[1], whole[:, -1] > 0

        def rows(part: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            return v[part], torch.from_numpy(patches[part].astype(np.float32))

        def encode(some: Encode) -> Tensor:
            share = np.arange(self.size)
            return engine.encode_share(lambda part: some(*rows(part)), share, self.samples)

        said_of_all = whole[all_told, width:-1]
        return MapBatch(encode, whole[:, :width], all_told.cpu().numpy(), said_of_all)

    def _go_to(self, step: int) -> Generator[tuple[TrainingImage, NDArray[np.float32]]]:
        if self._prepared is not None:
            self._prepared.close()
        preprocess = Preprocessing.from_open_clip(self.backbone.preprocess_cfg)

        def prepare(image: TrainingImage) -> tuple[TrainingImage, NDArray[np.float32]]:
            return image, preprocess([image.load()])

        images = endless(self.stream, step * self.size, self.length)
        read = ahead(lambda _: next(images), count(), self.size, threads=1)
        return ahead(prepare, read, self.size)


def is_captioned(image: TrainingImage) -> bool:
    """Whether an image has a caption."""
    return bool(image.item.caption.strip())
