"""Nearest items -> the hits that are asked for: a page of them, unique, and above a threshold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.answers.options import SearchSettings
from ztcir_sdk.answers.threshold import least_scores
from ztcir_sdk.index import GalleryIndex, Index, IndexView, Item, Neighbours
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.names import AUTOMATIC

__all__ = ["find_hits"]

MORE_FOR_UNIQUE = 2
"""Times as many neighbours as hits are looked at first where near-duplicates are left out."""


def find_hits(
    gallery: GalleryIndex,
    queries: NDArray[np.float32],
    k: int,
    settings: SearchSettings,
    *,
    exclude_labels: Sequence[Collection[int]],
    exclude_hashes: Sequence[Collection[str]],
) -> list[list[Hit]]:
    """Return the hits of each of `queries` (B, D): `k` of them after `settings.offset`.

    Args:
        gallery: the index; it must not change meanwhile.
        queries: (B, D) float32.
        k: hits of each query, at most.
        settings: filter, page, near-duplicates, thresholds.
        exclude_labels: for each query, labels to leave out.
        exclude_hashes: for each query, SHA-256 (hex) of contents to leave out.

    Raises:
        UsageError: the filter does not fit the index, or the index is too small for a threshold.
    """
    if len(queries) == 0:
        return []
    least = np.full(len(queries), -math.inf if settings.min_score is None else settings.min_score)
    if settings.threshold == AUTOMATIC:
        least = np.maximum(least, least_scores(gallery, queries))
    wanted = settings.offset + k
    options: dict[str, Any] = {"exact": settings.exact}
    if settings.filter is not None:  # an index of another kind may know no filters
        options["where"] = settings.filter
    answers: dict[int, _Answer] = {}
    open_queries = list(range(len(queries)))
    count = wanted if math.isinf(settings.same_from) else MORE_FOR_UNIQUE * wanted
    while open_queries:
        found = gallery.search(
            queries[open_queries],
            count,
            exclude_labels=[exclude_labels[i] for i in open_queries],
            exclude_hashes=[exclude_hashes[i] for i in open_queries],
            **options,
        )
        for i, neighbours in zip(open_queries, found, strict=True):
            answers[i] = _answer(gallery, neighbours, count, least[i], settings.same_from)
        open_queries = [i for i in open_queries if not answers[i].has(wanted)]
        count *= 2
    return [_hits(gallery, answers[i], settings.offset, k) for i in range(len(queries))]


@dataclass
class _Answer:
    """The neighbours of one query, each the first of its near-duplicates."""

    complete: bool
    """Whether no further neighbour can be an answer."""
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    duplicates: list[list[int]] = field(default_factory=list)
    """Labels of the further near-duplicates of each."""

    def has(self, wanted: int) -> bool:
        return self.complete or len(self.labels) >= wanted


def _answer(
    gallery: GalleryIndex, neighbours: Neighbours, asked: int, least: float, same_from: float
) -> _Answer:
    labels, scores = neighbours
    above = int(np.count_nonzero(scores >= least))  # they are sorted
    answer = _Answer(complete=above < len(scores) or len(labels) < asked)
    labels, scores = labels[:above], scores[:above]
    if math.isinf(same_from):
        answer.labels, answer.scores = labels.tolist(), scores.tolist()
        answer.duplicates = [[] for _ in labels]
        return answer
    vectors = gallery.vectors(labels) if len(labels) else np.empty((0, gallery.dim))
    kept = np.empty_like(vectors)  # rows of the images that stand for others
    for label, score, vector in zip(labels.tolist(), scores.tolist(), vectors, strict=True):
        count = len(answer.labels)
        cosines = kept[:count] @ vector
        same = np.flatnonzero(cosines >= same_from - 1e-6)  # rounding of float32
        if len(same):
            answer.duplicates[int(same[0])].append(label)
        else:
            kept[count] = vector
            answer.labels.append(label)
            answer.scores.append(score)
            answer.duplicates.append([])
    return answer


def _hits(gallery: GalleryIndex, answer: _Answer, offset: int, k: int) -> list[Hit]:
    root = gallery.root
    page = slice(offset, offset + k)
    labels, duplicates = answer.labels[page], answer.duplicates[page]
    items = _items(gallery, [*labels, *itertools.chain.from_iterable(duplicates)])
    hits = zip(labels, answer.scores[page], duplicates, strict=True)
    return [
        Hit.from_item(
            items[label], root, score, rank, tuple(str(root / items[one].path) for one in same)
        )
        for rank, (label, score, same) in enumerate(hits, start=offset + 1)
    ]


def _items(gallery: GalleryIndex, labels: list[int]) -> dict[int, Item]:
    """Return the items of labels; all at once from an index in a folder."""
    if isinstance(gallery, (Index, IndexView)):
        return dict(zip(labels, gallery.items_at(labels), strict=True))
    return {label: gallery.item(label) for label in labels}
