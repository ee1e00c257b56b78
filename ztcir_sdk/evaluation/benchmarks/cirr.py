"""CIRR (Liu et al., ICCV 2021): real-life photos, changed as a caption says.

The reference is removed before ranking. "R_subset" ranks only the five other images of the
reference's own group of six. The test split's targets are not published: its server takes two
files, which are made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import (
    find_folder,
    read_json,
    read_records,
    require_known,
)
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
from ztcir_sdk.evaluation.benchmarks.streamed_ranking import Ranking, rank_blocks, rank_own
from ztcir_sdk.evaluation.metrics import NO_ROW, recall_at_k, relevance
from ztcir_sdk.names import COMPOSED_PROMPT

__all__ = ["DOWNLOAD_HELP", "PROMPT", "SUBMISSIONS", "VERSION", "evaluate_cirr"]

NAME = "cirr"
VERSION = "rc2"
"""Of the data set: its files are called so, and its server asks for it."""
PROMPT = COMPOSED_PROMPT
RECALLS = (1, 5, 10, 50)
SUBSET_RECALLS = (1, 2, 3)
MEAN = "mean(R@5, R_subset@1)"
"""What papers call the average."""
SUBMISSIONS = {"cirr-test1-recall.json": "recall", "cirr-test1-recall_subset.json": "recall_subset"}
"""File for the server -> the metric that it is for."""

_FILES = {"val": "val", "test": "test1"}

DOWNLOAD_HELP = """\
CIRR: real-life photos; --root is a folder like this:

  CIRR/
    cirr/
      captions/      cap.rc2.{val,test1}.json
      image_splits/  split.rc2.{val,test1}.json
    dev/             dev-0-0-img0.png ...     (for --split val)
    test1/           test1-0-0-img0.png ...   (for --split test)

Annotations: git clone -b cirr_dataset https://github.com/Cuberick-Orion/CIRR.git cirr
Images: those of NLVR2, by the form of https://github.com/lil-lab/nlvr/tree/master/nlvr2; they may
also lie in cirr/img_raw/, as the annotations' own README has them.
Where to send what --split test writes: https://cirr.cecs.anu.edu.au/
"""


@dataclass(frozen=True)
class _Query:
    id: str
    """``pairid``."""
    reference: str
    text: str
    group: tuple[str, ...]
    """The other images of the reference's group."""
    target: str | None
    """None in the test split."""


@dataclass(frozen=True)
class _Rankings:
    whole: Ranking
    subset: Ranking


def evaluate_cirr(
    run: EmbeddingRun,
    root: Path,
    methods: Sequence[Method],
    *,
    split: str = "val",
    answers: int = 0,
) -> BenchmarkReport:
    """Measure R@1, 5, 10, 50 and R_subset@1, 2, 3; of the test split, write what to submit.

    Args:
        run: the bundle and its cache.
        root: the data set's folder; see `DOWNLOAD_HELP`.
        methods: how to answer; of the test split a single one.
        split: "val" or "test".
        answers: how many queries to give back with what the first method finds for them.

    Raises:
        UsageError: there is no such split, or a method is wrong.
        UnusableImagesError: images are missing or broken.
        ZtcirError: the annotations are missing or contradict each other, or the bundle cannot
            answer a method.
    """
    check_split("CIRR", split, methods)
    queries, images = _read(root, split)
    run.check(methods, [queries[0].text])
    names, gallery = list(images), list(images.values())
    run.embed(gallery)

    row = {name: number for number, name in enumerate(names)}
    scores: dict[str, Scores] = {}
    submissions: dict[str, Any] = {}
    shown: list[Answer] = []
    for method in methods:
        vectors = run.encode(
            [ComposedQuery(images[query.reference], query.text) for query in queries], method
        )
        found = _rank(run, queries, vectors, gallery, row)
        if split == "val":
            scores[method.name] = {("val",): _score(queries, found, row)}
        else:
            submissions = _submissions(queries, found, names)
        if answers and method is methods[0]:
            ranking = found.whole
            if method.name == "mapped":  # the reference itself is sought, so it stays
                ranking = rank_blocks(vectors, run.blocks(gallery), max(RECALLS))
            shown = show_answers(
                _asked(queries, images), ranking, gallery, method, answers, run.mapped_prompt
            )
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


