"""Nearest items -> the hits that are asked for: a page of them, unique, and above a threshold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
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

MAX_DUPLICATES = 1000
"""Near-duplicates of one hit that are listed: the nearest ones."""
FIRST_DUPLICATES = 16
"""Neighbours of a hit that are looked at first for them."""


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
    page = slice(settings.offset, wanted)
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
    shown = dict.fromkeys(label for i in answers for label in answers[i].labels[page])
    near: dict[int, list[int]] = {}
    if shown and not math.isinf(settings.same_from):
        near = _near_duplicates(gallery, list(shown), settings.same_from, options)
    return [
        _hits(
            gallery,
            answers[i],
            page,
            _own_duplicates(gallery, answers[i], page, near, settings.same_from),
            frozenset(exclude_labels[i]),
            frozenset(exclude_hashes[i]),
        )
        for i in range(len(queries))
    ]


@dataclass
class _Answer:
    """The neighbours of one query, each the first of its near-duplicates."""

    complete: bool
    """Whether no further neighbour can be an answer."""
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """One a label, (n, D); none without near-duplicates."""

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
        return answer
    vectors = gallery.vectors(labels) if len(labels) else np.empty((0, gallery.dim), np.float32)
    kept = np.empty_like(vectors)  # rows of the images that stand for others
    for label, score, vector in zip(labels.tolist(), scores.tolist(), vectors, strict=True):
        count = len(answer.labels)
        if not _is_same(kept[:count] @ vector, same_from).any():
            kept[count] = vector
            answer.labels.append(label)
            answer.scores.append(score)
    answer.vectors = kept[: len(answer.labels)]
    return answer


def _is_same(cosines: NDArray[np.float32], same_from: float) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = cosines >= same_from - 1e-6  # rounding of float32
    return same


def _near_duplicates(
    gallery: GalleryIndex, labels: Sequence[int], same_from: float, options: Mapping[str, Any]
) -> dict[int, list[int]]:
    """Return label -> labels of the images that count as the same, itself too, nearest first."""
    vectors = gallery.vectors(labels)
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(norms) & (norms > 0)  # a damaged row is like no other
    left = np.flatnonzero(usable).tolist()
    found: dict[int, list[int]] = {}
    count = FIRST_DUPLICATES
    while left:
        neighbours = gallery.search(vectors[left], count, **options)
        for row, (near, cosines) in zip(left, neighbours, strict=True):
            same = near[_is_same(cosines, same_from)].tolist()
            if len(same) < count or count > MAX_DUPLICATES:
                found[labels[row]] = same
        left = [row for row in left if labels[row] not in found]
        count = min(8 * count, MAX_DUPLICATES + 1)  # one more for the hit itself
    return found


def _own_duplicates(
    gallery: GalleryIndex,
    answer: _Answer,
    page: slice,
    near: Mapping[int, Sequence[int]],
    same_from: float,
) -> list[list[int]]:
    """Return the duplicates of each hit of a page; those of several hits belong to the first."""
    hits = frozenset(answer.labels)
    lists = [
        [one for one in near.get(label, ()) if one not in hits] for label in answer.labels[page]
    ]
    every = list(dict.fromkeys(itertools.chain.from_iterable(lists)))
    first: dict[int, int] = {}
    for start in range(0, len(every), MAX_DUPLICATES):  # few vectors in memory at once
        part = every[start : start + MAX_DUPLICATES]
        same = _is_same(gallery.vectors(part) @ answer.vectors.T, same_from)
        places = np.where(same.any(axis=1), same.argmax(axis=1), len(hits))
        first.update(zip(part, places.tolist(), strict=True))
    return [
        [one for one in own if first[one] >= place]
        for place, own in enumerate(lists, start=page.start)
    ]


def _hits(
    gallery: GalleryIndex,
    answer: _Answer,
    page: slice,
    duplicates: Sequence[Sequence[int]],
    out_labels: Collection[int],
    out_hashes: Collection[str],
) -> list[Hit]:
    """Describe the hits of a page; no image that is left out is a duplicate."""
    root = gallery.root
    labels = answer.labels[page]
    items = _items(gallery, [*labels, *itertools.chain.from_iterable(duplicates)])

    def path(label: int) -> str | None:
        item = items[label]
        out = label in out_labels or item.content_hash in out_hashes
        return None if out else str(root / item.path)

    hits = zip(labels, answer.scores[page], duplicates, strict=True)
    return [
        Hit.from_item(items[label], root, score, rank, tuple(filter(None, map(path, same))))
        for rank, (label, score, same) in enumerate(hits, start=page.start + 1)
    ]


def _items(gallery: GalleryIndex, labels: list[int]) -> dict[int, Item]:
    """Return the items of labels; all at once from an index in a folder."""
    if isinstance(gallery, (Index, IndexView)):
        return dict(zip(labels, gallery.items_at(labels), strict=True))
    return {label: gallery.item(label) for label in labels}
