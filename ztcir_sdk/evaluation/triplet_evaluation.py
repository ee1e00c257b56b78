"""Scores a bundle on composed queries from a file, with each search method and the "oracle".

The gallery is all given images. Every method removes the reference before ranking. One pass over
the images encodes the gallery and, batch by batch, all queries whose reference is in the batch, so
memory holds vectors but never the patch features of a whole collection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import ImageError, UsageError, ZtcirError, check_choice
from ztcir_sdk.evaluation.attribute_caption import NoAttributesError, oracle_captions
from ztcir_sdk.evaluation.image_batches import image_batches
from ztcir_sdk.evaluation.metrics import DEPTH, average_precision_at_k, recall_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets
from ztcir_sdk.index import Index
from ztcir_sdk.loading import GalleryImage, iter_images
from ztcir_sdk.names import METHODS, ORACLE, TOKEN_LEARNER
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.sources import Failure, Listing, Source, SourceFile, SourceReader, list_images
from ztcir_sdk.sources.metadata import parse_metadata

ALL_METHODS = (*METHODS, ORACLE)
SUM_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
"""Weights of the text to try for "sum". The best is chosen on the measured queries themselves."""

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class MethodScores:
    """The scores of a method, as fractions: ``R@1``, ``R@5``, ``R@10``, ``mAP@10``."""

    overall: Mapping[str, float]
    per_kind: Mapping[str, Mapping[str, float]]
    """By the triplets' ``kind``."""
    weight: float | None = None
    """Weight of the text; None unless the method is "sum"."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `weight` only if there is one."""
        values: dict[str, Any] = {
            "overall": dict(self.overall),
            "per_kind": {kind: dict(scores) for kind, scores in self.per_kind.items()},
        }
        return values if self.weight is None else {"weight": self.weight, **values}


@dataclass(frozen=True)
class TripletEvaluation:
    """Scores by method, and the data that they were measured on."""

    methods: Mapping[str, MethodScores]
    queries: int
    gallery: int
    """Number of ranked images, including the references."""
    failed: Sequence[Failure]
    """Unusable images, each with the reason; no triplet names them."""
    sum_best: MethodScores | None = None
    """The method "sum" with the weight of `SUM_WEIGHTS` that has the best mAP@10, if requested."""
    notes: Sequence[str] = ()
    """Sentences about methods that were left out."""


@dataclass(frozen=True)
class _Queries:
    """Triplets with the paths of their images."""

    triplets: list[Triplet]
    references: list[str]
    """Path of each triplet's reference."""
    targets: list[set[str]]
    first_targets: list[str]

    @property
    def paths(self) -> set[str]:
        """The paths of all references and targets."""
        return set(self.references).union(*self.targets)

    @property
    def by_reference(self) -> dict[str, list[int]]:
        """The numbers of the triplets with each reference."""
        numbers: dict[str, list[int]] = {}
        for number, path in enumerate(self.references):
            numbers.setdefault(path, []).append(number)
        return numbers


