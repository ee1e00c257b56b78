"""Which images count as the same, and which as an answer: the measures behind two constants.

    python -m benchmarks.answers --images 'catalogue/train-{0000..0001}.tar'

`NEAR_DUPLICATE` is the least cosine, in steps of 0.005, at which at most 1 % of the catalogue's
pictures have another picture, of other bytes, that is as similar. `STANDS_OUT` is the largest
number of standard deviations, in steps of 0.25, above which at least 90 % of the right pictures of
a query stand. Both are measured on training images, so that no validation image selects them.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.provenance import load_average, provenance
from cli.output import note, table
from train.data.collection import read_collection
from ztcir_sdk import Index, Retriever
from ztcir_sdk.answers.threshold import DEVIATIONS_OF_QUARTILE
from ztcir_sdk.environment import now
from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import CATALOGUE_COLUMNS, is_known
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.sources import read_image

__all__ = ["FILE", "describe_answers"]

FILE = "answers.json"
STEPS = np.arange(0.90, 1.0, 0.005)
DEVIATIONS = np.arange(1.0, 5.01, 0.25)
MAX_MERGED = 0.01
"""Share of pictures that may be merged with another picture of other bytes."""
MIN_KEPT = 0.90
"""Share of right pictures that the automatic threshold must keep."""
MIN_TARGETS = 3
BLOCK = 512

Change = Callable[[Image.Image], Image.Image]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the constants; return the exit code."""
    parser = command_parser("answers", "Measure near-duplicates and thresholds on a catalogue.")
    parser.add_argument("--images", nargs="+", default=[], help="shards of a catalogue")
    parser.add_argument("--index", type=Path, help="an index of them, in place of encoding them")
    parser.add_argument(
        "--training",
        nargs="+",
        help="shards of the training: the threshold is chosen on its held-out photos alone",
    )
    parser.add_argument("--copies", type=positive, default=120, help="pictures that are altered")
    parser.add_argument("--queries", type=positive, default=150, help="queries for the threshold")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    date, load, rng = now(), load_average(), np.random.default_rng(0)
    retriever = Retriever.from_pretrained()
    with tempfile.TemporaryDirectory(prefix="ztcir-answers-") as scratch:
        place = options.index
        if place is None:
            if not options.images:
                raise UsageError("Name the shards of a catalogue with --images, or an --index.")
            place = Path(scratch) / "catalogue.ztcir"
            retriever.index(expand_paths(options.images), to=place)
        index = Index.open(place, image_tower=retriever.image_tower)
        same = near_duplicates(retriever, index, options.copies, rng)
        held_out = None if options.training is None else _held_out(options.training)
        answers = thresholds(retriever, index, options.queries, rng, held_out)
    result = {
        **provenance(date, 1, load),
        "bundle": retriever.bundle.name,
        "images": len(index),
        "near_duplicate": same,
        "stands_out": answers,
    }
    write_result(options.output, result)
    table(("constant", "value"), [
        ("NEAR_DUPLICATE", f"{same['chosen']:g}"), ("STANDS_OUT", f"{answers['chosen']:g}"),
    ])  # fmt: skip


