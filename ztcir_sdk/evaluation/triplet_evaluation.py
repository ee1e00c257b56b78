"""How well a bundle answers composed queries of a file, by each of the seven methods.

The gallery is all the pictures that are named. The reference is removed before ranking, in every
method. One pass over the pictures encodes the gallery and, batch by batch, every query about the
references in it, so that memory holds vectors but never a collection of patch features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.metrics import average_precision_at_k, rank, recall_at_k, relevance
from ztcir_sdk.evaluation.oracle import attribute_caption
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets
from ztcir_sdk.index import Index
from ztcir_sdk.loading import GalleryImage, iter_images
from ztcir_sdk.names import CATALOGUE_COLUMNS, METHODS, ORACLE
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.sources import Failure, Listing, SourceReader, list_images

__all__ = ["ALL_METHODS", "SUM_WEIGHTS", "MethodScores", "TripletEvaluation", "evaluate_triplets"]

ALL_METHODS = (*METHODS, ORACLE)
SUM_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
"""Weights of the text among which the best for "sum" is chosen, on the very queries measured."""

RECALLS = (1, 5, 10)
DEPTH = 10
"""How far a ranking is looked at."""
BATCH = 32
"""Pictures that are encoded at once, at most,"""
PIXELS = 32_000_000
"""and decoded pixels that are held for it, beside one more picture."""

_WITH_REFERENCE = ("composed", "mapped", "stage1")


@dataclass(frozen=True)
class MethodScores:
    """What a method reached, as fractions: ``R@1``, ``R@5``, ``R@10``, ``mAP@10``."""

    overall: Mapping[str, float]
    per_kind: Mapping[str, Mapping[str, float]]
    weight: float | None = None
    """Of the text, in "sum"."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `weight` only where there is one."""
        values: dict[str, Any] = {
            "overall": dict(self.overall),
            "per_kind": {kind: dict(scores) for kind, scores in self.per_kind.items()},
        }
        return values if self.weight is None else {"weight": self.weight, **values}


@dataclass(frozen=True)
class TripletEvaluation:
    """Scores by method, and what they were measured on."""

    methods: Mapping[str, MethodScores]
    queries: int
    gallery: int
    """Pictures that were ranked, the references among them."""
    failed: Sequence[Failure]
    """Pictures that cannot be used, and why: none that a triplet needs."""
    sum_best: MethodScores | None = None
    """The method "sum" at the best of `SUM_WEIGHTS` by mAP@10, if that was asked for."""


