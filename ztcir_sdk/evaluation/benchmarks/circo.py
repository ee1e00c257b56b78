"""CIRCO (Baldrati et al., ICCV 2023): photos of COCO, with all correct images annotated.

The gallery is COCO's 123 403 unlabeled images of 2017, the reference among them. mAP@K divides by
min(K, correct images) and counts all of them; R@K counts only the image for which the caption was
written. CIRCO's ``evaluation.py`` does the same. The annotations' shared concept is not used, as in
SEARLE and LinCIR, unless the prompt has a ``{concept}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.benchmarks.annotations import (
    read_annotations,
    read_records,
    require_known,
)
from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark, Outcome
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.queries import Annotations, Part, Query
from ztcir_sdk.evaluation.benchmarks.report import RankedPart, Scores
from ztcir_sdk.evaluation.metrics import average_precision_at_k, recall_at_k, relevance
from ztcir_sdk.evaluation.ranking import NO_ROW, Ranking, rank_blocks
from ztcir_sdk.names import TEXT_SLOT

NAME = "circo"
CONCEPT_SLOT = "{concept}"
DEPTHS = (5, 10, 25, 50)
SUBMISSION = "circo-test.json"

DOWNLOAD_HELP = """\
CIRCO: photos of COCO 2017 unlabeled, 123 403 images. --root is a folder like this:

  CIRCO/
    annotations/          {val,test}.json
    COCO2017_unlabeled/
      annotations/        image_info_unlabeled2017.json
      unlabeled2017/      000000243611.jpg ...

Annotations: git clone https://github.com/miccunifi/CIRCO.git
Images and their list: "2017 Unlabeled images" and "2017 Unlabeled Image info" of
https://cocodataset.org/#download
Send the file of --split test to: https://circo.micc.unifi.it/
"""


class _TestRecord(msgspec.Struct):
    id: int
    reference_img_id: int
    relative_caption: str
    shared_concept: str


class _Record(_TestRecord):
    target_img_id: int
    gt_img_ids: tuple[int, ...]
    semantic_aspects: tuple[str, ...]
    """Annotations from before May 2024 lack them, and are refused."""

    def __post_init__(self) -> None:
        if self.target_img_id not in self.gt_img_ids:
            raise ValueError("its target is not among its correct images")


class _CocoImage(msgspec.Struct):
    id: int
    file_name: str


class _CocoInfo(msgspec.Struct):
    images: list[_CocoImage]


@dataclass(frozen=True)
class _Query(Query):
    """A query; its first target is the image for which the caption was written."""

    concept: str = ""
    aspects: tuple[str, ...] = ()


def _read(root: Path, split: str) -> Annotations[_Query]:
    file = root / "annotations" / f"{split}.json"
    records = read_records(file, _Record if split == "val" else _TestRecord, NAME)
    images = _read_gallery(root)
    named = [str(number) for record in records for number in _named_images(record)]
    known = {str(number) for number in images}
    require_known(named, known, f"images of {file.name}", "image_info_unlabeled2017.json", NAME)
    gallery = list(images.values())
    return Annotations({split: Part([_query(one, images) for one in records], gallery)}, gallery)


def _read_gallery(root: Path) -> dict[int, BenchmarkImage]:
    """Return the gallery's images by COCO's id, in COCO's order."""
    folder = root / "COCO2017_unlabeled"
    file = folder / "annotations" / "image_info_unlabeled2017.json"
    info = read_annotations(file, _CocoInfo, NAME, "list of COCO's images")
    return {
        one.id: BenchmarkImage(str(one.id), folder / "unlabeled2017" / one.file_name)
        for one in info.images
    }


def _named_images(record: _TestRecord) -> list[int]:
    """Return the ids of a query's reference and targets, first the caption's own target."""
    targets = (record.target_img_id, *record.gt_img_ids) if isinstance(record, _Record) else ()
    return [record.reference_img_id, *dict.fromkeys(targets)]


