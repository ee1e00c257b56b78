"""What a set of triplets holds, in figures, in examples, and as a picture to look at."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from train.wordings.attribute_wordings import KINDS, families
from train.wordings.phrase_wordings import CHANGES, SHAPES, phrase_families
from ztcir_sdk.errors import ImageError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.pages.contact_sheet import Picture, SheetCell, SheetRow, contact_sheet

__all__ = ["TripletReport", "triplet_sheet"]

_SHOWN_TARGETS = 5


@dataclass(frozen=True)
class TripletReport:
    """What a set of triplets holds, for the person who trains on it."""

    count: int
    per_kind: Mapping[str, int]
    targets_per_query: Mapping[str, float]  # min, median, mean, max
    distinct_references: int
    distinct_texts: int
    wording_families: Mapping[str, int]  # per kind, of those that could be drawn
    templates: Mapping[str, int]  # likewise
    held_out_wordings: bool
    examples: tuple[Mapping[str, object], ...]  # kind, reference, text, targets (a count)
    left_out: Mapping[str, int] = field(default_factory=dict)  # why items took no part -> how many
    rejected: Mapping[str, int] = field(default_factory=dict)  # why pairs gave no triplet

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
        """Sum up ``triplets``, with examples taken evenly from among them."""
        kinds = Counter(triplet.kind for triplet in triplets)
        targets = [len(triplet.targets) for triplet in triplets] or [0]
        offered = {kind: templates for kind in kinds if (templates := _offered(kind, held_out))}
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
            wording_families={kind: len(named) for kind, named in offered.items()},
            templates={kind: sum(map(len, named.values())) for kind, named in offered.items()},
            held_out_wordings=held_out,
            examples=tuple(_examples(_evenly(triplets, examples))),
            left_out=dict(left_out or {}),
            rejected=dict(rejected or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as what JSON can hold."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _offered(kind: str, held_out: bool) -> Mapping[str, Sequence[str]]:
    """The families that a kind's texts are drawn from, each with its templates."""
    if kind in KINDS:
        return families(kind, held_out=held_out)
    if kind in CHANGES:
        named: dict[str, list[str]] = {}
        for shape in SHAPES:
            for family in phrase_families(kind, shape, held_out=held_out):
                named.setdefault(family.name, []).extend(family.templates)
        return named
    return {}


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


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def triplet_sheet(
    triplets: Sequence[Triplet],
    pictures: Mapping[str, Callable[[], Image.Image]],
    captions: Mapping[str, str],
    *,
    title: str = "",
    count: int = 20,
) -> Image.Image:
    """A contact sheet of triplets taken evenly: the reference, the text, and some of the targets.

    Nothing is marked as right or wrong: that is for who looks at it to say.

    Args:
        triplets: what to show.
        pictures: id -> picture; one that is missing or broken is shown as such.
        captions: id -> words below a target.
        title: above all.
        count: triplets at most.
    """

    def picture(name: str) -> Picture:
        try:
            return pictures[name]()
        except (KeyError, ImageError):
            return name  # which the sheet finds to be no file, and says so

    rows = [
        SheetRow(
            picture(triplet.reference),
            triplet.text,
            [
                SheetCell(picture(name), captions.get(name, ""))
                for name in triplet.targets[:_SHOWN_TARGETS]
            ],
        )
        for triplet in _evenly(triplets, count)
    ]
    return contact_sheet(rows, title=title, per_line=_SHOWN_TARGETS)
