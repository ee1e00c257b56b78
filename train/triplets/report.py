"""Summary of a set of triplets: counts, examples, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from train.wordings import CHANGES, KINDS, SHAPES, attribute_families, phrase_families
from ztcir_sdk.errors import ImageError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.pages.contact_sheet import Picture, SheetCell, SheetRow, contact_sheet
from ztcir_sdk.schema import to_json

_SHEET_TARGETS = 5
_SHEET_TRIPLETS = 12  # most in a sheet
_SHEET_HEIGHT = 1600  # pixels, of a screen
_CELL = (84, 112)


@dataclass(frozen=True)
class TripletReport:
    """Summary of a set of triplets."""

    count: int
    per_kind: Mapping[str, int]
    targets_per_query: Mapping[str, float]
    """min, median, mean and max."""
    distinct_references: int
    distinct_texts: int
    wording_families: Mapping[str, int]
    """Kind -> number of families that its texts are drawn from."""
    templates: Mapping[str, int]
    """Kind -> number of templates in these families."""
    held_out_wordings: bool
    examples: tuple[Mapping[str, object], ...]
    """kind, reference, text, and the number of targets."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of items left out."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of pairs that gave no triplet."""

    @classmethod
    def of(
        cls,
        triplets: Sequence[Triplet],
        *,
        held_out: bool = False,
        examples: int = 20,
        left_out: Mapping[str, int] | None = None,
        rejected: Mapping[str, int] | None = None,
    ) -> TripletReport:
        """Summarise triplets.

        Args:
            triplets: the triplets.
            held_out: whether their texts are held-out wordings.
            examples: number of examples, evenly spaced.
            left_out: reason -> number of items left out.
            rejected: reason -> number of pairs that gave no triplet.
        """
        kinds = Counter(triplet.kind for triplet in triplets)
        targets = [len(triplet.targets) for triplet in triplets] or [0]
        families = {kind: found for kind in kinds if (found := _families(kind, held_out))}
        return cls(
            count=len(triplets),
            per_kind=dict(kinds),
            targets_per_query={
                "min": float(np.min(targets)),
                "median": float(np.median(targets)),
                "mean": round(float(np.mean(targets)), 2),
                "max": float(np.max(targets)),
            },
            distinct_references=len({triplet.reference for triplet in triplets}),
            distinct_texts=len({triplet.text for triplet in triplets}),
            wording_families={kind: len(found) for kind, found in families.items()},
            templates={kind: sum(map(len, found.values())) for kind, found in families.items()},
            held_out_wordings=held_out,
            examples=tuple(_examples(_evenly(triplets, examples))),
            left_out=dict(left_out or {}),
            rejected=dict(rejected or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values: dict[str, Any] = to_json(self)
        return values


def _families(kind: str, held_out: bool) -> Mapping[str, Sequence[str]]:
    """Return family -> templates for a kind of triplets; empty if its texts have no templates."""
    if kind in KINDS:
        return attribute_families(kind, held_out=held_out)
    families: dict[str, list[str]] = {}
    for shape in SHAPES if kind in CHANGES else ():
        for family in phrase_families(kind, shape, held_out=held_out):
            families.setdefault(family.name, []).extend(family.templates)
    return families


def _evenly(triplets: Sequence[Triplet], count: int) -> Iterator[Triplet]:
    for place in np.linspace(0, len(triplets) - 1, min(count, len(triplets))):
        yield triplets[round(place)]


def _examples(triplets: Iterator[Triplet]) -> Iterator[Mapping[str, object]]:
    for triplet in triplets:
        yield {
            "kind": triplet.kind,
            "reference": triplet.reference,
            "text": triplet.text,
            "targets": len(triplet.targets),
        }


def triplet_sheet(
    triplets: Sequence[Triplet],
    pictures: Mapping[str, Callable[[], Image.Image]],
    captions: Mapping[str, str],
    *,
    title: str = "",
) -> Image.Image:
    """Draw a contact sheet: the reference, the text and some targets of evenly spaced triplets.

    It has two columns, and as many triplets as fit the height of a screen.

    Args:
        triplets: the triplets.
        pictures: id -> function that loads the image. A missing or broken image is shown as such.
        captions: id -> text below a target.
        title: title of the sheet.
    """

    def picture(name: str) -> Picture:
        try:
            return pictures[name]()
        except (KeyError, ImageError):
            return name  # the sheet shows that this is not a file

    def row(triplet: Triplet) -> SheetRow:
        cells = [
            SheetCell(picture(name), captions.get(name, ""))
            for name in triplet.targets[:_SHEET_TARGETS]
        ]
        return SheetRow(picture(triplet.reference), triplet.text, cells)

    for count in range(min(_SHEET_TRIPLETS, len(triplets)), 2, -1):
        sheet = sheet_in_two_columns([row(one) for one in _evenly(triplets, count)], title)
        if sheet.height <= _SHEET_HEIGHT:
            return sheet
    return sheet_in_two_columns([row(one) for one in _evenly(triplets, 2)], title)


def sheet_in_two_columns(rows: Sequence[SheetRow], title: str) -> Image.Image:
    """Lay out queries in two columns below a title, with five hits beside each other."""
    half = -(-len(rows) // 2)
    head = contact_sheet([], title=title)
    columns = [
        contact_sheet(some, per_line=_SHEET_TARGETS, cell=_CELL)
        for some in (rows[:half], rows[half:])
    ]
    width = max(head.width, sum(column.width for column in columns))
    sheet = Image.new("RGB", (width, head.height + columns[0].height), head.getpixel((0, 0)))
    sheet.paste(head)
    for number, column in enumerate(columns):
        sheet.paste(column, (number * columns[0].width, head.height))
    return sheet