@dataclass
class _Queries:
    """The triplets in terms of the pictures' paths, and what is known of them so far."""

    triplets: list[Triplet]
    references: list[str]
    """Path of each triplet's reference."""
    targets: list[set[str]]
    first_targets: list[str]
    by_reference: dict[str, list[int]]
    vectors: dict[str, NDArray[np.float32]]
    """Method -> query embeddings (Q, D), filled as the references pass by."""
    attributes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Path of a first target -> its metadata."""

    @property
    def needed(self) -> set[str]:
        return {*self.references, *(path for own in self.targets for path in own)}


def evaluate_triplets(
    retriever: Retriever,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    triplets: str | os.PathLike[str],
    *,
    methods: Sequence[str] = ("composed",),
    weight: float | None = None,
    best_sum: bool = False,
    index: Index | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TripletEvaluation:
    """Answer every triplet of a file by some methods, and score the answers.

    Args:
        retriever: the bundle that is measured.
        images: the gallery: folders, tar archives and pictures. An item's id is the ``id`` in the
            JSON beside its picture if there is one, else its name without folder and suffix (in
            an archive the webdataset key).
        triplets: the file, in the format of `read_triplets`.
        methods: of `ALL_METHODS`. "oracle" encodes the attributes of the first target as a
            caption: the mark that perfect composing would reach.
        weight: of the text in "sum", from 0 to 1; 0.5 by default.
        best_sum: also look for the best weight of "sum".
        index: vectors that need not be computed again, of pictures with the same bytes.
        progress: called with how many pictures are done, and of how many.

    Raises:
        UsageError: a method is unknown, or the weight is out of range or without "sum".
        ZtcirError: there is no picture, the file is not one of triplets or names a picture that
            is not there or cannot be used, or the bundle cannot answer a method.
    """
    _check_call(methods, weight)
    listing = list_images(images)
    if not listing.files:
        raise ZtcirError(
            f"There is no picture in {_name(images)}; name a folder of pictures, or tar archives "
            "themselves rather than their folder."
        )
    queries = _resolve(listing, Path(triplets))
    texts = [triplet.text for triplet in queries.triplets]
    for method in methods:
        if method != "oracle":  # what the bundle cannot answer is said before any work
            retriever.encoder.questions(method, texts[:1])
    for method in (*_WITH_REFERENCE, "image"):
        if method in methods or (method == "image" and ("sum" in methods or best_sum)):
            queries.vectors[method] = np.empty((len(texts), retriever.dim), dtype=np.float32)

    rows, gallery, failed = _encode(retriever, images, listing, queries, index, progress)

    vectors = queries.vectors
    if best_sum or {"text", "sum"} & set(methods):
        vectors["text"] = retriever.encode_texts(texts)
    if "sum" in methods:
        mixed = 0.5 if weight is None else weight
        vectors["sum"] = _mixed(vectors["image"], vectors["text"], mixed)
    if "oracle" in methods:
        vectors["oracle"] = retriever.encode_texts(_captions(queries))

    judge = _Judge(queries, rows, gallery)
    scores = {
        method: judge.score(
            vectors[method], (0.5 if weight is None else weight) if method == "sum" else None
        )
        for method in methods
    }
    best: MethodScores | None = None
    if best_sum:
        tried = (
            judge.score(_mixed(vectors["image"], vectors["text"], each), each)
            for each in SUM_WEIGHTS
        )
        best = max(tried, key=lambda one: one.overall["mAP@10"])
    return TripletEvaluation(scores, len(texts), len(gallery), failed, best)


class _Judge:
    """Scores query embeddings against one gallery."""

    def __init__(
        self, queries: _Queries, rows: Mapping[str, int], gallery: NDArray[np.float32]
    ) -> None:
        self._gallery = gallery
        self._targets = [{rows[path] for path in own} for own in queries.targets]
        self._references = [{rows[path]} for path in queries.references]
        self._kinds = np.array([triplet.kind for triplet in queries.triplets])

    def score(self, vectors: NDArray[np.float32], weight: float | None) -> MethodScores:
        ranking = rank(vectors, self._gallery, DEPTH, excluded=self._references)
        relevant = relevance(ranking, self._targets)
        counts = [len(own) for own in self._targets]
        each = {f"R@{k}": recall_at_k(relevant, k) for k in RECALLS}
        each[f"mAP@{DEPTH}"] = average_precision_at_k(relevant, counts, DEPTH)
        kinds = list(dict.fromkeys(self._kinds.tolist()))
        return MethodScores(
            {name: float(values.mean()) for name, values in each.items()},
            {
                kind: {
                    name: float(values[self._kinds == kind].mean()) for name, values in each.items()
                }
                for kind in kinds
            },
            weight,
        )


def _check_call(methods: Sequence[str], weight: float | None) -> None:
    for method in methods:
        if method not in ALL_METHODS:
            raise UsageError(
                f"There is no method {method!r}: choose from {', '.join(ALL_METHODS)}."
            )
    if weight is not None and "sum" not in methods:
        raise UsageError(f"The method {methods[0]!r} takes no weight: leave it out, or use sum.")
    if weight is not None and not 0 <= weight <= 1:
        raise UsageError(f"The weight must be from 0 to 1, not {weight}.")


def _resolve(listing: Listing, file: Path) -> _Queries:
    """Read the triplets and find the pictures that they are about."""
    paths, twins = _paths_by_id(listing)
    triplets = read_triplets(file, gallery=paths.keys())
    by_reference: dict[str, list[int]] = {}
    for number, triplet in enumerate(triplets):
        for item in (triplet.reference, *triplet.targets):
            if item in twins:
                raise ZtcirError(
                    f"The triplet {triplet.id} of {file} is about {item!r}, which is the id of "
                    f"two pictures, {paths[item]} and {twins[item]}; leave one of them out."
                )
        if triplet.reference in triplet.targets:
            raise ZtcirError(
                f"The triplet {triplet.id} of {file} has its reference among its targets; "
                "take it out, since the reference is removed before ranking."
            )
        by_reference.setdefault(paths[triplet.reference], []).append(number)
    return _Queries(
        triplets=triplets,
        references=[paths[triplet.reference] for triplet in triplets],
        targets=[{paths[target] for target in triplet.targets} for triplet in triplets],
        first_targets=[paths[triplet.targets[0]] for triplet in triplets],
        by_reference=by_reference,
        vectors={},
    )


def _paths_by_id(listing: Listing) -> tuple[dict[str, str], dict[str, str]]:
    """Return the path of each id, and another path of the ids that two pictures share.

    The name of a picture whose JSON says another id is taken for it too, unless it is the id of
    another picture.
    """
    reader = SourceReader()
    ids: dict[str, list[str]] = {}
    aliases: dict[str, list[str]] = {}
    for file in listing.files:
        item = _said_id(reader.read_metadata(file))
        ids.setdefault(file.key if item is None else item, []).append(file.path)
        if item is not None and item != file.key:
            aliases.setdefault(file.key, []).append(file.path)
    reader.close()
    found = {**aliases, **ids}
    return (
        {item: paths[0] for item, paths in found.items()},
        {item: paths[1] for item, paths in found.items() if len(paths) > 1},
    )


def _said_id(text: bytes | None) -> str | None:
    try:
        said = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):  # reported when the picture is read
        return None
    item = said.get("id") if isinstance(said, dict) else None
    return str(item) if isinstance(item, str | int) and not isinstance(item, bool) else None


def _encode(
    retriever: Retriever,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    listing: Listing,
    queries: _Queries,
    index: Index | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, int], NDArray[np.float32], list[Failure]]:
    """Encode the gallery, and the queries on the way: row by path, vectors (N, D), failures."""
    rows: dict[str, int] = {}
    parts: list[NDArray[np.float32]] = []
    failed: list[Failure] = []
    needed, first_targets = queries.needed, set(queries.first_targets)
    for batch in _batches(iter_images(images)):
        usable: list[GalleryImage] = []
        for one in batch:
            if one.image is not None:
                usable.append(one)
            elif one.path in needed:
                raise ZtcirError(f"{one.error} The triplets are about it, so nothing is measured.")
            if one.error is not None:
                failed.append((one.path, one.error))
        for one in usable:
            rows[one.path] = len(rows)
            if one.path in first_targets and one.metadata is not None:
                queries.attributes[one.path] = one.metadata
        parts.append(_encode_batch(retriever, usable, queries, index))
        if progress is not None:
            progress(len(rows) + len(failed), len(listing.files))
    if not rows:
        raise ZtcirError(f"No picture in {_name(images)} can be used; {failed[0][1]}")
    return rows, np.concatenate(parts), failed


def _encode_batch(
    retriever: Retriever, batch: Sequence[GalleryImage], queries: _Queries, index: Index | None
) -> NDArray[np.float32]:
    """Return a batch's vectors (n, D); answer the triplets whose reference is in it."""
    vectors = np.empty((len(batch), retriever.dim), dtype=np.float32)
    asked = [place for place, one in enumerate(batch) if one.path in queries.by_reference]
    references = retriever.references([_image(batch[place]) for place in asked])
    for place, reference in zip(asked, references, strict=True):
        vectors[place] = reference.embedding
    plain: list[int] = []
    for place in set(range(len(batch))) - set(asked):
        known = [] if index is None else index.by_hash(batch[place].content_hash)
        if index is not None and known:
            vectors[place] = index.vectors([known[0].label])[0]
        else:
            plain.append(place)
    if plain:
        vectors[plain] = retriever.encode_images([_image(batch[place]) for place in plain])

    numbers = [
        (local, number)
        for local, place in enumerate(asked)
        for number in queries.by_reference[batch[place].path]
    ]
    if numbers:
        own = [number for _, number in numbers]
        texts = [queries.triplets[number].text for number in own]
        for method, answers in queries.vectors.items():
            answers[own] = retriever.encode_queries(
                references, texts, [local for local, _ in numbers], method
            )
    return vectors


