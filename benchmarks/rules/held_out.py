"""Measure what each rule for texts adds on training photos that were held out.

    python -m benchmarks.rules.held_out --catalogue catalogue

These requests chose the rules and their strengths (`export.default`), and the validation queries
did not. They are made from the photos' attributes, in the wordings of Stage II, for parts in a few
of this file, and for messages and languages in those of `benchmarks.rules.wordings` too. The photos
are the development images, which select checkpoints and train nothing.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.markdown import describe_source, format_count, format_table
from benchmarks.provenance import load_average, provenance
from benchmarks.rules.measure import LABELS, measure_rules
from benchmarks.rules.wordings import COLOURS as FOREIGN_COLOURS
from benchmarks.rules.wordings import FOREIGN, MESSAGES
from train.data.collection import read_collection
from train.data.image import TrainingImage
from train.data.item import Item
from train.triplets.from_attributes import write_triplets
from train.wordings import open_wordings
from ztcir_sdk.environment import now
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["COMMAND", "FILE", "describe_held_out", "main"]

FILE = "held-out.json"
COMMAND = "python -m benchmarks.rules.held_out"
COLOURS = ("Red", "Blue", "Black", "White", "Green", "Yellow", "Grey", "Brown", "Pink", "Purple")
GENDERS = {"Men": "Women", "Women": "Men"}
PARTS = (
    "{} with a belt",
    "in {} with laces",
    "{} with pockets",
    "without pockets in {}",
    "{} without a hood",
    "no hood, in {}",
    "in {}, with a zip",
    "with buttons, {}",
    "make it {} and add a belt",
)
UNKNOWN = ("toddler", "velcro", "waterproof", "bluetooth", "office", "gym", "ironing", "festival")
FEW = 3
"""Fewer right answers make no query."""

Asked = tuple[str, Callable[[Item], bool]]
"""A text, and whether an item is right."""
Maker = Callable[[Item, np.random.Generator], Asked]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result file; return the exit code."""
    parser = command_parser(
        "rules.held_out", "Measure what each rule adds on held-out training photos."
    )
    add = parser.add_argument
    add("--catalogue", type=Path, required=True, help="folder of train-0000.tar and so on")
    add("--queries", type=positive, default=300, help="queries of each kind")
    add("--threads", type=positive, default=available_cores(), help="threads of one graph")
    add("--out", type=Path, default=RESULTS / FILE, help="result file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    started, load = now(), load_average()
    _, images = read_collection([str(options.catalogue / "train-*.tar")])
    queries = list(requests([image.item for image in images], options.queries))
    with tempfile.TemporaryDirectory(prefix="ztcir-held-out-") as folder:
        photos, file = Path(folder) / "photos.tar", Path(folder) / "requests.jsonl"
        _write_photos(photos, images)
        write_triplets(file, queries)
        values = measure_rules([photos], [file], options.threads)
    values |= {"photos": len(images), "queries": len(queries)}
    write_result(options.out, {**provenance(started, options.threads, load), **values})


def _write_photos(path: Path, images: Sequence[TrainingImage]) -> None:
    with tarfile.open(path, "w") as archive:
        for image in images:
            content = BytesIO()
            image.load().save(content, "PNG")
            member = tarfile.TarInfo(f"{image.item.id}.png")
            member.size = content.tell()
            archive.addfile(member, BytesIO(content.getvalue()))


def requests(items: Sequence[Item], count: int) -> Iterator[Triplet]:
    """Yield up to `count` queries of each kind about items with a plain colour."""
    for kind, maker in MAKERS.items():
        rng, made = np.random.default_rng(0), 0
        for place in rng.permutation(len(items)):
            item = items[int(place)]
            if item.colour not in COLOURS or made == count:
                continue
            text, is_right = maker(item, rng)
            right = [one.id for one in items if is_right(one) and one.id != item.id]
            if text and len(right) >= FEW:
                made += 1
                yield Triplet(f"{kind}-{made}", kind, item.id, text, tuple(right))


def _alike(item: Item, **changes: str) -> Callable[[Item], bool]:
    """Return whether an item has the same type, gender and colour, but for the changes."""
    wanted = {name: getattr(item, name) for name in ("type", "gender", "colour")} | changes
    return lambda one: all(getattr(one, name) == value for name, value in wanted.items())


def _other_colour(item: Item, **changes: str) -> Callable[[Item], bool]:
    return lambda one: one.colour != item.colour and _alike(item, colour=one.colour, **changes)(one)


def _own_colour(item: Item, rng: np.random.Generator) -> Asked:
    return open_wordings.refusal_text(str(item.colour), rng), _other_colour(item)


def _no_colour_of_it(item: Item, rng: np.random.Generator) -> Asked:
    return open_wordings.refusal_text(_draw_other(item, rng), rng), _alike(item)


def _own_colour_and_gender(item: Item, rng: np.random.Generator) -> Asked:
    gender = GENDERS.get(str(item.gender), "")
    text = f"{open_wordings.refusal_text(str(item.colour), rng)}, for {gender.lower()}"
    return text if gender else "", _other_colour(item, gender=gender)


def _colour_and_part(item: Item, rng: np.random.Generator) -> Asked:
    colour = _draw_other(item, rng)
    text = PARTS[int(rng.integers(len(PARTS)))].format(colour.lower())
    return text, _alike(item, colour=colour)


def _nothing_known(item: Item, rng: np.random.Generator) -> Asked:
    return open_wordings.keep_text(rng, UNKNOWN), _alike(item)


def _mistyped(item: Item, rng: np.random.Generator) -> Asked:
    colour = _draw_other(item, rng)
    text = open_wordings.mistyped_text("colour", str(item.colour), colour, rng)
    return text, _alike(item, colour=colour)


def _foreign(item: Item, rng: np.random.Generator) -> Asked:
    colour = _draw_other(item, rng)
    text = open_wordings.foreign_text("colour", str(item.colour), colour, rng)
    return text, _alike(item, colour=colour)


def _message(item: Item, rng: np.random.Generator) -> Asked:
    colour = _draw_other(item, rng)
    frame = MESSAGES[int(rng.integers(len(MESSAGES)))]
    text = frame.format(new=colour.lower(), old=str(item.colour).lower())
    return text, _alike(item, colour=colour)


def _foreign_anew(item: Item, rng: np.random.Generator) -> Asked:
    colour = _draw_other(item, rng)
    language = str(rng.choice(list(FOREIGN)))
    names, frames = FOREIGN_COLOURS[language], FOREIGN[language]
    frame = frames[int(rng.integers(len(frames)))]
    text = frame.format(new=names[colour.lower()], old=names[str(item.colour).lower()])
    return text, _alike(item, colour=colour)


def _draw_other(item: Item, rng: np.random.Generator) -> str:
    return str(rng.choice([colour for colour in COLOURS if colour != item.colour]))


MAKERS: Mapping[str, Maker] = {
    "not its colour": _own_colour,
    "not another colour": _no_colour_of_it,
    "not its colour, and a gender": _own_colour_and_gender,
    "a colour and a part": _colour_and_part,
    "nothing known": _nothing_known,
    "mistyped": _mistyped,
    "another language": _foreign,
    "another language, in other wordings": _foreign_anew,
    "a long message": _message,
}


def describe_held_out(values: Mapping[str, Any]) -> str:
    """Tabulate mAP@10 of each kind without each rule, for docs/method.md."""
    figures = {name: own["requests"] for name, own in values["mAP@10"].items()}
    kinds = [kind for kind in MAKERS if kind in figures["all"]]
    rows = [
        (label, *(f"{figures[name][kind]:.3f}" for kind in kinds)) for name, label in LABELS.items()
    ]
    counts = (
        f"{format_count(values['queries'])} requests about {format_count(values['photos'])} photos"
    )
    source = describe_source(values, "onnxruntime")
    table = format_table(("`composed`", *kinds), rows)
    return f"{table}\n\n{counts}, bundle `{values['bundle']['name']}`, {source}."


if __name__ == "__main__":
    sys.exit(main())
