"""Published formats of triplets: JSONL, FashionIQ, CIRR, LaSCo, and tables such as Parquet.

Every format becomes a list of `Triplet`. A format may name an image by its id, its path or its
file name; `resolve_image_names` finds the image in a collection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from train.data import (
    DataError,
    ReadReport,
    caption_notes,
    check_fields,
    choose_columns,
    open_table,
    pair_id,
    pair_picture_columns,
    print_notes,
)
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.names import TABLE_SUFFIXES
from ztcir_sdk.schema import Text, from_json

_FIELDS = ("reference", "text", "target")
_FASHIONIQ_BOTH = "{first} and {second}"  # as the benchmark's own evaluation joins them
_RIGHT = 1.0  # CIRR's soft label of a right target; other targets are similar or not judged

_Name = Annotated[
    Annotated[str, Meta(pattern=r"\S")] | int, Meta(description="the name of an image")
]
# single names are put into a list: msgspec 0.22 crashes on `_Name | list[_Name]`
_Names = Annotated[list[_Name], Meta(min_length=1, description="one or more names of images")]
_Query = tuple[_Name, str, Sequence[_Name]]  # reference, text, targets


class _Schema(Struct):
    def queries(self) -> Iterator[_Query]:
        """Yield the queries of a record."""
        raise NotImplementedError


class _Change(_Schema):
    """A record of this project's JSONL, or a row of a table."""

    reference: _Name
    text: Text
    target: _Names

    def queries(self) -> Iterator[_Query]:
        yield self.reference, self.text, self.target


class _FashionIQ(_Schema):
    candidate: _Name
    target: _Names
    captions: list[Any]

    def queries(self) -> Iterator[_Query]:
        """Yield each of the two captions, and both joined."""
        captions = (" ".join(one.split()) for one in self.captions if isinstance(one, str))
        cleaned = [caption.strip(" .?!,").lower() for caption in captions]
        texts = list(dict.fromkeys(filter(None, cleaned)))
        if not texts:
            raise ValueError("its captions are empty")
        if len(texts) == 2:
            texts.append(_FASHIONIQ_BOTH.format(first=texts[0], second=texts[1]))
        for text in texts:
            yield self.candidate, text, self.target


class _CIRR(_Schema):
    reference: _Name
    caption: Text
    target_hard: _Name
    target_soft: dict[str, float] | None = None

    def queries(self) -> Iterator[_Query]:
        """Yield the hard target, with the soft targets that are fully right."""
        soft = self.target_soft or {}
        right = [name for name, label in soft.items() if label >= _RIGHT]
        targets = [name for name in (self.target_hard, *right) if name != self.reference]
        yield self.reference, self.caption, targets


class _LaSCo(_Schema, rename="kebab"):
    query_image: tuple[Any, _Name]
    """COCO id and path."""
    query_text: Text
    target_image: tuple[Any, _Name]

    def queries(self) -> Iterator[_Query]:
        yield self.query_image[1], self.query_text, [self.target_image[1]]


_PUBLISHED: Mapping[str, tuple[type[_Schema], frozenset[str], str]] = {
    "fashioniq": (_FashionIQ, frozenset({"candidate", "captions"}), "target"),
    "cirr": (_CIRR, frozenset({"pairid", "reference", "caption"}), "target_hard"),
    "lasco": (_LaSCo, frozenset({"query-image", "query-text"}), "target-image"),
}
"""Format -> schema, the fields that it is recognised by, and the field that a test split lacks."""


def read_training_triplets(
    path: Path, *, columns: Mapping[str, str] | None = None
) -> list[Triplet]:
    """Read triplets in any published format; the content of the file determines the format.

    Records without a reference, a text or a target are reported on standard error and skipped.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``.
        columns: ``reference``, ``text`` and ``target`` -> field of JSONL or column of a table, for
            those without a usual name.

    Raises:
        DataError: the file is missing or damaged, or has no usable triplet.
        UsageError: the format is unknown, a column is missing, or the file is a test split, which
            has no targets.
    """
    if not path.is_file():
        raise DataError(f"The triplets {path} do not exist; check the path.")
    columns = columns or {}
    check_fields(columns, _FIELDS, "a triplet")
    report = ReadReport()
    if path.suffix.lower() in TABLE_SUFFIXES:
        triplets = list(_from_table(path, columns, report))
    else:
        triplets = list(_from_records(path, columns, report))
    report.read = len(triplets)
    notes = [note.replace("captions", "texts") for note in caption_notes(t.text for t in triplets)]
    print_notes((*report.sentences(), *notes), f"{path}: ")
    if not triplets:
        raise DataError(f"{path} has no usable triplet.")
    return triplets