def _query(record: _TestRecord, images: Mapping[int, BenchmarkImage]) -> _Query:
    reference, *targets = (images[number] for number in _named_images(record))
    aspects = record.semantic_aspects if isinstance(record, _Record) else ()
    return _Query(
        reference=reference,
        text=record.relative_caption,
        id=str(record.id),
        targets=tuple(targets),
        categories=aspects or (NAME,),
        concept=record.shared_concept,
        aspects=aspects,
    )


def _split_concept(prompt: str) -> tuple[str, str]:
    """Split a prompt with a ``{concept}`` into a prompt without one and a pattern for its text.

    The concept comes from the data. As part of the text, it cannot be mistaken for a placeholder:
    "a photo of $, {concept}, that {text}" becomes "a photo of $, {text}" with the pattern
    "{concept}, that {text}".

    Raises:
        UsageError: the pattern includes the placeholder, or lacks a slot.
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
            'separated by spaces, as in "a photo of $ , {concept} , that {text}".'
        )
    return f"{match['before']}{TEXT_SLOT}{match['after']}", match["span"]


def _with_concept(pattern: str, query: _Query) -> _Query:
    """Replace a query's text by the pattern, filled with its caption and its concept."""
    values = {CONCEPT_SLOT: query.concept, TEXT_SLOT: query.text}
    text = re.sub(r"\{(?:concept|text)\}", lambda slot: values[slot[0]], pattern)
    return replace(query, text=text)


def _score(run: EmbeddingRun, annotations: Annotations[_Query], method: Method) -> Outcome:
    [(split, part)] = annotations.parts.items()
    prompt, pattern = _split_concept(method.prompt)
    part = replace(part, queries=[_with_concept(pattern, query) for query in part.queries])
    vectors = run.encode(part.queries, replace(method, prompt=prompt))
    ranking = rank_blocks(vectors, run.blocks(part.gallery), max(DEPTHS))
    ranked = [RankedPart(part, ranking)]
    if split == "test":
        return Outcome(ranked, submissions={SUBMISSION: _submission(part, ranking)})
    return Outcome(ranked, _precisions_and_recalls(part, ranking))


def _precisions_and_recalls(part: Part[_Query], ranking: Ranking) -> Scores:
    """Return mAP and recall of all queries, and mAP of each semantic aspect's queries."""
    relevant = part.relevance(ranking)
    counts = [len(query.targets) for query in part.queries]
    captioned = relevance(ranking[0], [{part.rows[query.targets[0]]} for query in part.queries])
    precisions = {f"mAP@{k}": average_precision_at_k(relevant, counts, k) for k in DEPTHS}
    recalls = {f"R@{k}": recall_at_k(captioned, k) for k in DEPTHS}
    scores: dict[tuple[str, ...], Mapping[str, float]] = {
        ("all",): {name: float(each.mean()) for name, each in {**precisions, **recalls}.items()}
    }
    for aspect in sorted({aspect for query in part.queries for aspect in query.aspects}):
        own = np.array([aspect in query.aspects for query in part.queries])
        scores["aspect", aspect] = {
            name: float(each[own].mean()) for name, each in precisions.items()
        }
    return scores


def _submission(part: Part[_Query], ranking: Ranking) -> dict[str, list[int]]:
    """Return the server's file: the ids of the first 50 images, by query."""
    return {
        query.id: [int(part.gallery[row].name) for row in rows if row != NO_ROW]
        for query, rows in zip(part.queries, ranking[0], strict=True)
    }


BENCHMARK = Benchmark(
    name=NAME,
    title="CIRCO",
    help="""\
mAP counts all correct images, also by semantic aspect; R@k counts only the image for which the
caption was written. A prompt may use the annotations' shared concept, as in "a photo of $ ,
{concept} , that {text}"; the default does not.""",
    download_help=DOWNLOAD_HELP,
    read=_read,
    score=_score,
    splits=("val", "test"),
    split_help="test writes the file that the server of CIRCO takes",
    plain_method=lambda method: replace(method, prompt=_split_concept(method.prompt)[0]),
)
