"""CIRCO (Baldrati et al., ICCV 2023): photos of COCO, with every right answer annotated.

The gallery is COCO's 123 403 unlabeled images of 2017, the reference among them. mAP@K divides by
min(K, right answers) and counts all of them; R@K counts only the image that the caption was
written for; both as CIRCO's ``evaluation.py`` does. The annotations' shared concept is not used,
as SEARLE and LinCIR do not use it, unless the prompt has a ``{concept}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import read_json, read_records, require_known
from ztcir_sdk.evaluation.benchmarks.embedding_run import ComposedQuery, EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.report import (
    Answer,
    Asked,
    BenchmarkReport,
    Scores,
    check_split,
    show_answers,
)
from ztcir_sdk.evaluation.benchmarks.streamed_ranking import Ranking, rank_blocks
from ztcir_sdk.evaluation.metrics import (
    NO_ROW,
    average_precision_at_k,
    recall_at_k,
    relevance,
)
from ztcir_sdk.names import COMPOSED_PROMPT, TEXT_SLOT

__all__ = ["DOWNLOAD_HELP", "PROMPT", "SUBMISSION", "evaluate_circo"]

NAME = "circo"
PROMPT = COMPOSED_PROMPT
CONCEPT_SLOT = "{concept}"
KS = (5, 10, 25, 50)
SUBMISSION = "circo-test.json"
ALL = "all"
ASPECT = "aspect"

DOWNLOAD_HELP = """\
CIRCO: photos of COCO 2017 unlabeled, 123 403 images; --root is a folder like this:

  CIRCO/
    annotations/          {val,test}.json
    COCO2017_unlabeled/
      annotations/        image_info_unlabeled2017.json
      unlabeled2017/      000000243611.jpg ...

Annotations: git clone https://github.com/miccunifi/CIRCO.git
Images and their list: "2017 Unlabeled images" and "2017 Unlabeled Image info" of
https://cocodataset.org/#download
Where to send what --split test writes: https://circo.micc.unifi.it/
"""


@dataclass(frozen=True)
class _Query:
    id: str
    reference: int
    caption: str
    concept: str
    targets: tuple[int, ...]
    """All right answers, first the one that the caption was written for; none in test."""
    aspects: tuple[str, ...]


def evaluate_circo(
    run: EmbeddingRun,
    root: Path,
    methods: Sequence[Method],
    *,
    split: str = "val",
    answers: int = 0,
) -> BenchmarkReport:
    """Measure mAP@5, 10, 25, 50 and recall, for all queries and by semantic aspect.

    Of the test split, whose right answers are not published, give what to submit.

    Args:
        run: the bundle and its cache.
        root: the data set's folder; see `DOWNLOAD_HELP`.
        methods: how to answer; of the test split a single one. Their prompt may have a
            ``{concept}`` after its ``$``; then methods that read only the text read the concept
            too.
        split: "val" or "test".
        answers: how many queries to give back with what the first method finds for them.

    Raises:
        UsageError: there is no such split, or a method or its prompt is wrong.
        UnusableImagesError: images are missing or broken.
        ZtcirError: the annotations are missing or contradict each other, or the bundle cannot
            answer a method.
    """
    check_split("CIRCO", split, methods)
    plain = {method.name: _without_concept(method.prompt) for method in methods}
    queries = _read_queries(root, split)
    told = [replace(method, prompt=plain[method.name][0]) for method in methods]
    run.check(told, [queries[0].caption])
    images = _read_gallery(root)
    needed = [str(one) for query in queries for one in (query.reference, *query.targets)]
    known = {str(number) for number in images}
    require_known(needed, known, f"images of {split}.json", "image_info_unlabeled2017.json", NAME)
    gallery = list(images.values())
    run.embed(gallery)

    row = {number: place for place, number in enumerate(images)}
    scores: dict[str, Scores] = {}
    submissions: dict[str, Any] = {}
    shown: list[Answer] = []
    for method in told:
        pattern = plain[method.name][1]
        texts = [_said(pattern, query) for query in queries]
        vectors = run.encode(
            [
                ComposedQuery(images[query.reference], text)
                for query, text in zip(queries, texts, strict=True)
            ],
            method,
        )
        ranking = rank_blocks(vectors, run.blocks(gallery), max(KS))
        if split == "val":
            scores[method.name] = _score(queries, ranking, row)
        else:
            submissions[SUBMISSION] = _submission(queries, ranking, list(images))
        if answers and method is told[0]:
            asked = _asked(queries, texts, images)
            shown = show_answers(asked, ranking, gallery, method, answers, run.mapped_prompt)
    return BenchmarkReport(
        benchmark=NAME,
        split=split,
        queries=len(queries),
        gallery=len(gallery),
        prompt=methods[0].prompt,
        scores=scores,
        answers=shown,
        submissions=submissions,
    )


def _read_queries(root: Path, split: str) -> list[_Query]:
    file = root / "annotations" / f"{split}.json"
    fields: dict[str, type | tuple[type, ...]] = {
        "id": int,
        "reference_img_id": int,
        "relative_caption": str,
        "shared_concept": str,
    }
    if split == "val":
        # Annotations of before May 2024 have no semantic aspects, and are refused.
        fields |= {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list}
    queries: list[_Query] = []
    for number, record in enumerate(read_records(file, fields, NAME)):
        targets: list[int] = []
        if split == "val":
            targets = [record["target_img_id"], *record["gt_img_ids"]]
            if targets[0] not in targets[1:] or not all(type(one) is int for one in targets):
                raise ZtcirError(
                    f"Query {number} of {file} does not count its target among its right answers, "
                    "so the file is damaged: download it again."
                )
        queries.append(
            _Query(
                id=str(record["id"]),
                reference=record["reference_img_id"],
                caption=record["relative_caption"],
                concept=record["shared_concept"],
                targets=tuple(dict.fromkeys(targets)),
                aspects=tuple(map(str, record.get("semantic_aspects", []))),
            )
        )
    return queries


def _read_gallery(root: Path) -> dict[int, BenchmarkImage]:
    """Return the gallery's images by COCO's id, in COCO's order."""
    above = root / "COCO2017_unlabeled"
    file = above / "annotations" / "image_info_unlabeled2017.json"
    info = read_json(file, NAME)
    records = info.get("images") if isinstance(info, dict) else None
    try:
        gallery = {
            int(record["id"]): BenchmarkImage(
                str(record["id"]), above / "unlabeled2017" / str(record["file_name"])
            )
            for record in records or ()
        }
    except (TypeError, KeyError, ValueError):
        gallery = {}
    if not gallery:
        raise ZtcirError(f"{file} is no list of COCO's images: download it again.")
    return gallery


