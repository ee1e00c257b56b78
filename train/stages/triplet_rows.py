"""Triplets as rows of a collection's features, and the triplets of each step of Stage II."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Batches, DataError
from train.settings import ComposeTraining, evaluation_interval
from train.stages.gallery import Gallery
from train.stages.hard_negatives import Answers
from train.triplets.open_requests import KEEP
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["TripletBatches", "TripletRows"]


@dataclass(frozen=True)
class TripletRows:
    """Triplets whose images are rows of a collection's features.

    Attributes:
        references: (B,) int64 rows.
        texts: modification texts.
        targets: rows of the targets, at least one per triplet.
        kept: (B,) bool, whether the reference is right too, because no image shows what the text
            asks for. It is right in training only: a ranking never has it.
    """

    references: NDArray[np.int64]
    texts: list[str]
    targets: list[NDArray[np.int64]]
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, triplets: Sequence[Triplet], ids: Sequence[str]) -> TripletRows:
        """Look up the images of triplets.

        Args:
            triplets: at least one.
            ids: the item id of each row.

        Raises:
            DataError: there are no triplets, or one names an image that has no row.
        """
        row_of = {name: row for row, name in enumerate(ids)}
        named = {name for t in triplets for name in (t.reference, *t.targets)}
        missing = sorted(named - row_of.keys())
        if missing:
            raise DataError(
                f"The triplets name {len(missing)} images that are not in the data, such as "
                f"{missing[0]}; add their shards with --data."
            )
        if not triplets:
            raise DataError("There are no triplets to train on; add some with --triplets.")
        return cls(
            np.array([row_of[t.reference] for t in triplets]),
            [t.text for t in triplets],
            [np.array([row_of[name] for name in t.targets]) for t in triplets],
            np.array([t.kind == KEEP for t in triplets]),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, positions: NDArray[np.int64]) -> TripletRows:
        """Return the triplets at some positions (B,)."""
        return TripletRows(
            self.references[positions],
            [self.texts[position] for position in positions],
            [self.targets[position] for position in positions],
            self.kept[positions],
        )

    def replace_references(self, share: float, rng: np.random.Generator) -> TripletRows:
        """Replace a share of the references by one of their own targets, which is then no target.

        A triplet with a single target keeps its reference.
        """
        references, targets = self.references.copy(), list(self.targets)
        for position in np.flatnonzero(rng.random(len(self)) < share):
            if len(own := self.targets[position]) > 1:
                chosen = rng.integers(len(own))
                references[position] = own[chosen]
                targets[position] = np.delete(own, chosen)
        return TripletRows(references, self.texts, targets, self.kept)

    def answers(
        self, first: NDArray[np.int64], gallery: Tensor | Gallery, near_duplicate: float
    ) -> Answers:
        """Return the triplets' right answers in a gallery.

        Args:
            first: (B,) row of one target per triplet.
            gallery: embeddings of all rows, (M, D).
            near_duplicate: cosine similarity to that target above which an image is no negative.
        """
        device, counts = gallery.device, [len(own) for own in self.targets]
        kept = np.flatnonzero(self.kept)
        queries = np.concatenate([np.repeat(np.arange(len(self)), counts), kept])
        positions = np.concatenate([*self.targets, self.references[kept]])
        return Answers(
            torch.from_numpy(queries).to(device),
            torch.from_numpy(positions).to(device),
            gallery[torch.from_numpy(first).to(device)],
            torch.from_numpy(self.references).to(device),
            near_duplicate,
        )


class TripletBatches:
    """The triplets of each step of Stage II.

    Attributes:
        samples: triplets per step.
        total: steps of the run, either given or from the epochs of the hyperparameters.
        evaluate_every: steps between evaluations.
    """

    def __init__(self, rows: TripletRows, config: ComposeTraining, steps: int | None) -> None:
        self.rows, self.config = rows, config
        self._order = Batches(len(rows), config.batch_size, config.seed)
        per_epoch, self.samples = self._order.per_epoch, self._order.size
        self.total = config.epochs * per_epoch if steps is None else steps
        self.evaluate_every = (
            max(1, per_epoch // 2) if steps is None else evaluation_interval(steps)
        )
        # the step before announces the same triplets
        self._drawn = lru_cache(maxsize=2)(self._draw)

    def __getitem__(self, step: int) -> TripletRows:
        """Return the triplets of a step."""
        return self._drawn(step)

    def _draw(self, step: int) -> TripletRows:
        batch = self.rows.take(self._order[step])
        if step < self.config.as_given * self._order.per_epoch:
            return batch
        rng = np.random.default_rng([self.config.seed, step, 1])
        return batch.replace_references(self.config.target_references, rng)
