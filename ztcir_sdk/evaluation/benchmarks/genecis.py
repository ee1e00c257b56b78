"""GeneCIS (Vaze et al., CVPR 2023): find what is like the reference by the condition that is named.

Four tasks: focus on, or change, an attribute or an object. Each query has a gallery of its own: the
target and its distractors, 14 of them in the object tasks; the reference is not in it. Images of
the object tasks are whole, from COCO's validation set of 2017; those of the attribute tasks are
objects cut out of Visual Genome's. Ties rank by the image's id, so that it is no advantage to be
the target, which the annotations list apart. A distractor that is listed twice takes two places, as
in GeneCIS's own ``eval_functions.py``; one that is the target is the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import read_records
from ztcir_sdk.evaluation.benchmarks.embedding_run import ComposedQuery, EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.report import (
    Answer,
    Asked,
    BenchmarkReport,
    Scores,
    show_answers,
)
from ztcir_sdk.evaluation.benchmarks.streamed_ranking import Ranking, rank_own
from ztcir_sdk.evaluation.metrics import recall_at_k, relevance
from ztcir_sdk.names import COMPOSED_PROMPT

__all__ = ["DOWNLOAD_HELP", "PROMPT", "TASKS", "evaluate_genecis"]

NAME = "genecis"
TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
PROMPT = COMPOSED_PROMPT
RECALLS = (1, 2, 3)
AVERAGE = "average"

_COCO = ("val2017",)
_GENOME = ("VG_100K_all", "VG_100K", "VG_100K_2")

DOWNLOAD_HELP = """\
GeneCIS: photos of COCO and objects in photos of Visual Genome; --root is a folder like this:

  GeneCIS/
    genecis/      {focus,change}_{attribute,object}.json
    val2017/      000000189213.jpg ...   (for the object tasks)
    VG_100K_all/  2344853.jpg ...        (for the attribute tasks)