@dataclass
class _Encoded:
    """The result of one pass over the images."""

    queries: dict[str, NDArray[np.float32]]
    """Method -> query vectors (Q, D)."""
    gallery: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Image vectors (N, D)."""
    rows: dict[str, int] = field(default_factory=dict)
    """Path -> row in the gallery."""
    failed: list[Failure] = field(default_factory=list)


def evaluate_triplets(
    retriever: Retriever,
    images: Source,
    triplets: str | os.PathLike[str],
    *,
    methods: Sequence[str] = ("composed",),
    weight: float | None = None,
    best_sum: bool = False,
    optional_oracle: bool = False,
    columns: Mapping[str, str] | None = None,
    index: Index | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TripletEvaluation:
    """Rank the gallery for each triplet of a file by several methods, and score the rankings.

    Args:
        retriever: the bundle to measure.
        images: the gallery: folders, tar archives and image files. An image's id is the ``id`` in
            the JSON beside it, or else its name without folder and suffix (in an archive, the
            webdataset key).
        triplets: the file, in the format of `read_triplets`.
        methods: one or more of `ALL_METHODS`. "oracle" encodes the attributes of the first target
            as a caption: the upper bound of perfect composition.
        weight: weight of the text in "sum", from 0 to 1; by default the bundle's own, else 0.5.
        best_sum: whether to find the best weight of "sum" too.
        optional_oracle: whether "oracle" is left out, with a note, where attributes are missing;
            otherwise that is an error.
        columns: attribute -> its column or JSON key, for "oracle"; see `oracle_captions`.
        index: an index whose vectors are used for images with the same content.
        progress: called with the number of images done, and of all images.

    Raises:
        UsageError: a method is unknown, or the weight is out of range or without "sum".
        ZtcirError: there is no image, the file is not one of triplets, it names an image that is
            missing or unusable, or the bundle does not support a method.
    """
    for method in methods:
        check_choice("method", method, ALL_METHODS)
    if weight is not None and "sum" not in methods:
        raise UsageError(f"The method {methods[0]!r} takes no weight: leave it out, or use sum.")
    listing = list_images(images)
    if not listing.files:
        raise ZtcirError(
            f"There are no images in {_name(images)}: name a folder of images, or the tar archives "
            "themselves rather than their folder."
        )
    queries = _resolve(listing, Path(triplets))
    texts = [triplet.text for triplet in queries.triplets]
    for method in methods:
        if method != ORACLE:  # raises an error if the bundle does not support it
            own = weight if method == "sum" else None
            retriever.encoder.questions(method, texts[:1], weight=own)
    captions: list[str] = []
    notes: list[str] = []
    if ORACLE in methods:  # before hours of encoding
        try:
            captions = oracle_captions(images, listing, queries.first_targets, columns=columns)
        except NoAttributesError as error:
            if not optional_oracle:
                raise
            notes.append(f"{ORACLE} is left out. {error}")
            methods = [method for method in methods if method != ORACLE]
    needed = {*methods, "sum"} if best_sum else set(methods)
    in_pass = [name for name in METHODS if name in needed and TOKEN_LEARNER in METHODS[name]]
    if needed & {"image", "sum"}:
        in_pass.append("image")
    encoded = _encode(retriever, images, len(listing.files), queries, in_pass, index, progress)

    vectors, weight = encoded.queries, retriever.bundle.sum_weight if weight is None else weight
    if needed & {"text", "sum"}:
        vectors["text"] = retriever.encode_texts([retriever.encoder.as_read(t) for t in texts])
    if "sum" in methods:
        vectors["sum"] = weighted_sum(vectors["image"], vectors["text"], weight)
    if captions:
        vectors[ORACLE] = retriever.encode_texts(captions)

    scorer = _Scorer(queries, encoded)
    scores = {
        method: scorer.score(vectors[method], weight if method == "sum" else None)
        for method in methods
    }
    best: MethodScores | None = None
    if best_sum:
        tried = (
            scorer.score(weighted_sum(vectors["image"], vectors["text"], each), each)
            for each in SUM_WEIGHTS
        )
        best = max(tried, key=lambda one: one.overall["mAP@10"])
    return TripletEvaluation(scores, len(texts), len(encoded.rows), encoded.failed, best, notes)


class _Scorer:
    """Scores query vectors against one gallery."""

    def __init__(self, queries: _Queries, encoded: _Encoded) -> None:
        rows = encoded.rows
        self._gallery = encoded.gallery
        self._targets = [{rows[path] for path in paths} for paths in queries.targets]
        self._references = [{rows[path]} for path in queries.references]
        self._kinds = np.array([triplet.kind for triplet in queries.triplets])

    def score(self, vectors: NDArray[np.float32], weight: float | None) -> MethodScores:
        """Return the scores of a method's query vectors (Q, D)."""
        ranking = rank(vectors, self._gallery, DEPTH, excluded=self._references)
        relevant = relevance(ranking, self._targets)
        counts = [len(targets) for targets in self._targets]
        each = {f"R@{k}": recall_at_k(relevant, k) for k in RECALLS}
        each[f"mAP@{DEPTH}"] = average_precision_at_k(relevant, counts, DEPTH)
        return MethodScores(
            {name: float(values.mean()) for name, values in each.items()},
            {
                kind: {
                    name: float(values[self._kinds == kind].mean()) for name, values in each.items()
                }
                for kind in dict.fromkeys(self._kinds.tolist())
            },
            weight,
        )


def _resolve(listing: Listing, file: Path) -> _Queries:
    """Read the triplets and find the paths of their images."""
    paths, second_paths = _paths_by_id(listing)
    triplets = read_triplets(file, gallery=paths.keys())
    for triplet in triplets:
        for item in (triplet.reference, *triplet.targets):
            if item in second_paths:
                raise ZtcirError(
                    f"The triplet {triplet.id} of {file} names {item!r}, which is the id of two "
                    f"images, {paths[item]} and {second_paths[item]}: leave one of them out."
                )
        if triplet.reference in triplet.targets:
            raise ZtcirError(
                f"The triplet {triplet.id} of {file} has its reference among its targets: remove "
                "it from them, since the reference is removed before ranking."
            )
    return _Queries(
        triplets=triplets,
        references=[paths[triplet.reference] for triplet in triplets],
        targets=[{paths[target] for target in triplet.targets} for triplet in triplets],
        first_targets=[paths[triplet.targets[0]] for triplet in triplets],
    )


