"""Triplets as others publish them: JSONL, FashionIQ, CIRR, LaSCo, and tables such as Parquet.

Every format becomes `Triplet`s. Formats call an image by its id, its path or its file's name;
`resolve` finds which image of a collection is meant.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from train.data.csv_parquet import TABLE_SUFFIXES, choose_columns, open_table
from train.data.item import DataError
from train.data.report import ReadReport, caption_notes
from train.data.table import pair_id, pair_picture_columns
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.sources import PICTURE_SUFFIXES

__all__ = ["FORMATS", "read_training_triplets", "resolve"]

FORMATS = ("jsonl", "fashioniq", "cirr", "lasco", "table")

_FASHIONIQ_BOTH = "{first} and {second}"  # as the benchmark's own evaluation joins them
_RIGHT = 1.0  # CIRR's soft label of a target that is right; others are similar or not judged


def read_training_triplets(
    path: Path, *, columns: Mapping[str, str] | None = None
) -> list[Triplet]:
    """Read triplets of any of `FORMATS`, told apart by what the file holds.

    Records that lack a reference, a text or a target are counted, named on standard error and
    skipped.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``.
        columns: ``reference``, ``text`` and ``target`` -> the fields of JSONL or the columns of a
            table that hold them, where they have no usual name.

    Raises:
        DataError: the file is missing, damaged, of no known format, or holds no usable triplet.
        UsageError: the columns are not there, or the file is a test split, without targets.
    """
    if not path.is_file():
        raise DataError(f"The triplets {path} do not exist; check the path.")
    strange = (columns or {}).keys() - {"reference", "text", "target"}
    if strange:
        raise UsageError(
            f"There is no triplet field {min(strange)!r}; columns can be given for reference, "
            "text and target."
        )
    report = ReadReport()
    if path.suffix.lower() in TABLE_SUFFIXES:
        triplets = list(_from_table(path, columns or {}, report))
    else:
        records = _records(path, report)
        reader, kind = _reader(path, records, columns or {})
        triplets = list(_from_records(path, records, reader, kind, report))
    report.read = len(triplets)
    notes = [note.replace("captions", "texts") for note in caption_notes(t.text for t in triplets)]
    for sentence in (*report.sentences(), *notes):
        print(f"{path}: {sentence}", file=sys.stderr)
    if not triplets:
        raise DataError(f"{path} holds no triplet that can be used.")
    return triplets


@dataclass(frozen=True)
class _Record:
    name: str  # where it stands in the file
    fields: Mapping[str, Any]


def _records(path: Path, report: ReadReport) -> list[_Record]:
    """The objects of a JSON list, or of JSON lines; a broken line is skipped."""
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
        # not splitlines(): JSON may hold U+2028, U+2029 and NEL as they are
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
        raise DataError(f"{path} holds no JSON object; every triplet is one.")
    return records


_Reader = Callable[[Mapping[str, Any]], Iterable[tuple[str, str, tuple[str, ...]]]]


def _reader(
    path: Path, records: Sequence[_Record], columns: Mapping[str, str]
) -> tuple[_Reader, str]:
    """What reads one record, and what its triplets are called; the first record decides."""
    keys = records[0].fields.keys()
    if {"candidate", "captions"} <= keys:
        _refuse_test(path, keys, "target")
        return _fashioniq, "fashioniq"
    if {"pairid", "reference", "caption"} <= keys:
        _refuse_test(path, keys, "target_hard")
        return _cirr, "cirr"
    if {"query-image", "query-text"} <= keys:
        _refuse_test(path, keys, "target-image")
        return _lasco, "lasco"
    fields = {field: columns.get(field, field) for field in ("reference", "text", "target")}
    either = () if "target" in columns else ("targets",)  # a file may have both, record by record
    for field, name in fields.items():
        if keys.isdisjoint((name, *either) if field == "target" else (name,)):
            raise UsageError(
                f"{path} is of no known format: its records have no {name!r} (they have "
                f"{', '.join(map(str, keys))}); name the {field} as {field}=FIELD."
            )

    def read(record: Mapping[str, Any]) -> Iterable[tuple[str, str, tuple[str, ...]]]:
        several = next((name for name in either if name in record), fields["target"])
        yield (
            _name(record[fields["reference"]]),
            _words(record[fields["text"]]),
            _names(record[several]),
        )

    return read, "change"


def _refuse_test(path: Path, keys: Iterable[str], target: str) -> None:
    if target not in keys:
        raise UsageError(
            f"{path} names no targets: it is a test split, which cannot be trained on; use the "
            "training split."
        )


def _fashioniq(record: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each of the two captions by itself, and both joined."""
    reference, targets = _name(record["candidate"]), _names(record["target"])
    captions = [caption for caption in record["captions"] if isinstance(caption, str)]
    cleaned = [" ".join(caption.split()).strip(" .?!,").lower() for caption in captions]
    said = list(dict.fromkeys(filter(None, cleaned)))
    if not said:
        raise ValueError("its captions are empty")
    if len(said) == 2:
        said.append(_FASHIONIQ_BOTH.format(first=said[0], second=said[1]))
    for text in said:
        yield reference, text, targets


