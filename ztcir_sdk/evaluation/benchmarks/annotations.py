"""Annotation files of the public benchmarks: JSON that is read, and checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import ZtcirError

__all__ = ["Fields", "find_folder", "listed", "read_json", "read_records", "require_known"]

Fields = Mapping[str, "type | tuple[type, ...]"]
"""Names of a record's fields, and the JSON types that each may have."""

_SHOWN = 5
"""Names that a sentence lists."""


def find_folder(root: Path, candidates: Collection[str], benchmark: str) -> Path:
    """Return the first of some folders below `root` that is there.

    Raises:
        ZtcirError: none is.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise ZtcirError(
        f"{root} has no folder {' or '.join(candidates)}: `ztcir eval {benchmark} --download-help` "
        "says how it must look."
    )


def read_json(file: Path, benchmark: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        ZtcirError: it is missing, or no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ZtcirError(
            f"The annotations {file} are not there: `ztcir eval {benchmark} --download-help` says "
            "where they come from."
        ) from error
    except OSError as error:
        raise ZtcirError(f"The annotations {file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ZtcirError(f"{file} is not JSON ({error}): download it again.") from error


def read_records(file: Path, fields: Fields, benchmark: str) -> list[dict[str, Any]]:
    """Return the list of records that a JSON file holds, each with all of `fields`.

    Raises:
        ZtcirError: it is missing, no JSON, no list, empty, or a record, whose number is told,
            lacks a field: so do files of another version of the benchmark.
    """
    records = read_json(file, benchmark)
    if not isinstance(records, list) or not records:
        raise ZtcirError(f"{file} holds no list of queries: download it again.")
    for number, record in enumerate(records):
        for name, types in fields.items():
            value = record.get(name) if isinstance(record, dict) else None
            if not isinstance(value, types) or isinstance(value, bool):
                raise ZtcirError(
                    f"Query {number} of {file} has no usable {name!r}, so the file is of another "
                    "version, or damaged: download the annotations again."
                )
    return records


def require_known(
    names: Collection[str], known: Collection[str], what: str, where: str, benchmark: str
) -> None:
    """Refuse queries about images that the list of images does not have.

    Raises:
        ZtcirError: some are not; the sentence counts and names them.
    """
    unknown = list(dict.fromkeys(name for name in names if name not in known))
    if unknown:
        raise ZtcirError(
            f"{len(unknown)} {what} are not in {where} ({listed(unknown)}), so the two are of "
            f"different versions: download both anew; see `ztcir eval {benchmark} "
            "--download-help`."
        )


def listed(names: Collection[str]) -> str:
    """Return the first few names, for a sentence."""
    first = list(names)[:_SHOWN]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")