Annotations: the folder genecis/ of https://github.com/facebookresearch/genecis; tasks whose file
is not there are left out, and said so.
val2017/: "2017 Val images" of https://cocodataset.org/#download
VG_100K_all/: both parts of the images of Visual Genome 1.2,
http://visualgenome.org/api/v0/api_home.html; they may also stay in VG_100K/ and VG_100K_2/.
"""


@dataclass(frozen=True)
class _Query:
    condition: str
    reference: BenchmarkImage
    target: BenchmarkImage
    gallery: tuple[BenchmarkImage, ...]
    """The target, and the distractors that are not it, as often as they are listed."""


def evaluate_genecis(
    run: EmbeddingRun,
    root: Path,
    methods: Sequence[Method],
    *,
    split: str = "val",
    answers: int = 0,
) -> BenchmarkReport:
    """Measure R@1, 2, 3 of each task whose annotations are there; their average if all are.

    Args:
        run: the bundle and its cache.
        root: the data set's folder; see `DOWNLOAD_HELP`.
        methods: how to answer; all are measured.
        split: "val": there is one set of queries, of validation images.
        answers: how many queries to give back with what the first method finds for them.

    Raises:
        UsageError: another split, or a method is wrong.
        UnusableImagesError: images are missing or broken.
        ZtcirError: there are no annotations, or they are damaged, or the bundle cannot answer a
            method.
    """
    if split != "val":
        raise UsageError("GeneCIS has one set of queries, whose targets are published: use val.")
    tasks, absent = _read(root)
    run.check(methods, [next(iter(tasks.values()))[0].condition])
    everything = [
        image
        for queries in tasks.values()
        for query in queries
        for image in (query.reference, *query.gallery)
    ]
    run.embed(everything)

    scores: dict[str, Scores] = {}
    shown: list[Answer] = []
    for method in methods:
        parts: dict[tuple[str, ...], Mapping[str, float]] = {}
        for task, queries in tasks.items():
            pool = sorted({image for query in queries for image in query.gallery}, key=_order)
            row = {image: number for number, image in enumerate(pool)}
            ranking = _rank(run, queries, pool, row, method)
            relevant = relevance(ranking[0], [{row[query.target]} for query in queries])
            parts[(task,)] = {f"R@{k}": float(recall_at_k(relevant, k).mean()) for k in RECALLS}
            if answers and method is methods[0]:
                wanted = -(-answers // len(tasks))
                asked = _asked(task, queries)
                shown += show_answers(asked, ranking, pool, method, wanted, run.mapped_prompt)
        if not absent:
            parts[(AVERAGE,)] = {
                f"R@{k}": float(np.mean([parts[(task,)][f"R@{k}"] for task in TASKS]))
                for k in RECALLS
            }
        scores[method.name] = parts
    notes = [
        f"The annotations of {', '.join(absent)} are not there, so there is no average of the "
        "four tasks."
    ]
    return BenchmarkReport(
        benchmark=NAME,
        split=split,
        queries=sum(map(len, tasks.values())),
        gallery=len(
            {image for queries in tasks.values() for one in queries for image in one.gallery}
        ),
        prompt=methods[0].prompt,
        scores=scores,
        answers=shown,
        notes=notes if absent else (),
    )


def _read(root: Path) -> tuple[dict[str, list[_Query]], list[str]]:
    """Return the tasks that are there with their queries, and the names of the others."""
    folder = root / "genecis" if (root / "genecis").is_dir() else root
    tasks: dict[str, list[_Query]] = {}
    absent: list[str] = []
    for task in TASKS:
        file = folder / f"{task}.json"
        if file.is_file():
            tasks[task] = _read_task(root, file)
        else:
            absent.append(task)
    if not tasks:
        raise ZtcirError(
            f"There are no annotations of GeneCIS in {folder}: `ztcir eval {NAME} "
            "--download-help` says where they come from."
        )
    return tasks, absent


def _read_task(root: Path, file: Path) -> list[_Query]:
    fields = {"condition": str, "reference": dict, "target": dict, "gallery": list}
    queries: list[_Query] = []
    for number, record in enumerate(read_records(file, fields, NAME)):
        where = f"Query {number} of {file}"
        target = _image(root, record["target"], where)
        listed = [_image(root, one, where) for one in record["gallery"]]
        # A distractor may be the target once more, which cannot be behind itself.
        gallery = (target, *(one for one in listed if one != target))
        reference = _image(root, record["reference"], where)
        queries.append(_Query(record["condition"], reference, target, gallery))
    return queries


def _image(root: Path, record: Any, where: str) -> BenchmarkImage:
    """Return an image of COCO, or an object in one of Visual Genome."""
    try:
        if "val_image_id" in record:
            number = int(record["val_image_id"])
            return BenchmarkImage(str(number), _file(root, _COCO, f"{number:012d}.jpg"))
        number = int(record["image_id"])
        x, y, width, height = map(float, record["instance_bbox"])
    except (TypeError, KeyError, ValueError) as error:
        raise ZtcirError(
            f"{where} has an image without an id, or without its box: download the annotations "
            "again."
        ) from error
    return BenchmarkImage(str(number), _file(root, _GENOME, f"{number}.jpg"), (x, y, width, height))


def _file(root: Path, folders: Sequence[str], name: str) -> Path:
    """Return the image's file in the first of some folders that has it; else in the first."""
    for folder in folders[1:]:
        if (root / folder / name).is_file() and not (root / folders[0] / name).is_file():
            return root / folder / name
    return root / folders[0] / name


def _order(image: BenchmarkImage) -> tuple[int, tuple[float, ...]]:
    return int(image.name), image.box or ()


def _rank(
    run: EmbeddingRun,
    queries: Sequence[_Query],
    pool: Sequence[BenchmarkImage],
    row: Mapping[BenchmarkImage, int],
    method: Method,
) -> Ranking:
    vectors = run.encode(
        [ComposedQuery(query.reference, query.condition) for query in queries], method
    )
    galleries = [[row[image] for image in query.gallery] for query in queries]
    return rank_own(vectors, run.vectors(pool), galleries, max(len(one) for one in galleries))


def _asked(task: str, queries: Sequence[_Query]) -> list[Asked]:
    return [
        Asked(
            f"{task} {number}",
            (task,),
            query.condition,
            query.reference,
            {query.target},
            reference_ranked=False,
        )
        for number, query in enumerate(queries)
    ]
