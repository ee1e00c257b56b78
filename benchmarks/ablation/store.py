"""Results by row and seed, each written when it is ready, so that an ablation can resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ablation.rows import Row
from ztcir_sdk.files import write_whole

FORMAT = 2
"""Increased when the meaning of a result changes."""


@dataclass(frozen=True)
class Store:
    """A folder of results.

    Attributes:
        folder: folder with one file per result.
        validation: fingerprint of the validation queries.
    """

    folder: Path
    validation: str

    def path(self, row: Row, seed: int, identity: Mapping[str, Any]) -> Path:
        """Return the file of a row's result; `identity` is all that the result depends on."""
        whole = {"format": FORMAT, "validation": self.validation, **identity}
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{row.name}-{seed}-{digest}.json"

    def read(self, row: Row, seed: int, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a result, or None if there is none yet."""
        path = self.path(row, seed, identity)
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def write(
        self,
        row: Row,
        seed: int,
        identity: Mapping[str, Any],
        scores: Mapping[str, Mapping[str, float]],
        seconds: float,
        measured: Mapping[str, Any],
    ) -> None:
        """Write a result, whole or not at all; `measured` is its `origin`."""
        path = self.path(row, seed, identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "row": row.name,
            "seed": seed,
            "scores": scores,
            "seconds": round(seconds, 1),
            "measured": measured,
            "validation": self.validation,
            "identity": identity,
        }
        write_whole(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def origin(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return when, from which commit and on which processor a result file was measured.

    Args:
        values: entries of `provenance`.
    """
    commit = values["git"]["commit"] if values["git"] else None
    return {"date": values["date"], "commit": commit, "cpu": values["machine"]["cpu"]}
