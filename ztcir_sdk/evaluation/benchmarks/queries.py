"""A benchmark's queries and the galleries that they are ranked against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.metrics import recall_at_k, relevance
from ztcir_sdk.evaluation.ranking import Ranking


@dataclass(frozen=True)
class Query:
    """A composed query. A benchmark may add fields in a subclass."""

    reference: BenchmarkImage
    text: str
    id: str = ""
    targets: tuple[BenchmarkImage, ...] = ()
    """The correct images; none where they are not published."""
    categories: tuple[str, ...] = ("",)
    """The benchmark's groups of queries that it belongs to, one or more."""


Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True)
class Part(Generic[Q]):
    """Queries with one gallery: a category, a task, or the whole benchmark."""

    queries: Sequence[Q]
    gallery: Sequence[BenchmarkImage]

    @cached_property
    def rows(self) -> Mapping[BenchmarkImage, int]:
        """Row of each image in the gallery."""
        return {image: row for row, image in enumerate(self.gallery)}

    def relevance(self, ranking: Ranking) -> NDArray[np.bool_]:
        """Return whether each image of a ranking is a target of its query: (Q, k) bool."""
        targets = [{self.rows[image] for image in query.targets} for query in self.queries]
        return relevance(ranking[0], targets)

    def recalls(
        self, ranking: Ranking, depths: Sequence[int], prefix: str = "R"
    ) -> dict[str, float]:
        """Return the mean recall of a ranking at several depths, named like "R@10"."""
        relevant = self.relevance(ranking)
        return {f"{prefix}@{k}": float(recall_at_k(relevant, k).mean()) for k in depths}


@dataclass(frozen=True)
class Annotations(Generic[Q]):
    """What a benchmark's files contain."""

    parts: Mapping[str, Part[Q]]
    """By name; one or more."""
    images: Sequence[BenchmarkImage]
    """All images that are needed, in the order in which they are encoded."""
    notes: Sequence[str] = ()
    """What a reader of the scores must know: a sentence each."""
