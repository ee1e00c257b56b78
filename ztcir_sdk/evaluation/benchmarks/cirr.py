"""CIRR (Liu et al., ICCV 2021): real-life photos, each query with a caption.

The reference is removed before ranking. "R_subset" ranks only the five other images of the
reference's group of six. The targets of the test split are not published: its server takes two
files, which are made here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ztcir_sdk.evaluation.benchmarks.annotations import (
    find_folder,
    read_annotations,
    read_records,
    require_known,
)
from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark, Outcome
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.queries import Annotations, Part, Query
from ztcir_sdk.evaluation.benchmarks.report import RankedPart
from ztcir_sdk.evaluation.ranking import NO_ROW, Ranking, rank_blocks, rank_own

NAME = "cirr"
VERSION = "rc2"
"""Version of the data set, in its files' names and in submissions."""
RECALLS = (1, 5, 10, 50)
SUBSET_RECALLS = (1, 2, 3)
MEAN = "mean(R@5, R_subset@1)"
"""The average that papers report."""
SUBMISSIONS = {"cirr-test1-recall.json": "recall", "cirr-test1-recall_subset.json": "recall_subset"}
"""File for the server -> its metric."""

_FILES = {"val": "val", "test": "test1"}
_FOLDERS = {"val": "dev", "test": "test1"}

DOWNLOAD_HELP = """\
CIRR: real-life photos. --root is a folder like this:

  CIRR/
    cirr/
      captions/      cap.rc2.{val,test1}.json
      image_splits/  split.rc2.{val,test1}.json
    dev/             dev-0-0-img0.png ...     (for --split val)
    test1/           test1-0-0-img0.png ...   (for --split test)

Annotations: git clone -b cirr_dataset https://github.com/Cuberick-Orion/CIRR.git cirr
Images: those of NLVR2; request them with the form of
https://github.com/lil-lab/nlvr/tree/master/nlvr2. They may also be in cirr/img_raw/, where the
annotations' own README puts them.
Send the files of --split test to: https://cirr.cecs.anu.edu.au/
"""


class _Group(msgspec.Struct):
    members: tuple[str, ...]


class _TestRecord(msgspec.Struct):
    pairid: int
    reference: str
    caption: str
    img_set: _Group

    def __post_init__(self) -> None:
        if self.reference not in self.img_set.members:
            raise ValueError("its reference is outside of its own group of images")


class _Record(_TestRecord):
    target_hard: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_hard not in self.img_set.members:
            raise ValueError("its target is outside of its own group of images")
        if self.target_hard == self.reference:
            raise ValueError("its reference is its target")


@dataclass(frozen=True)
class _Query(Query):
    group: tuple[BenchmarkImage, ...] = ()
    """The other images of the reference's group."""


def _read(root: Path, split: str) -> Annotations[_Query]:
    folder = find_folder(root, ["cirr/captions", "captions"], NAME).parent
    file = folder / "captions" / f"cap.{VERSION}.{_FILES[split]}.json"
    records = read_records(file, _Record if split == "val" else _TestRecord, NAME)
    split_file = folder / "image_splits" / f"split.{VERSION}.{_FILES[split]}.json"
    paths = read_annotations(split_file, dict[str, str], NAME, "list of images and their paths")
    named = [name for record in records for name in record.img_set.members]
    require_known(named, paths, f"images of {file.name}", split_file.name, NAME)
    folders = [f"{above}{_FOLDERS[split]}" for above in ("", "cirr/img_raw/", "img_raw/")]
    above = find_folder(root, folders, NAME).parent
    images = {name: BenchmarkImage(name, above / path) for name, path in paths.items()}
    queries = [
        _Query(
            reference=images[record.reference],
            text=record.caption,
            id=str(record.pairid),
            targets=(images[record.target_hard],) if isinstance(record, _Record) else (),
            categories=(NAME,),
            group=tuple(
                images[name]
                for name in dict.fromkeys(record.img_set.members)
                if name != record.reference
            ),
        )
        for record in records
    ]
    gallery = list(images.values())
    return Annotations({split: Part(queries, gallery)}, gallery)


def _score(run: EmbeddingRun, annotations: Annotations[_Query], method: Method) -> Outcome:
    [(split, part)] = annotations.parts.items()
    vectors = run.encode(part.queries, method)
    references = [{part.rows[query.reference]} for query in part.queries]
    ranking = rank_blocks(vectors, run.blocks(part.gallery), max(RECALLS), excluded=references)
    groups = [[part.rows[image] for image in query.group] for query in part.queries]
    subset = rank_own(vectors, run.vectors(part.gallery), groups, max(SUBSET_RECALLS))
    shown = ranking
    if method.name == "mapped":  # it searches for the reference, which therefore stays
        shown = rank_blocks(vectors, run.blocks(part.gallery), max(RECALLS))
    ranked = [RankedPart(part, shown)]
    if split == "test":
        return Outcome(ranked, submissions=_submissions(part, ranking, subset))
    scores = part.recalls(ranking, RECALLS) | part.recalls(subset, SUBSET_RECALLS, "R_subset")
    scores[MEAN] = (scores["R@5"] + scores["R_subset@1"]) / 2
    return Outcome(ranked, {("val",): scores})


def _submissions(part: Part[_Query], ranking: Ranking, subset: Ranking) -> dict[str, Any]:
    """Return both files of the server: ``version``, ``metric``, and names by ``pairid``."""
    rankings = {"recall": ranking[0], "recall_subset": subset[0]}
    return {
        file: {
            "version": VERSION,
            "metric": metric,
            **{
                query.id: [part.gallery[row].name for row in rows if row != NO_ROW]
                for query, rows in zip(part.queries, rankings[metric], strict=True)
            },
        }
        for file, metric in SUBMISSIONS.items()
    }


BENCHMARK = Benchmark(
    name=NAME,
    title="CIRR",
    help="""\
The reference is removed before ranking. R_subset@k ranks only the five other images of the
reference's group of six.""",
    download_help=DOWNLOAD_HELP,
    read=_read,
    score=_score,
    splits=("val", "test"),
    split_help="test writes the two files that the server of CIRR takes",
)