@dataclass(frozen=True)
class _Record:
    name: str
    """Position in the file, such as "line 3"."""
    fields: Mapping[str, Any]


def _read_records(path: Path, report: ReadReport) -> list[_Record]:
    """Read the objects of a JSON list or of JSON lines; skip broken lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read the triplets {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error}.") from error
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON, or is cut short ({error}).") from error
        named = [(f"record {number}", record) for number, record in enumerate(found, start=1)]
    else:
        named = []
        # not splitlines(): JSON may contain U+2028, U+2029 and NEL
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    named.append((f"line {number}", json.loads(line)))
                except (ValueError, RecursionError) as error:
                    report.skip(f"line {number}", f"not JSON: {error}")
    records = []
    for name, record in named:
        if isinstance(record, dict):
            records.append(_Record(name, record))
        else:
            report.skip(name, "not a JSON object")
    if not records:
        raise DataError(f"{path} has no JSON object; every triplet is one.")
    return records


def _published_format(path: Path, keys: Iterable[str]) -> str | None:
    """Return the published format with these fields, or None if it is this project's JSONL."""
    for name, (_, recognised_by, target) in _PUBLISHED.items():
        if recognised_by <= {*keys}:
            if target not in keys:
                raise UsageError(
                    f"{path} has no targets: it is a test split, which cannot be trained on; use "
                    "the training split."
                )
            return name
    return None


def _from_records(path: Path, columns: Mapping[str, str], report: ReadReport) -> Iterator[Triplet]:
    records = _read_records(path, report)
    keys = records[0].fields.keys()
    published = _published_format(path, keys)
    schema: type[_Schema] = _PUBLISHED[published][0] if published else _Change
    fields = {field: columns.get(field, field) for field in _FIELDS}
    several = "" if "target" in columns else "targets"  # some records may have it, others "target"
    for field, name in fields.items() if published is None else ():
        if name not in keys and not (field == "target" and several in keys):
            raise UsageError(
                f"The format of {path} is unknown: its records have no {name!r}, but "
                f"{', '.join(map(str, keys))}; name the {field} as {field}=FIELD."
            )
    for record in records:
        values = record.fields
        if published is None:
            used = {**fields, "target": several} if several in values else fields
            values = {field: values[name] for field, name in used.items() if name in values}
        try:
            queries = list(from_json(_with_target_list(values), schema).queries())
            given = record.fields.get("id", f"{path.stem}-{record.name.split(' ')[1]}")
            kind = record.fields.get("kind")
            if not isinstance(kind, str) or not kind:
                kind = published or "change"
            for number, query in enumerate(queries):
                name = f"{given}-{number}" if len(queries) > 1 else str(given)
                yield _triplet(name, kind, *query)
        except ValueError as error:
            report.skip(record.name, error)


def _from_table(path: Path, named: Mapping[str, str], report: ReadReport) -> Iterator[Triplet]:
    """Yield a triplet per row; if the table holds the images, their ids are `pair_id`."""
    table = open_table(path)
    pictures = pair_picture_columns(table, named)
    needed = tuple(field for field in _FIELDS if field not in pictures)
    chosen = choose_columns(table, needed, named, needed=needed)
    for row in table.rows(list(dict.fromkeys(chosen.values()))):
        values = {role: pair_id(path, row.number, role) for role in pictures}
        values |= {field: row.values[column] for field, column in chosen.items()}
        try:
            (query,) = from_json(_with_target_list(values), _Change).queries()
            yield _triplet(f"{path.stem}-{row.number}", "change", *query)
        except ValueError as error:
            report.skip(f"row {row.number}", error)


def _with_target_list(values: Mapping[str, Any]) -> Mapping[str, Any]:
    target = values.get("target", [])
    return values if isinstance(target, list) else {**values, "target": [target]}


def _triplet(
    name: str, kind: str, reference: _Name, text: str, targets: Sequence[_Name]
) -> Triplet:
    reference = _stripped(reference)
    triplet = Triplet(
        id=name,
        kind=kind,
        reference=reference,
        text=" ".join(text.split()),
        targets=tuple(dict.fromkeys(map(_stripped, targets))),
    )
    if reference in triplet.targets or not triplet.targets:
        raise ValueError("its reference is its target")
    return triplet


def _stripped(name: _Name) -> str:
    return str(name).strip()