def _without_concept(prompt: str) -> tuple[str, str]:
    """Split a prompt with a ``{concept}`` into one without, and what goes into its text.

    The concept is data, so it goes where texts go, and cannot be taken for a placeholder:
    "a photo of $, {concept}, that {text}" asks "a photo of $, {text}" with the text
    "{concept}, that {text}".

    Raises:
        UsageError: the concept cannot be told from the reference.
    """
    if CONCEPT_SLOT not in prompt:
        return prompt, TEXT_SLOT
    match = re.fullmatch(
        r"(?P<before>[^{}]*\$[^{}]*?\s)(?P<span>\{(?:concept|text)\}[^${}]*\{(?:concept|text)\})"
        r"(?P<after>[^${}]*)",
        prompt,
    )
    if match is None or {CONCEPT_SLOT, TEXT_SLOT} - set(re.findall(r"\{\w+\}", match["span"])):
        raise UsageError(
            f"The prompt {prompt!r} needs a {CONCEPT_SLOT} and a {TEXT_SLOT}, both after its $ and "
            'set apart, as in "a photo of $ , {concept} , that {text}".'
        )
    return f"{match['before']}{TEXT_SLOT}{match['after']}", match["span"]


def _said(pattern: str, query: _Query) -> str:
    """Return the text of a query: its caption, and its concept where the pattern has it."""
    slots = {CONCEPT_SLOT: query.concept, TEXT_SLOT: query.caption}
    return re.sub(r"\{(?:concept|text)\}", lambda slot: slots[slot[0]], pattern)


def _score(queries: Sequence[_Query], ranking: Ranking, row: Mapping[int, int]) -> Scores:
    """Return mAP and recall of all queries, and mAP of each aspect's."""
    right = relevance(ranking[0], [{row[one] for one in query.targets} for query in queries])
    counts = [len(query.targets) for query in queries]
    first = relevance(ranking[0], [{row[query.targets[0]]} for query in queries])
    precisions = {f"mAP@{k}": average_precision_at_k(right, counts, k) for k in KS}
    recalls = {f"R@{k}": recall_at_k(first, k) for k in KS}
    scores: dict[tuple[str, ...], Mapping[str, float]] = {
        (ALL,): {name: float(each.mean()) for name, each in {**precisions, **recalls}.items()}
    }
    for aspect in sorted({aspect for query in queries for aspect in query.aspects}):
        own = np.array([aspect in query.aspects for query in queries])
        scores[ASPECT, aspect] = {
            name: float(each[own].mean()) for name, each in precisions.items()
        }
    return scores


def _submission(
    queries: Sequence[_Query], ranking: Ranking, ids: Sequence[int]
) -> dict[str, list[int]]:
    """Return the server's file: the ids of the first 50 images, by query."""
    return {
        query.id: [ids[number] for number in rows if number != NO_ROW]
        for query, rows in zip(queries, ranking[0], strict=True)
    }


def _asked(
    queries: Sequence[_Query], texts: Sequence[str], images: Mapping[int, BenchmarkImage]
) -> list[Asked]:
    return [
        Asked(
            query.id,
            query.aspects or (NAME,),
            text,
            images[query.reference],
            {images[one] for one in query.targets} or None,
        )
        for query, text in zip(queries, texts, strict=True)
    ]
