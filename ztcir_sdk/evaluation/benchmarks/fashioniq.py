"""FashionIQ (Wu et al., CVPR 2021): dresses, shirts and tops, changed as two captions say.

Two protocols are in use, and their numbers are not comparable. "original" ranks all images of the
category's validation split. "val_union" ranks the union of the validation queries' candidates and
targets, as VAL does (Chen et al., CVPR 2020), which is fewer images and so gives higher recall.
The reference is ranked like any other image in both.

The captions are joined as SEARLE and LinCIR join them: stripped of ".?, ", with " and ", in both
orders; "both" is the mean of the two orders' embeddings, normalised: what those papers print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import (
    find_folder,
    read_json,
    read_records,
    require_known,
)
from ztcir_sdk.evaluation.benchmarks.embedding_run import ComposedQuery, EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage, locate
from ztcir_sdk.evaluation.benchmarks.report import (
    Answer,
    Asked,
    BenchmarkReport,
    Scores,
    show_answers,
)
from ztcir_sdk.evaluation.benchmarks.streamed_ranking import Ranking, rank_blocks
from ztcir_sdk.evaluation.metrics import recall_at_k, relevance
from ztcir_sdk.names import COMPOSED_PROMPT

__all__ = ["CATEGORIES", "DOWNLOAD_HELP", "ORDERS", "PROMPT", "PROTOCOLS", "evaluate_fashioniq"]

NAME = "fashioniq"
CATEGORIES = ("dress", "shirt", "toptee")
PROTOCOLS = ("original", "val_union")
ORDERS = ("forward", "reversed", "both")
PROMPT = COMPOSED_PROMPT
RECALLS = (10, 50)
SHOWN = ("original", "both")
"""Protocol and order of the answers that are shown."""

DOWNLOAD_HELP = """\
FashionIQ: dresses, shirts and tops; --root is a folder like this:

  FashionIQ/
    captions/      cap.{dress,shirt,toptee}.val.json
    image_splits/  split.{dress,shirt,toptee}.val.json
    images/        B00006M009.jpg ...

