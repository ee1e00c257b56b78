"""What a benchmark gives back: scores by method, answers to look at, files to submit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.benchmarks.embedding_run import Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.streamed_ranking import Ranking
from ztcir_sdk.evaluation.metrics import NO_ROW

__all__ = [
    "SHOWN",
    "Answer",
    "AnswerHit",
    "Asked",
    "BenchmarkReport",
    "Scores",
    "Verdict",
    "check_split",
    "show_answers",
]

SHOWN = 10
"""Hits of an answer."""

Scores = Mapping[tuple[str, ...], Mapping[str, float]]
"""Metrics as fractions by name, for each part of a benchmark: ``("original", "both", "dress")``."""
Verdict = Literal["right", "wrong", "reference", "unknown"]


def check_split(title: str, split: str, methods: Sequence[Method]) -> None:
    """Refuse a split that is not there; of a test split without targets, more than one method.

    Raises:
        UsageError: it is so.
    """
    if split not in ("val", "test"):
        raise UsageError(f"{title} has no split {split!r}: choose val or test.")
    if split == "test" and len(methods) > 1:
        raise UsageError("A submission is one method's: name one with --method.")


@dataclass(frozen=True)
class AnswerHit:
    """An image that was found."""

    image: BenchmarkImage
    score: float
    """Cosine similarity to the query."""
    verdict: Verdict
    """ "reference": the query's own image, where that is not what was asked for."""


@dataclass(frozen=True)
class Answer:
    """A query with the first `SHOWN` images that were found."""

    id: str
    categories: tuple[str, ...]
    """The benchmark's: one or more."""
    text: str
    """What was asked of the reference."""
    reference: BenchmarkImage
    hits: tuple[AnswerHit, ...]


@dataclass(frozen=True)
class Asked:
    """A query as a benchmark has it, to be shown."""

    id: str
    categories: tuple[str, ...]
    text: str
    reference: BenchmarkImage
    targets: Collection[BenchmarkImage] | None
    """What is right; None where that is not published."""
    reference_ranked: bool = True
    """Whether the reference is in the gallery, so that "mapped" can find it."""


@dataclass(frozen=True)
class BenchmarkReport:
    """A benchmark's result for one bundle."""

    benchmark: str
    split: str
    queries: int
    gallery: int
    """Different images that were ranked."""
    prompt: str
    """Template of the methods "composed" and "stage1"."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """By method; empty where the targets are not published."""
    answers: Sequence[Answer] = ()
    """Of the first method, as many as were asked for, in the order of the annotations."""
    submissions: Mapping[str, Any] = field(default_factory=dict)
    """Name of a file for the benchmark's server -> what it holds, as JSON values."""
    notes: Sequence[str] = ()
    """What a reader of the scores must know: a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the parts of scores nested; without answers and submissions."""
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "queries": self.queries,
            "gallery": self.gallery,
            "prompt": self.prompt,
            "methods": {method: _nested(scores) for method, scores in self.scores.items()},
            "notes": list(self.notes),
        }


def show_answers(
    asked: Sequence[Asked],
    ranking: Ranking,
    gallery: Sequence[BenchmarkImage],
    method: Method,
    wanted: int,
    mapped_prompt: str = "",
) -> list[Answer]:
    """Return some queries with the first images that a ranking has for them.

    Args:
        asked: all queries that were ranked.
        ranking: of them.
        gallery: what rows of the ranking are.
        method: that answered. Of "mapped" the reference itself is sought, if it can be found, and
            nothing was said.
        wanted: how many answers, spread evenly over the queries.
        mapped_prompt: what "mapped" asks.
    """
    rows, scores = ranking
    answers: list[Answer] = []
    for number in chosen(len(asked), wanted):
        one = asked[number]
        itself = method.name == "mapped" and one.reference_ranked
        sought = {one.reference} if itself else one.targets
        hits = tuple(
            AnswerHit(gallery[row], float(score), _verdict(gallery[row], one.reference, sought))
            for row, score in zip(rows[number, :SHOWN], scores[number, :SHOWN], strict=True)
            if row != NO_ROW
        )
        text = mapped_prompt if method.name == "mapped" else one.text
        answers.append(Answer(one.id, one.categories, text, one.reference, hits))
    return answers


def chosen(count: int, wanted: int) -> list[int]:
    """Return which of `count` queries to show: `wanted` of them, spread evenly, in order."""
    places = np.linspace(0, count - 1, min(wanted, count)).round()
    return [int(place) for place in dict.fromkeys(places)]


def _verdict(
    image: BenchmarkImage, reference: BenchmarkImage, sought: Collection[BenchmarkImage] | None
) -> Verdict:
    if sought is not None and image in sought:
        return "right"
    if image == reference:
        return "reference"
    return "unknown" if sought is None else "wrong"


def _nested(scores: Scores) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for parts, values in scores.items():
        inner = nested
        for part in parts:
            inner = inner.setdefault(part, {})
        inner.update(values)
    return nested
