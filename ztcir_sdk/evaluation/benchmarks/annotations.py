"""Reads the annotation files of public benchmarks: JSON, checked against declared schemas.

A schema is a ``msgspec.Struct`` with the fields that a benchmark needs; other fields are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.benchmarks.images import first_names

T = TypeVar("T")

_PLACE = re.compile(r"(?P<problem>.*) - at `\$\[(?P<number>\d+)\]\.?(?P<field>.*)`")
"""msgspec's message about an entry of a list."""


def find_folder(root: Path, candidates: Collection[str], benchmark: str) -> Path:
    """Return the first of some folders below `root` that exists.

    Raises:
        ZtcirError: none exists.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise ZtcirError(
        f"{root} has no folder {' or '.join(candidates)}: `ztcir eval {benchmark} --download-help` "
        "shows the folders that it needs."
    )


def read_annotations(file: Path, schema: type[T], benchmark: str, content: str) -> T:
    """Return the content of a JSON file.

    Args:
        file: the file.
        schema: the type of its content.
        benchmark: the benchmark's name.
        content: what the file should contain, for the error: "list of image names".

    Raises:
        ZtcirError: the file is missing, is not JSON, or has other content.
    """
    try:
        return _decode(file, schema, benchmark)
    except msgspec.ValidationError as error:
        raise ZtcirError(f"{file} is not a {content} ({error}): download it again.") from error


def read_records(file: Path, schema: type[T], benchmark: str) -> list[T]:
    """Return the list of queries that a JSON file contains; it is not empty.

    Args:
        file: the file.
        schema: the type of a query.
        benchmark: the benchmark's name.

    Raises:
        ZtcirError: the file is missing, is not JSON, or has no queries; or a query does not match
            the schema, as in files of another version. The error names the query's number.
    """
    try:
        if records := _decode(file, list[schema], benchmark):  # type: ignore[valid-type]
            return records
    except msgspec.ValidationError as error:
        if place := _PLACE.fullmatch(str(error)):
            where = f" in {place['field']!r}" if place["field"] else ""
            raise ZtcirError(
                f"Query {place['number']} of {file} is unusable ({place['problem']}{where}), so "
                "the file is damaged or of another version: download the annotations again."
            ) from error
    raise ZtcirError(f"{file} contains no list of queries: download it again.")


def require_known(
    names: Collection[str], known: Collection[str], kind: str, file: str, benchmark: str
) -> None:
    """Require that a list of images contains all images that queries name.

    Args:
        names: the names in the queries.
        known: the names in the list.
        kind: the plural noun for the images, for the error.
        file: the name of the list's file.
        benchmark: the benchmark's name.

    Raises:
        ZtcirError: it lacks some; the error counts and names them.
    """
    unknown = list(dict.fromkeys(name for name in names if name not in known))
    if unknown:
        raise ZtcirError(
            f"{len(unknown)} {kind} are not in {file} ({first_names(unknown)}), so the two files "
            f"are of different versions: download both again; see `ztcir eval {benchmark} "
            "--download-help`."
        )


def _decode(file: Path, schema: type[T], benchmark: str) -> T:
    try:
        # Not strict: VAW, from which GeneCIS is made, has ids that are strings of digits.
        return msgspec.json.decode(file.read_bytes(), type=schema, strict=False)
    except FileNotFoundError as error:
        raise ZtcirError(
            f"The annotations {file} do not exist: `ztcir eval {benchmark} --download-help` shows "
            "where to get them."
        ) from error
    except OSError as error:
        raise ZtcirError(f"The annotations {file} cannot be read: {error.strerror}.") from error
    except msgspec.ValidationError:
        raise
    except (ValueError, RecursionError) as error:
        raise ZtcirError(f"{file} is not JSON ({error}): download it again.") from error