def _cirr(record: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The hard target, and those among the soft ones that are fully right."""
    soft = record.get("target_soft") or {}
    right = [name for name, label in soft.items() if label >= _RIGHT]
    targets = dict.fromkeys([_name(record["target_hard"]), *right])
    targets.pop(record["reference"], None)
    yield _name(record["reference"]), _words(record["caption"]), tuple(targets)


def _lasco(record: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Images are [COCO id, path] there, and called by their path here."""
    reference, target = (record[name][1] for name in ("query-image", "target-image"))
    yield _name(reference), _words(record["query-text"]), _names(target)


def _from_records(
    path: Path, records: Iterable[_Record], reader: _Reader, kind: str, report: ReadReport
) -> Iterator[Triplet]:
    for record in records:
        try:
            read = list(reader(record.fields))
            for number, (reference, text, targets) in enumerate(read):
                if reference in targets:
                    raise ValueError("its reference is its target")
                given = record.fields.get("id", f"{path.stem}-{record.name.split(' ')[1]}")
                name = f"{given}-{number}" if len(read) > 1 else str(given)
                own_kind = record.fields.get("kind")
                yield Triplet(
                    id=name,
                    kind=own_kind if isinstance(own_kind, str) and own_kind else kind,
                    reference=reference,
                    text=text,
                    targets=targets,
                )
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            report.skip(record.name, error)


def _from_table(path: Path, named: Mapping[str, str], report: ReadReport) -> Iterator[Triplet]:
    """A row each; where the table holds the pictures themselves, they are called by `pair_id`."""
    table = open_table(path)
    needed = ("reference", "text", "target")
    chosen = choose_columns(table, needed, named, needed=needed)
    embedded = bool(pair_picture_columns(table, named))
    read = [chosen["text"]] if embedded else list(dict.fromkeys(chosen.values()))
    for row in table.rows(read):
        try:
            if embedded:
                reference = pair_id(path, row.number, "reference")
                targets: tuple[str, ...] = (pair_id(path, row.number, "target"),)
            else:
                reference = _name(row.values[chosen["reference"]])
                targets = _names(row.values[chosen["target"]])
            if reference in targets:
                raise ValueError("its reference is its target")
            text = _words(row.values[chosen["text"]])
        except (ValueError, TypeError) as error:
            report.skip(f"row {row.number}", error)
            continue
        yield Triplet(f"{path.stem}-{row.number}", "change", reference, text, targets)


def _name(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if type(value) is int:
        return str(value)
    raise ValueError(f"{value!r} is not the name of an image")


def _names(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list | tuple) else [value]
    if not names:
        raise ValueError("it has no target")
    return tuple(dict.fromkeys(map(_name, names)))


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("its text is empty")
    return " ".join(value.split())


def resolve(
    triplets: Sequence[Triplet], ids: Iterable[str], *, skip_missing: bool = False
) -> list[Triplet]:
    """Call the triplets' images as a collection calls them.

    A name is an image's id; or its path, with or without a leading "./", the first of its folders
    or its suffix. Of several images that fit, the one that has the most folders in common is meant,
    then the one with the same suffix.

    Args:
        triplets: as they were read.
        ids: of the collection's images.
        skip_missing: leave out targets and triplets whose images are not there, and say how many;
            else they are an error.

    Raises:
        DataError: an image is not there, or two could be meant.
    """
    known = set(ids)
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name in known:
        by_stem[_parts(name)[1]].append(name)
    missing: dict[str, None] = {}

    def find(name: str) -> str | None:
        if name in known:
            return name
        fitting = sorted(
            (
                (rank, other)
                for other in by_stem[_parts(name)[1]]
                if (rank := _likeness(name, other))
            ),
            reverse=True,
        )
        if len(fitting) > 1 and fitting[0][0] == fitting[1][0]:
            first, second = sorted(other for rank, other in fitting if rank == fitting[0][0])[:2]
            raise DataError(
                f"The triplets name an image {name}, which could be {first} or {second}; name "
                "images by their paths relative to the collection."
            )
        if fitting:
            return fitting[0][1]
        missing[name] = None
        return None

    resolved = []
    for triplet in triplets:
        reference = find(triplet.reference)
        targets = tuple(filter(None, map(find, triplet.targets)))
        if reference is not None and targets:
            resolved.append(replace(triplet, reference=reference, targets=targets))
    if missing and not skip_missing:
        raise DataError(
            f"The triplets name {len(missing)} images that the data does not hold, such as "
            f"{next(iter(missing))}; name what holds them with --data, or leave such triplets out "
            "with --skip-missing."
        )
    if missing:
        print(
            f"Left out {len(triplets) - len(resolved)} of {len(triplets)} triplets: "
            f"{len(missing)} images are missing, such as {next(iter(missing))}.",
            file=sys.stderr,
        )
    if triplets and not resolved:
        raise DataError("None of the triplets has its images in the data; check --data.")
    return resolved


def _parts(name: str) -> tuple[tuple[str, ...], str, str]:
    """The folders of a path, the file's name without a picture's suffix, and that suffix."""
    path = PurePosixPath(name)
    suffix = path.suffix if path.suffix.lower() in PICTURE_SUFFIXES else ""
    return path.parts[:-1], path.name.removesuffix(suffix), suffix


def _likeness(name: str, other: str) -> tuple[int, bool] | None:
    """How much two paths with one file's name have in common; None where their folders differ."""
    (folders, _, suffix), (others, _, its_suffix) = _parts(name), _parts(other)
    shared = min(len(folders), len(others))
    if folders[len(folders) - shared :] != others[len(others) - shared :]:
        return None
    return 1 + shared, suffix == its_suffix