def _paths_by_id(listing: Listing) -> tuple[dict[str, str], dict[str, str]]:
    """Return the path of each id, and the second path of each id that two images share.

    If an image's JSON has another id than its name, the name is an id too, unless another image
    has it. So are its file name and its path, as `ztcir triplets --data FOLDER` writes them.
    """
    reader = SourceReader()
    ids: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    longer: dict[str, list[str]] = {}
    for file in listing.files:
        item = _metadata_id(reader, file)
        ids.setdefault(file.key if item is None else item, []).append(file.path)
        if item is not None and item != file.key:
            names.setdefault(file.key, []).append(file.path)
        for name in _longer_names(listing, file.path):
            longer.setdefault(name, []).append(file.path)
    reader.close()
    found = {**longer, **names, **ids}
    return (
        {item: paths[0] for item, paths in found.items()},
        {item: paths[1] for item, paths in found.items() if len(paths) > 1},
    )


def _longer_names(listing: Listing, path: str) -> set[str]:
    """Return a file's name, its path, and its path from each folder that was listed."""
    folders = (folder for folder in listing.covered if folder and path.startswith(f"{folder}/"))
    return {PurePosixPath(path).name, path, *(path[len(folder) + 1 :] for folder in folders)}


def _metadata_id(reader: SourceReader, file: SourceFile) -> str | None:
    """Return the ``id`` in an image's JSON, if it has one."""
    try:
        text = reader.read_metadata(file)
        metadata = {} if text is None else parse_metadata(text)
    except (ImageError, ValueError):  # reported when the image is read
        return None
    item = metadata.get("id")
    return str(item) if isinstance(item, str | int) and not isinstance(item, bool) else None


def _encode(
    retriever: Retriever,
    images: Source,
    total: int,
    queries: _Queries,
    methods: Sequence[str],
    index: Index | None,
    progress: Callable[[int, int], None] | None,
) -> _Encoded:
    """Encode the gallery, and each query by several methods together with its reference."""
    encoded = _Encoded(
        {method: np.empty((len(queries.triplets), retriever.dim), np.float32) for method in methods}
    )
    parts: list[NDArray[np.float32]] = []
    needed = queries.paths
    by_reference = queries.by_reference
    for batch in image_batches(iter_images(images), _pixels):
        usable: list[GalleryImage] = []
        for one in batch:
            if one.image is not None:
                usable.append(one)
            elif one.path in needed:
                raise ZtcirError(f"{one.error} The triplets need this image: nothing is measured.")
            if one.error is not None:
                encoded.failed.append((one.path, one.error))
        for one in usable:
            encoded.rows[one.path] = len(encoded.rows)
        parts.append(_encode_batch(retriever, usable, queries, by_reference, encoded, index))
        if progress is not None:
            progress(len(encoded.rows) + len(encoded.failed), total)
    if not encoded.rows:
        raise ZtcirError(
            f"None of the images in {_name(images)} can be used; the first: {encoded.failed[0][1]}"
        )
    encoded.gallery = np.concatenate(parts)
    return encoded


def _encode_batch(
    retriever: Retriever,
    batch: Sequence[GalleryImage],
    queries: _Queries,
    by_reference: Mapping[str, Sequence[int]],
    encoded: _Encoded,
    index: Index | None,
) -> NDArray[np.float32]:
    """Return a batch's vectors (n, D), and encode the queries whose reference is in it."""
    vectors = np.empty((len(batch), retriever.dim), dtype=np.float32)
    pixels = [one.image for one in batch if one.image is not None]
    used = [row for row, one in enumerate(batch) if one.path in by_reference]
    references = retriever.references([pixels[row] for row in used])
    for row, reference in zip(used, references, strict=True):
        vectors[row] = reference.embedding
    new: list[int] = []
    for row in set(range(len(batch))) - set(used):
        known = [] if index is None else index.by_hash(batch[row].content_hash)
        if index is not None and known:
            vectors[row] = index.vectors([known[0].label])[0]
        else:
            new.append(row)
    if new:
        vectors[new] = retriever.encode_images([pixels[row] for row in new])

    numbers = [
        (local, number)
        for local, row in enumerate(used)
        for number in by_reference[batch[row].path]
    ]
    if numbers:
        own = [number for _, number in numbers]
        texts = [queries.triplets[number].text for number in own]
        for method, answers in encoded.queries.items():
            answers[own] = retriever.encode_queries(
                references, texts, [local for local, _ in numbers], method
            )
    return vectors


def weighted_sum(
    image: NDArray[np.float32], text: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """Return (1 - w) v + w t, (Q, D), L2-normalised."""
    mixed = (1 - weight) * image.astype(np.float64) + weight * text
    norms: NDArray[np.float64] = np.linalg.norm(mixed, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (mixed / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _pixels(one: GalleryImage) -> int:
    return 0 if one.image is None else one.image.width * one.image.height


def _name(images: Source) -> str:
    if isinstance(images, str | os.PathLike):
        return os.fspath(images)
    return ", ".join(os.fspath(path) for path in images[:3]) + (", ..." if len(images) > 3 else "")