def _captions(queries: _Queries) -> list[str]:
    """Say the attributes of each triplet's first target."""
    captions: list[str] = []
    for path in queries.first_targets:
        metadata = queries.attributes.get(path, {})
        values = {name: metadata.get(key) for name, key in CATALOGUE_COLUMNS.items()}
        caption = attribute_caption(**{name: str(value or "") for name, value in values.items()})
        if not caption:
            raise ZtcirError(
                f"The method {ORACLE} needs the attributes "
                f"{', '.join(CATALOGUE_COLUMNS.values())} of every target, in a JSON file beside "
                f"its picture in the archive; {path} has none."
            )
        captions.append(caption)
    return captions


def _mixed(
    image: NDArray[np.float32], text: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """Return (1 - w) v + w t, (Q, D), L2-normalised."""
    mixed = (1 - weight) * image.astype(np.float64) + weight * text
    norms: NDArray[np.float64] = np.linalg.norm(mixed, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (mixed / norms).astype(np.float32)
    return unit


def _batches(images: Iterator[GalleryImage]) -> Iterator[list[GalleryImage]]:
    batch: list[GalleryImage] = []
    pixels = 0
    for one in images:
        batch.append(one)
        pixels += 0 if one.image is None else one.image.width * one.image.height
        if len(batch) == BATCH or pixels >= PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _image(one: GalleryImage) -> Any:
    assert one.image is not None
    return one.image


def _name(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> str:
    if isinstance(images, str | os.PathLike):
        return os.fspath(images)
    return ", ".join(os.fspath(path) for path in images[:3]) + (", ..." if len(images) > 3 else "")