def _read(root: Path, split: str) -> tuple[list[_Query], dict[str, BenchmarkImage]]:
    """Return the queries, and the gallery's images by name, in the order of the split."""
    annotations = find_folder(root, ["cirr/captions", "captions"], NAME).parent
    file = annotations / "captions" / f"cap.{VERSION}.{_FILES[split]}.json"
    fields: dict[str, type | tuple[type, ...]] = {
        "pairid": int,
        "reference": str,
        "caption": str,
        "img_set": dict,
    }
    if split == "val":
        fields["target_hard"] = str
    queries: list[_Query] = []
    for number, record in enumerate(read_records(file, fields, NAME)):
        members = record["img_set"].get("members")
        reference, target = record["reference"], record.get("target_hard")
        if not isinstance(members, list) or not {reference, target or reference} <= set(members):
            raise ZtcirError(
                f"Query {number} of {file} has its reference or target outside of its own group "
                "of images, so the file is damaged: download it again."
            )
        if reference == target:
            raise ZtcirError(f"Query {number} of {file} has its reference as its target.")
        group = tuple(name for name in dict.fromkeys(members) if name != reference)
        queries.append(_Query(str(record["pairid"]), reference, record["caption"], group, target))

    split_file = annotations / "image_splits" / f"split.{VERSION}.{_FILES[split]}.json"
    paths = read_json(split_file, NAME)
    if not isinstance(paths, dict) or not all(isinstance(path, str) for path in paths.values()):
        raise ZtcirError(f"{split_file} is no list of images and their paths: download it again.")
    named = [name for query in queries for name in (query.reference, *query.group)]
    require_known(named, paths, f"images of {file.name}", split_file.name, NAME)
    folder = "dev" if split == "val" else "test1"
    places = [f"{above}{folder}" for above in ("", "cirr/img_raw/", "img_raw/")]
    top = find_folder(root, places, NAME).parent
    return queries, {name: BenchmarkImage(name, top / path) for name, path in paths.items()}


def _rank(
    run: EmbeddingRun,
    queries: Sequence[_Query],
    vectors: NDArray[np.float32],
    gallery: Sequence[BenchmarkImage],
    row: Mapping[str, int],
) -> _Rankings:
    whole = rank_blocks(
        vectors,
        run.blocks(gallery),
        max(RECALLS),
        excluded=[{row[query.reference]} for query in queries],
    )
    # Only the images that are in a group are read: all of them in CIRR, but not by this code.
    members = sorted({row[name] for query in queries for name in query.group})
    place = {number: position for position, number in enumerate(members)}
    own, own_scores = rank_own(
        vectors,
        run.vectors([gallery[number] for number in members]),
        [[place[row[name]] for name in query.group] for query in queries],
        max(SUBSET_RECALLS),
    )
    rows = np.array([*members, NO_ROW], dtype=np.int64)[own]  # NO_ROW is -1, the last
    return _Rankings(whole, (rows, own_scores))


def _score(queries: Sequence[_Query], found: _Rankings, row: Mapping[str, int]) -> dict[str, float]:
    targets = [{row[query.target]} for query in queries if query.target is not None]
    whole, subset = relevance(found.whole[0], targets), relevance(found.subset[0], targets)
    scores = {f"R@{k}": float(recall_at_k(whole, k).mean()) for k in RECALLS}
    for k in SUBSET_RECALLS:
        scores[f"R_subset@{k}"] = float(recall_at_k(subset, k).mean())
    scores[MEAN] = (scores["R@5"] + scores["R_subset@1"]) / 2
    return scores


def _submissions(
    queries: Sequence[_Query], found: _Rankings, names: Sequence[str]
) -> dict[str, Any]:
    """Return both files of the server: ``version``, ``metric``, and names by ``pairid``."""
    rankings = {"recall": found.whole[0], "recall_subset": found.subset[0]}
    return {
        file: {
            "version": VERSION,
            "metric": metric,
            **{
                query.id: [names[number] for number in rows if number != NO_ROW]
                for query, rows in zip(queries, rankings[metric], strict=True)
            },
        }
        for file, metric in SUBMISSIONS.items()
    }


def _asked(queries: Sequence[_Query], images: Mapping[str, BenchmarkImage]) -> list[Asked]:
    return [
        Asked(
            query.id,
            (NAME,),
            query.text,
            images[query.reference],
            None if query.target is None else {images[query.target]},
        )
        for query in queries
    ]
