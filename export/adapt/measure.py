"""What an adaptation has gained on held-out triplets, over the backbone's plain answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.adapt.pictures import Part
from train.model import Backbone, ComposedModel
from train.stages.composed_queries import encode_composed
from train.stages.frozen_captions import encode_captions, plain_model
from train.stages.triplet_rows import TripletRows
from ztcir_sdk.evaluation.metrics import DEPTH, average_precision_at_k, recall_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.evaluation.triplet_evaluation import SUM_WEIGHTS, weighted_sum
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["Gains", "clustered_error", "measure"]

SURE = 1.645  # standard errors: one-sided 95 % of a normal distribution
_BATCH = 256


@dataclass(frozen=True)
class Gains:
    """Scores of the methods on held-out triplets.

    Attributes:
        queries, gallery: numbers of triplets and of held-out photos.
        scores: method -> ``R@1``, ``R@10`` and ``mAP@10``; "sum" is at its best weight.
        weight: that weight of the text, chosen on these triplets, which favours the sum; it is
            above 0 and below 1, so that the sum leaves neither image nor text out.
        best_plain: the best of image, text and sum.
        gain: mean difference of composed's average precision to that of ``best_plain``.
        error: standard error of that mean. Triplets about the same photo count as one draw.
        hits: (Q, 10) rows of composed's hits; empty if there is no trained model.
    """

    queries: int
    gallery: int
    scores: Mapping[str, Mapping[str, float]]
    weight: float
    best_plain: str
    gain: float
    error: float
    hits: NDArray[np.int64]

    @property
    def is_better(self) -> bool:
        """Whether composed is better than all plain answers, and not by chance."""
        return "composed" in self.scores and self.gain > SURE * self.error

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "queries": self.queries,
            "gallery": self.gallery,
            "methods": {name: dict(scores) for name, scores in self.scores.items()},
            "sum_weight": self.weight,
            "best_plain": self.best_plain,
            "gain": self.gain,
            "standard_error": self.error,
        }


def measure(
    backbone: Backbone, model: ComposedModel | None, part: Part, triplets: Sequence[Triplet]
) -> Gains:
    """Measure composed queries and the backbone's plain answers over held-out photos.

    Args:
        backbone: the frozen backbone.
        model: the trained model; ``None`` measures the plain answers alone.
        part: the held-out photos, which are the gallery.
        triplets: at least one, of these photos.
    """
    gallery = part.features.embeds
    rows = TripletRows.of(triplets, part.features.ids)
    image = gallery[rows.references]
    text = encode_captions(plain_model(backbone), rows.texts, precision="fp32").numpy()
    scorer = _Scorer(gallery, rows)
    found = {"image": scorer.score(image), "text": scorer.score(text)}
    weights = [weight for weight in SUM_WEIGHTS if 0 < weight < 1]
    sums = {weight: scorer.score(weighted_sum(image, text, weight)) for weight in weights}
    weight = max(sums, key=lambda one: sums[one].mean)
    found["sum"] = sums[weight]
    best = max(found, key=lambda name: found[name].mean)
    gain = error = 0.0
    hits = np.empty((0, DEPTH), np.int64)
    if model is not None:
        composed = scorer.score(_composed(model, part, rows))
        differences = composed.precision - found[best].precision
        found["composed"], hits = composed, composed.ranking
        gain = float(differences.mean())
        error = clustered_error(differences, rows.references)
    figures = {name: one.figures() for name, one in found.items()}
    return Gains(len(rows), len(gallery), figures, weight, best, gain, error, hits)


def clustered_error(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    """Return the standard error of the mean of values, of which some are no draws of their own.

    Args:
        values: (N,) the values.
        clusters: (N,) the cluster of each; values of one cluster count as one draw. With one value
            a cluster this is the usual standard error.

    Returns:
        The error; infinite for a single cluster.
    """
    _, cluster_of = np.unique(clusters, return_inverse=True)
    sums = np.bincount(cluster_of, values - values.mean())
    if len(sums) < 2:
        return math.inf
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))


@dataclass(frozen=True)
class _Scores:
    ranking: NDArray[np.int64]
    relevant: NDArray[np.bool_]
    precision: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.precision.mean())

    def figures(self) -> dict[str, float]:
        recalls = {f"R@{k}": float(recall_at_k(self.relevant, k).mean()) for k in (1, DEPTH)}
        return {**recalls, f"mAP@{DEPTH}": self.mean}


@dataclass(frozen=True)
class _Scorer:
    gallery: NDArray[np.float32]
    rows: TripletRows

    def score(self, queries: NDArray[np.float32]) -> _Scores:
        excluded = [[row] for row in self.rows.references.tolist()]
        ranking = rank(queries, self.gallery, DEPTH, excluded=excluded)
        relevant = relevance(ranking, [own.tolist() for own in self.rows.targets])
        counts = [len(own) for own in self.rows.targets]
        return _Scores(ranking, relevant, average_precision_at_k(relevant, counts, DEPTH))


@torch.inference_mode()
def _composed(model: ComposedModel, part: Part, rows: TripletRows) -> NDArray[np.float32]:
    batches = np.array_split(np.arange(len(rows)), -(-len(rows) // _BATCH))
    encoded = [
        encode_composed(model, part.features, rows, batch, scale=1.0, precision="fp32")
        for batch in batches
    ]
    return np.concatenate([one.cpu().numpy() for one in encoded])