Captions and splits: https://github.com/XiaoxiaoGuo/fashion-iq
Images: the addresses in https://github.com/hongwang600/fashion-iq-metadata; every image that a
validation split names is needed. They may end in .jpg, .jpeg or .png.
"""


@dataclass(frozen=True)
class _Query:
    candidate: str
    target: str
    texts: tuple[str, str]
    """Forward and reversed."""


@dataclass(frozen=True)
class _Category:
    """One category's queries, and the names in each protocol's gallery."""

    queries: list[_Query]
    galleries: Mapping[str, list[str]]


def evaluate_fashioniq(
    run: EmbeddingRun,
    root: Path,
    methods: Sequence[Method],
    *,
    split: str = "val",
    answers: int = 0,
) -> BenchmarkReport:
    """Measure R@10 and R@50 by protocol, order of captions and category, and their averages.

    Args:
        run: the bundle and its cache.
        root: the data set's folder; see `DOWNLOAD_HELP`.
        methods: how to answer; all are measured.
        split: "val": the test split's targets are not published.
        answers: how many queries to give back with what the first method finds for them, by the
            original protocol and both orders.

    Raises:
        UsageError: another split, or a method is wrong.
        UnusableImagesError: images are missing or broken.
        ZtcirError: the annotations are missing or contradict each other, or the bundle cannot
            answer a method.
    """
    if split != "val":
        raise UsageError(
            "FashionIQ's test targets are not published, and its server is closed: use --split val."
        )
    categories = {category: _read(root, category) for category in CATEGORIES}
    run.check(methods, [categories["dress"].queries[0].texts[0]])
    names = {name: None for one in categories.values() for name in one.galleries["original"]}
    images = locate(find_folder(root, ["images"], NAME), names)
    run.embed(list(images.values()))

    scores: dict[str, Scores] = {}
    shown: list[Answer] = []
    for method in methods:
        parts: dict[tuple[str, ...], Mapping[str, float]] = {}
        for category, one in categories.items():
            vectors = _encode(run, one.queries, images, method)
            for protocol in PROTOCOLS:
                for order in ORDERS:
                    ranking = _rank(run, one, protocol, vectors[order], images)
                    parts[protocol, order, category] = _recalls(one, protocol, ranking)
                    if answers and method is methods[0] and (protocol, order) == SHOWN:
                        shown += show_answers(
                            _asked(category, one, images),
                            ranking,
                            [images[name] for name in one.galleries[protocol]],
                            method,
                            -(-answers // len(CATEGORIES)),
                            run.mapped_prompt,
                        )
        scores[method.name] = _with_averages(parts)
    return BenchmarkReport(
        benchmark=NAME,
        split=split,
        queries=sum(len(one.queries) for one in categories.values()),
        gallery=len(images),
        prompt=methods[0].prompt,
        scores=scores,
        answers=shown,
    )


def join_captions(first: str, second: str) -> str:
    """Join two captions as SEARLE's and LinCIR's ``validate.py`` do."""
    return f"{first.strip('.?, ')} and {second.strip('.?, ')}"


def _read(root: Path, category: str) -> _Category:
    file = root / "captions" / f"cap.{category}.val.json"
    records = read_records(file, {"candidate": str, "target": str, "captions": list}, NAME)
    split_file = root / "image_splits" / f"split.{category}.val.json"
    split = read_json(split_file, NAME)
    if not isinstance(split, list) or not all(isinstance(name, str) for name in split):
        raise ZtcirError(f"{split_file} is no list of image names: download it again.")
    queries: list[_Query] = []
    for number, record in enumerate(records):
        captions = record["captions"]
        if len(captions) != 2 or not all(isinstance(caption, str) for caption in captions):
            raise ZtcirError(f"Query {number} of {file} has not two captions: download it again.")
        first, second = captions
        texts = (join_captions(first, second), join_captions(second, first))
        queries.append(_Query(record["candidate"], record["target"], texts))
    named = list(dict.fromkeys(name for one in queries for name in (one.candidate, one.target)))
    require_known(named, set(split), f"images of {file.name}", split_file.name, NAME)
    union = set(named)
    original = list(dict.fromkeys(split))
    return _Category(
        queries, {"original": original, "val_union": [name for name in original if name in union]}
    )


def _encode(
    run: EmbeddingRun,
    queries: Sequence[_Query],
    images: Mapping[str, BenchmarkImage],
    method: Method,
) -> dict[str, NDArray[np.float32]]:
    """Return query embeddings (Q, D) by order of the captions."""
    vectors = {
        order: run.encode(
            [ComposedQuery(images[one.candidate], one.texts[place]) for one in queries], method
        )
        for place, order in enumerate(("forward", "reversed"))
    }
    mean = vectors["forward"].astype(np.float64) + vectors["reversed"]
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    return {**vectors, "both": mean.astype(np.float32)}


def _rank(
    run: EmbeddingRun,
    category: _Category,
    protocol: str,
    vectors: NDArray[np.float32],
    images: Mapping[str, BenchmarkImage],
) -> Ranking:
    gallery = [images[name] for name in category.galleries[protocol]]
    return rank_blocks(vectors, run.blocks(gallery), max(RECALLS))


def _recalls(category: _Category, protocol: str, ranking: Ranking) -> dict[str, float]:
    row = {name: number for number, name in enumerate(category.galleries[protocol])}
    relevant = relevance(ranking[0], [{row[one.target]} for one in category.queries])
    return {f"R@{k}": float(recall_at_k(relevant, k).mean()) for k in RECALLS}


def _with_averages(parts: Mapping[tuple[str, ...], Mapping[str, float]]) -> Scores:
    """Add the average over categories, each counting the same, as papers do."""
    averaged: dict[tuple[str, ...], Mapping[str, float]] = {}
    for protocol in PROTOCOLS:
        for order in ORDERS:
            own = {category: parts[protocol, order, category] for category in CATEGORIES}
            averaged.update({(protocol, order, category): own[category] for category in own})
            averaged[protocol, order, "average"] = {
                metric: float(np.mean([values[metric] for values in own.values()]))
                for metric in own[CATEGORIES[0]]
            }
    return averaged


def _asked(category: str, one: _Category, images: Mapping[str, BenchmarkImage]) -> list[Asked]:
    return [
        Asked(
            f"{category} {number}",
            (category,),
            query.texts[0],
            images[query.candidate],
            {images[query.target]},
        )
        for number, query in enumerate(one.queries)
    ]
