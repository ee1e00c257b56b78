"""FashionIQ (Wu et al., CVPR 2021): dresses, shirts and tops, each query with two captions.

Two protocols are in use, and their numbers are not comparable. "original" ranks all images of the
category's validation split. "val_union" ranks the union of the validation queries' candidates and
targets, as VAL does (Chen et al., CVPR 2020); these are fewer images, so recall is higher. Both
rank the reference like any other image.

The two captions are joined as in SEARLE and LinCIR: stripped of ".?, " and joined with " and ", in
both orders. "both" is the normalised mean of the two orders' embeddings, which those papers report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.evaluation.benchmarks.annotations import (
    find_folder,
    read_annotations,
    read_records,
    require_known,
)
from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark, Outcome
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import locate
from ztcir_sdk.evaluation.benchmarks.queries import Annotations, Part, Query
from ztcir_sdk.evaluation.benchmarks.report import RankedPart, average_scores
from ztcir_sdk.evaluation.ranking import rank_blocks

NAME = "fashioniq"
CATEGORIES = ("dress", "shirt", "toptee")
PROTOCOLS = ("original", "val_union")
ORDERS = ("forward", "reversed", "both")
RECALLS = (10, 50)
SHOWN = ("original", "both")
"""Protocol and order of the rankings that are shown."""

DOWNLOAD_HELP = """\
FashionIQ: dresses, shirts and tops. --root is a folder like this:

  FashionIQ/
    captions/      cap.{dress,shirt,toptee}.val.json
    image_splits/  split.{dress,shirt,toptee}.val.json
    images/        B00006M009.jpg ...

Captions and splits: https://github.com/XiaoxiaoGuo/fashion-iq
Images: the addresses in https://github.com/hongwang600/fashion-iq-metadata; every image that a
validation split names is needed. Their suffix may be .jpg, .jpeg or .png.
"""


class _Record(msgspec.Struct):
    candidate: str
    target: str
    captions: tuple[str, str]


@dataclass(frozen=True)
class _Query(Query):
    reversed_text: str = ""
    """The captions in reversed order."""


def join_captions(first: str, second: str) -> str:
    """Join two captions as SEARLE's and LinCIR's ``validate.py`` do."""
    return f"{first.strip('.?, ')} and {second.strip('.?, ')}"


def _read(root: Path, split: str) -> Annotations[_Query]:
    records: dict[str, list[_Record]] = {}
    galleries: dict[str, list[str]] = {}
    for category in CATEGORIES:
        file = root / "captions" / f"cap.{category}.{split}.json"
        records[category] = read_records(file, _Record, NAME)
        split_file = root / "image_splits" / f"split.{category}.{split}.json"
        names = read_annotations(split_file, list[str], NAME, "list of image names")
        galleries[category] = list(dict.fromkeys(names))
        named = [name for one in records[category] for name in (one.candidate, one.target)]
        require_known(named, set(names), f"images of {file.name}", split_file.name, NAME)
    everything = dict.fromkeys(name for names in galleries.values() for name in names)
    images = locate(find_folder(root, ["images"], NAME), everything)
    parts = {
        category: Part(
            [
                _Query(
                    reference=images[record.candidate],
                    text=join_captions(*record.captions),
                    id=f"{category} {number}",
                    targets=(images[record.target],),
                    categories=(category,),
                    reversed_text=join_captions(*record.captions[::-1]),
                )
                for number, record in enumerate(records[category])
            ],
            [images[name] for name in galleries[category]],
        )
        for category in CATEGORIES
    }
    return Annotations(parts, list(images.values()))


def _score(run: EmbeddingRun, annotations: Annotations[_Query], method: Method) -> Outcome:
    """Measure recall by protocol, order of captions and category, and the categories' average."""
    recalls: dict[tuple[str, ...], Mapping[str, float]] = {}
    ranked: list[RankedPart] = []
    for category, part in annotations.parts.items():
        vectors = _encode(run, part.queries, method)
        for protocol, own in (("original", part), ("val_union", _named_images(part))):
            for order in ORDERS:
                ranking = rank_blocks(vectors[order], run.blocks(own.gallery), max(RECALLS))
                recalls[protocol, order, category] = own.recalls(ranking, RECALLS)
                if (protocol, order) == SHOWN:
                    ranked.append(RankedPart(own, ranking))
    scores: dict[tuple[str, ...], Mapping[str, float]] = {}
    for protocol in PROTOCOLS:
        for order in ORDERS:
            by_category = {one: recalls[protocol, order, one] for one in CATEGORIES}
            by_category["average"] = average_scores(by_category.values())
            scores |= {(protocol, order, one): values for one, values in by_category.items()}
    return Outcome(ranked, scores)


def _encode(
    run: EmbeddingRun, queries: Sequence[_Query], method: Method
) -> dict[str, NDArray[np.float32]]:
    """Return query embeddings (Q, D) by order of the captions."""
    forward = run.encode(queries, method)
    backward = run.encode([replace(one, text=one.reversed_text) for one in queries], method)
    mean = forward.astype(np.float64) + backward
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    return {"forward": forward, "reversed": backward, "both": mean.astype(np.float32)}


def _named_images(part: Part[_Query]) -> Part[_Query]:
    """Reduce a part's gallery to the candidates and targets of its queries."""
    named = {image for query in part.queries for image in (query.reference, *query.targets)}
    return Part(part.queries, [image for image in part.gallery if image in named])


BENCHMARK = Benchmark(
    name=NAME,
    title="FashionIQ",
    help="""\
Two protocols are in use: original ranks all images of a category's split, val_union only candidates
and targets. The two captions are joined in both orders; "both" is the mean of the two embeddings,
which papers report.""",
    download_help=DOWNLOAD_HELP,
    read=_read,
    score=_score,
    split_help="the targets of the test split are not published, and its server is closed",
)
