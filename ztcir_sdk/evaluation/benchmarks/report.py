"""The result of a benchmark: scores by method, queries with their hits, files to submit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.queries import Part
from ztcir_sdk.evaluation.ranking import NO_ROW, Ranking

SHOWN = 10
"""Hits of an answer."""

Scores = Mapping[tuple[str, ...], Mapping[str, float]]
"""Metrics as fractions by name, for each part of a benchmark: ``("original", "both", "dress")``."""
Verdict = Literal["right", "wrong", "reference", "unknown"]


@dataclass(frozen=True)
class RankedPart:
    """A part of a benchmark with the ranking of its gallery for each query."""

    part: Part[Any]
    ranking: Ranking
    reference_ranked: bool = True
    """Whether the ranking can include the reference, which the method "mapped" searches for."""


@dataclass(frozen=True)
class AnswerHit:
    """An image that was found."""

    image: BenchmarkImage
    score: float
    """Cosine similarity to the query."""
    verdict: Verdict
    """ "reference": the query's own image, unless the query searches for it."""


@dataclass(frozen=True)
class Answer:
    """A query with its first `SHOWN` hits."""

    id: str
    categories: tuple[str, ...]
    text: str
    """The modification text; the prompt for the method "mapped"."""
    reference: BenchmarkImage
    hits: tuple[AnswerHit, ...]


@dataclass(frozen=True)
class BenchmarkReport:
    """A benchmark's result for one bundle."""

    benchmark: str
    split: str
    queries: int
    gallery: int
    """Number of different images that were ranked."""
    prompt: str
    """Template for the methods "composed" and "stage1"."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """By method; empty where the targets are not published."""
    answers: Sequence[Answer] = ()
    """Answers by the first method, as many as requested, in the order of the annotations."""
    submissions: Mapping[str, Any] = field(default_factory=dict)
    """Name of a file for the benchmark's server -> its content, as JSON values."""
    notes: Sequence[str] = ()
    """What a reader of the scores must know: a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with nested scores; without answers and submissions."""
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "queries": self.queries,
            "gallery": self.gallery,
            "prompt": self.prompt,
            "methods": {method: _nested(scores) for method, scores in self.scores.items()},
            "notes": list(self.notes),
        }


def first_hits(
    ranked: RankedPart, method: str, count: int, mapped_prompt: str = ""
) -> list[Answer]:
    """Return some queries of a part with their first hits.

    Args:
        ranked: the part and its ranking.
        method: the method that ranked. "mapped" searches for the reference itself, where it is
            ranked.
        count: number of answers, spread evenly over the queries.
        mapped_prompt: the prompt of "mapped".
    """
    rows, scores = ranked.ranking
    queries, gallery = ranked.part.queries, ranked.part.gallery
    answers: list[Answer] = []
    for number in spread_evenly(len(queries), count):
        query = queries[number]
        finds_reference = method == "mapped" and ranked.reference_ranked
        correct = (query.reference,) if finds_reference else query.targets
        hits = tuple(
            AnswerHit(gallery[row], float(score), _verdict(gallery[row], query.reference, correct))
            for row, score in zip(rows[number, :SHOWN], scores[number, :SHOWN], strict=True)
            if row != NO_ROW
        )
        text = mapped_prompt if method == "mapped" else query.text
        answers.append(Answer(query.id, query.categories, text, query.reference, hits))
    return answers


def spread_evenly(total: int, count: int) -> list[int]:
    """Return `count` of the numbers below `total`, in order, spread evenly."""
    numbers = np.linspace(0, total - 1, min(count, total)).round()
    return [int(number) for number in dict.fromkeys(numbers)]


def average_scores(parts: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over parts, which all have the same weight."""
    names = next(iter(parts))
    return {name: float(np.mean([scores[name] for scores in parts])) for name in names}


def _verdict(
    image: BenchmarkImage, reference: BenchmarkImage, correct: Sequence[BenchmarkImage]
) -> Verdict:
    if image in correct:
        return "right"
    if image == reference:
        return "reference"
    return "wrong" if correct else "unknown"


def _nested(scores: Scores) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for parts, values in scores.items():
        inner = nested
        for part in parts:
            inner = inner.setdefault(part, {})
        inner.update(values)
    return nested
