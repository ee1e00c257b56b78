"""A sheet of twenty held-out queries and their hits, to look at."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.adapt.measure import Gains
from export.adapt.pictures import Part
from train.data import TrainingImage
from train.triplets.report import sheet_in_two_columns
from ztcir_sdk.errors import ImageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.files import write_whole
from ztcir_sdk.pages.contact_sheet import Picture, SheetCell, SheetRow

__all__ = ["different", "draw_sheet"]

QUERIES = 20
HITS = 5


def draw_sheet(path: Path, part: Part, triplets: Sequence[Triplet], gains: Gains) -> None:
    """Write a PNG file of queries about different photos with their first hits.

    A green frame marks a hit that the triplet names as right; others may be right as well.

    Args:
        path: the file.
        part: the held-out photos.
        triplets: the queries.
        gains: their hits.

    Raises:
        ZtcirError: the file cannot be written.
    """
    rows_of = {name: row for row, name in enumerate(part.features.ids)}
    rows = []
    for number in different(triplets, QUERIES):
        triplet = triplets[number]
        right = {rows_of[name] for name in triplet.targets}
        cells = [
            SheetCell(_picture(part.images[row]), part.images[row].item.caption, row in right)
            for row in gains.hits[number][:HITS]
            if row >= 0
        ]
        reference = part.images[rows_of[triplet.reference]]
        rows.append(SheetRow(_picture(reference), triplet.text, cells))
    title = (
        f"{len(rows)} of {gains.queries} held-out queries over {gains.gallery} photos; "
        "green: named as right"
    )
    stream = io.BytesIO()
    sheet_in_two_columns(rows, title).save(stream, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, stream.getvalue())
    except OSError as error:
        raise ZtcirError(f"The sheet {path} cannot be written ({error.strerror}).") from error


def different(triplets: Sequence[Triplet], count: int) -> list[int]:
    """Return the rows of some triplets, evenly spaced, about as many different photos as may be.

    Args:
        triplets: the triplets.
        count: number of rows at most.
    """
    turns = Counter[str]()
    turn = []  # how many triplets about the same photo come before
    for triplet in triplets:
        turn.append(turns[triplet.reference])
        turns[triplet.reference] += 1
    order = sorted(range(len(triplets)), key=lambda place: turn[place])
    last = turn[order[count - 1]] if count < len(order) else max(turn, default=0)
    whole = [place for place in order if turn[place] < last]
    rest = [place for place in order if turn[place] == last]
    spaced = np.linspace(0, len(rest) - 1, min(count - len(whole), len(rest))).round().astype(int)
    return sorted([*whole, *(rest[place] for place in spaced)])


def _picture(photo: TrainingImage) -> Picture:
    try:
        return photo.load()
    except ImageError:
        return photo.item.id  # the sheet shows that this is not a file
