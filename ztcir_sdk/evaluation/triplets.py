"""Composed queries in a file: a reference, a modification text, the right answers, a line each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from ztcir_sdk.errors import ZtcirError

__all__ = ["Triplet", "read_triplets"]


@dataclass(frozen=True)
class Triplet:
    """A composed query with its right answers; ``reference`` and ``targets`` are item ids."""

    id: str
    kind: str
    reference: str
    text: str
    targets: tuple[str, ...]


def read_triplets(path: Path, *, gallery: Container[str] | None = None) -> list[Triplet]:
    """Read triplets: one JSON object a line with the fields of `Triplet`; blank lines are skipped.

    Item ids may be strings or whole numbers, and become strings.

    Args:
        path: the file, UTF-8.
        gallery: the ids that exist; by default any will do.

    Raises:
        ZtcirError: the file is missing or empty, or a line, whose number is told, is not a
            triplet or names an item that is not in the gallery.
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
        raise ZtcirError(f"{path} holds no triplet; make some with `ztcir triplets`.")
    return triplets


def _triplet(line: str, where: str, gallery: Container[str] | None) -> Triplet:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        why = getattr(error, "msg", "nested too deeply")
        raise ZtcirError(f"{where}: not JSON ({why}); every line is one triplet.") from error
    if not isinstance(record, dict):
        raise ZtcirError(f"{where}: not a JSON object; every line is one triplet.")
    missing = [field.name for field in dataclasses.fields(Triplet) if field.name not in record]
    if missing:
        raise ZtcirError(f"{where}: the triplet has no {missing[0]!r}; add it.")
    targets = record["targets"]
    if not isinstance(targets, list) or not targets or not all(map(_is_id, targets)):
        raise ZtcirError(f"{where}: 'targets' must be a list of one or more item ids.")
    for name in ("id", "reference"):
        if not _is_id(record[name]):
            raise ZtcirError(f"{where}: {name!r} must be an id, a string or a whole number.")
    for name in ("kind", "text"):
        if not isinstance(record[name], str) or not record[name].strip():
            raise ZtcirError(f"{where}: {name!r} must be a text that is not empty.")
    triplet = Triplet(
        id=str(record["id"]),
        kind=record["kind"],
        reference=str(record["reference"]),
        text=record["text"],
        targets=tuple(str(target) for target in targets),
    )
    if gallery is not None:
        for item in (triplet.reference, *triplet.targets):
            if item not in gallery:
                raise ZtcirError(
                    f"{where}: no picture of the gallery has the id {item!r}; "
                    "name all the pictures that the triplets are about."
                )
    return triplet


def _is_id(value: object) -> bool:
    return (isinstance(value, str) and bool(value)) or (type(value) is int)
