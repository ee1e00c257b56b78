"""GeneCIS (Vaze et al., CVPR 2023): images similar to the reference under a named condition.

Four tasks: focus on, or change, an attribute or an object. Each query has its own gallery: the
target and its distractors, 14 of them in the object tasks, but not the reference. The object tasks
use whole images of COCO's validation set of 2017; the attribute tasks use objects cropped from
images of Visual Genome. Equal scores rank by image id, so that being the target, which the
annotations list separately, is no advantage. Images are not turned as their EXIF says, as in
GeneCIS's own code: the boxes refer to the pixels as they are stored. A distractor that is listed
twice takes two places, as in its ``eval_functions.py``; one that is the target is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.benchmarks.annotations import read_records
from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark, Outcome
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage, Box
from ztcir_sdk.evaluation.benchmarks.queries import Annotations, Part, Query
from ztcir_sdk.evaluation.benchmarks.report import RankedPart, average_scores
from ztcir_sdk.evaluation.ranking import rank_own

NAME = "genecis"
TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
RECALLS = (1, 2, 3)

_COCO = ("val2017",)
_GENOME = ("VG_100K_all", "VG_100K", "VG_100K_2")

DOWNLOAD_HELP = """\
GeneCIS: photos of COCO, and objects in photos of Visual Genome. --root is a folder like this:

  GeneCIS/
    genecis/      {focus,change}_{attribute,object}.json
    val2017/      000000189213.jpg ...   (for the object tasks)
    VG_100K_all/  2344853.jpg ...        (for the attribute tasks)

Annotations: the folder genecis/ of https://github.com/facebookresearch/genecis. A task whose file
is missing is left out, and a note says so.
val2017/: "2017 Val images" of https://cocodataset.org/#download
VG_100K_all/: both parts of the images of Visual Genome 1.2,
http://visualgenome.org/api/v0/api_home.html; they may also stay in VG_100K/ and VG_100K_2/.
"""


class _ImageRecord(msgspec.Struct):
    """An image of COCO, or an object in an image of Visual Genome."""

    val_image_id: int | None = None
    image_id: int | None = None
    instance_bbox: Box | None = None

    def __post_init__(self) -> None:
        if self.val_image_id is None and None in (self.image_id, self.instance_bbox):
            raise ValueError("an image has no id, or no box")


class _Record(msgspec.Struct):
    condition: str
    reference: _ImageRecord
    target: _ImageRecord
    gallery: list[_ImageRecord]


@dataclass(frozen=True)
class _Query(Query):
    gallery: tuple[BenchmarkImage, ...] = ()
    """The target and the other distractors; one that is listed twice is in it twice."""


def _read(root: Path, split: str) -> Annotations[_Query]:
    folder = root / "genecis" if (root / "genecis").is_dir() else root
    files = {task: folder / f"{task}.json" for task in TASKS}
    absent = [task for task, file in files.items() if not file.is_file()]
    if len(absent) == len(TASKS):
        raise ZtcirError(
            f"There are no annotations of GeneCIS in {folder}: `ztcir eval {NAME} "
            "--download-help` shows where to get them."
        )
    queries = {task: _read_task(root, task, files[task]) for task in TASKS if task not in absent}
    parts = {
        task: Part(own, sorted({image for query in own for image in query.gallery}, key=_order))
        for task, own in queries.items()
    }
    images = [
        image
        for own in queries.values()
        for query in own
        for image in (query.reference, *query.gallery)
    ]
    note = (
        f"The annotations of {', '.join(absent)} are missing, so there is no average of the four "
        "tasks."
    )
    return Annotations(parts, images, [note] if absent else [])


def _read_task(root: Path, task: str, file: Path) -> list[_Query]:
    queries: list[_Query] = []
    for number, record in enumerate(read_records(file, _Record, NAME)):
        target = _image(root, record.target)
        distractors = (_image(root, one) for one in record.gallery)
        queries.append(
            _Query(
                reference=_image(root, record.reference),
                text=record.condition,
                id=f"{task} {number}",
                targets=(target,),
                categories=(task,),
                # A distractor may be the target, which cannot rank behind itself.
                gallery=(target, *(one for one in distractors if one != target)),
            )
        )
    return queries


def _image(root: Path, record: _ImageRecord) -> BenchmarkImage:
    if (number := record.val_image_id) is not None:
        path = _file(root, _COCO, f"{number:012d}.jpg")
        return BenchmarkImage(str(number), path, upright=False)
    number = record.image_id
    path = _file(root, _GENOME, f"{number}.jpg")
    return BenchmarkImage(str(number), path, record.instance_bbox, upright=False)


def _file(root: Path, folders: Sequence[str], name: str) -> Path:
    """Return the path of a file in the first folder that contains it, or else in the first."""
    paths = [root / folder / name for folder in folders]
    return next((path for path in paths if len(paths) > 1 and path.is_file()), paths[0])


def _order(image: BenchmarkImage) -> tuple[int, tuple[float, ...]]:
    return int(image.name), image.box or ()


def _score(run: EmbeddingRun, annotations: Annotations[_Query], method: Method) -> Outcome:
    scores: dict[tuple[str, ...], Mapping[str, float]] = {}
    ranked: list[RankedPart] = []
    for task, part in annotations.parts.items():
        vectors = run.encode(part.queries, method)
        galleries = [[part.rows[image] for image in query.gallery] for query in part.queries]
        depth = max(map(len, galleries))
        ranking = rank_own(vectors, run.vectors(part.gallery), galleries, depth)
        scores[task,] = part.recalls(ranking, RECALLS)
        ranked.append(RankedPart(part, ranking, reference_ranked=False))
    if len(scores) == len(TASKS):
        scores["average",] = average_scores(scores.values())
    return Outcome(ranked, scores)


BENCHMARK = Benchmark(
    name=NAME,
    title="GeneCIS",
    help="""\
Each query ranks its own gallery. Recall is listed by task; a task whose annotations are missing is
left out.""",
    download_help=DOWNLOAD_HELP,
    read=_read,
    score=_score,
    split_help="there is one set of queries, and its targets are published",
)