def near_duplicates(
    retriever: Retriever, index: Index, copies: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return how many pictures each cosine merges, and how many altered copies it finds."""
    items, vectors = list(index.items()), index.vectors()
    contents = np.unique([item.content_hash for item in items], return_inverse=True)[1]
    nearest = np.empty(len(items), dtype=np.float32)
    for start in range(0, len(items), BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        scores[contents[start : start + BLOCK, None] == contents[None]] = -1
        nearest[start : start + BLOCK] = scores.max(axis=1)
    merged = [float((nearest >= step).mean()) for step in STEPS]
    chosen = float(STEPS[next(i for i, share in enumerate(merged) if share <= MAX_MERGED)])
    note(f"Altering {copies} pictures")
    picked = rng.choice(len(items), min(copies, len(items)), replace=False)
    pictures = [_picture(index, items[i].path) for i in picked]
    found = {}
    for name, change in CHANGES.items():
        altered = retriever.encode_images([change(picture) for picture in pictures])
        cosines = (altered * vectors[picked]).sum(axis=1)
        found[name] = float((cosines >= chosen).mean())
    steps = {f"{step:.3f}": share for step, share in zip(STEPS, merged, strict=True)}
    return {"chosen": round(chosen, 3), "merged": steps, "copies_found": found}


def _picture(index: Index, path: str) -> Image.Image:
    with Image.open(io.BytesIO(read_image(index.root, path))) as image:
        return image.convert("RGB")


def _jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return change


def _scaled(factor: float) -> Change:
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )


def _cropped(image: Image.Image) -> Image.Image:
    x, y = image.width // 50 + 1, image.height // 50 + 1
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Change] = {
    "JPEG of quality 90": _jpeg(90),
    "JPEG of quality 70": _jpeg(70),
    "1.5 times as large": _scaled(1.5),
    "0.75 times as large": _scaled(0.75),
    "edges of 2 % cut off": _cropped,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def thresholds(
    retriever: Retriever,
    index: Index,
    count: int,
    rng: np.random.Generator,
    held_out: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the shares of right and of other pictures above each number of deviations.

    A bundle's prototypes are means of training photos, so that those stand out more than the photos
    of a stranger: ``held_out`` are the ids of the photos to ask about and to find, None for all.
    """
    found = [
        (item, vector)
        for item, vector in zip(index.items(), index.vectors(), strict=True)
        if held_out is None or PurePosixPath(item.path).stem in held_out
    ]
    if not found:
        raise UsageError("None of the pictures was held out of the training.")
    items, vectors = [item for item, _ in found], np.stack([vector for _, vector in found])
    columns = [
        np.array([str((item.metadata or {}).get(name, "")) for item in items])
        for name in CATALOGUE_COLUMNS.values()
    ]
    gender, kind, colour = columns
    asked: list[tuple[int, str]] = []
    for i in rng.permutation(len(items)):
        alike = (gender == gender[i]) & (kind == kind[i])
        colours, numbers = np.unique(colour[alike], return_counts=True)
        others = [
            str(c)
            for c, n in zip(colours, numbers, strict=True)
            if n >= MIN_TARGETS and c != colour[i] and is_known(str(c))
        ]
        if others:
            asked.append((int(i), str(rng.choice(others))))
        if len(asked) == count:
            break
    if not asked:
        raise UsageError("The pictures have no articleType and baseColour to ask for.")
    note(f"Asking {len(asked)} queries")
    references = retriever.references([_picture(index, items[i].path) for i, _ in asked])
    texts = [f"in {wanted.lower()}" for _, wanted in asked]
    queries = retriever.encode_queries(references, texts, list(range(len(asked))))
    right, other = [], []
    for (i, wanted), query in zip(asked, queries, strict=True):
        deviations = _deviations(np.delete(vectors @ query, i))
        is_right = np.delete((gender == gender[i]) & (kind == kind[i]) & (colour == wanted), i)
        right.append([float((deviations[is_right] >= step).mean()) for step in DEVIATIONS])
        other.append([float((deviations[~is_right] >= step).mean()) for step in DEVIATIONS])
    kept, wrong = np.mean(right, axis=0), np.mean(other, axis=0)
    chosen = max(step for step, share in zip(DEVIATIONS, kept, strict=True) if share >= MIN_KEPT)
    return {
        "chosen": float(chosen),
        "queries": len(asked),
        "right_kept": {f"{s:g}": float(v) for s, v in zip(DEVIATIONS, kept, strict=True)},
        "others_kept": {f"{s:g}": float(v) for s, v in zip(DEVIATIONS, wrong, strict=True)},
    }


def _held_out(shards: Sequence[str]) -> set[str]:
    _, development = read_collection(shards, drawings=0)
    return {image.item.id for image in development}


def _deviations(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return scores as standard deviations above the median; see `answers.threshold`."""
    quartile, median = np.quantile(scores, (0.25, 0.5))
    deviation = (median - quartile) / DEVIATIONS_OF_QUARTILE
    return np.asarray((scores - median) / deviation, dtype=np.float64)


def describe_answers(values: Any) -> str:
    """Describe the result file, for `docs/collections.md`."""
    same, answers = values["near_duplicate"], values["stands_out"]
    found = ", ".join(f"{name} {share:.0%}" for name, share in same["copies_found"].items())
    step = f"{answers['chosen']:g}"
    return (
        f"Near-duplicates have a cosine of at least {same['chosen']:g}. Among {values['images']} "
        "pictures of a catalogue that merges "
        f"{same['merged'][format(same['chosen'], '.3f')]:.1%} with a different picture, and finds "
        f"altered copies: {found}. `--threshold auto` keeps scores of {step} standard deviations "
        f"above the index's: {answers['right_kept'][step]:.0%} of the right pictures of "
        f"{answers['queries']} queries, and {answers['others_kept'][step]:.1%} of the others. It "
        "removes what does not stand out; it does not detect that an index has no answer at all, "
        "where the nearest images stand out nearly as far."
    )


if __name__ == "__main__":
    sys.exit(main())
