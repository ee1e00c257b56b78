"""Triplets in a file: a reference, a modification text and targets, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from msgspec import Meta, Struct

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.schema import EntryError, Text, from_json

_Id = Annotated[
    Annotated[str, Meta(min_length=1)] | int,
    Meta(description="an id, a string or a whole number"),
]
_Ids = Annotated[list[_Id], Meta(min_length=1, description="a list of one or more item ids")]


@dataclass(frozen=True)
class Triplet:
    """A composed query with its targets; ``reference`` and ``targets`` are item ids."""

    id: str
    kind: str
    reference: str
    text: str
    targets: tuple[str, ...]


class _Record(Struct):
    """A line of the file."""

    id: _Id
    kind: Text
    reference: _Id
    text: Text
    targets: _Ids


def read_triplets(path: Path, *, gallery: Container[str] | None = None) -> list[Triplet]:
    """Read triplets: one JSON object with the fields of `Triplet` per line, or blank lines.

    Item ids may be strings or whole numbers, and become strings.

    Args:
        path: the file, UTF-8.
        gallery: ids that exist; None accepts all ids.

    Raises:
        ZtcirError: the file is missing or empty, or a line is not a triplet or names an item that
            is not in the gallery. The sentence has the number of the line.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            triplets = [
                _triplet(line, f"{path}, line {number}", gallery)
                for number, line in enumerate(lines, start=1)
                if line.strip()
            ]
    except OSError as error:
        raise ZtcirError(f"Cannot read the triplets {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ZtcirError(f"{path} is not a text file in UTF-8: {error}.") from error
    if not triplets:
        raise ZtcirError(f"{path} has no triplets; make some with `ztcir triplets`.")
    return triplets


def _triplet(line: str, where: str, gallery: Container[str] | None) -> Triplet:
    try:
        fields = json.loads(line)
    except RecursionError as error:
        raise ZtcirError(f"{where}: nested too deeply; every line is one triplet.") from error
    except ValueError as error:  # also a number of thousands of digits
        why = getattr(error, "msg", "a number is too large")
        raise ZtcirError(f"{where}: not JSON ({why}); every line is one triplet.") from error
    if not isinstance(fields, dict):
        raise ZtcirError(f"{where}: not a JSON object; every line is one triplet.")
    try:
        record = from_json(fields, _Record)
    except EntryError as error:
        raise ZtcirError(f"{where}: the entry {error.entry!r} {error.problem}.") from error
    targets = tuple(map(str, record.targets))
    triplet = Triplet(str(record.id), record.kind, str(record.reference), record.text, targets)
    if gallery is None:
        return triplet
    for item in (triplet.reference, *targets):
        if item not in gallery:
            stem = PurePosixPath(item).stem
            way_out = (
                f"use ids without folder and suffix, such as {stem!r}."
                if stem in gallery
                else "give all images that the triplets name."
            )
            raise ZtcirError(f"{where}: {item!r} is not in the gallery; {way_out}")
    return triplet
