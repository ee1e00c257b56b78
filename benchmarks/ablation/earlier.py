"""Results of earlier runs, read back from their files, so that seeds can be added to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.ablation.report import FROZEN_LABELS
from benchmarks.ablation.rows import FROZEN, ROWS, Row
from benchmarks.ablation.store import Store, origin
from benchmarks.ablation.training import Workshop
from cli.output import note
from ztcir_sdk.errors import UsageError


def take_results(
    path: Path,
    described: Mapping[str, Mapping[str, Any]],
    workshop: Workshop,
    store: Store,
) -> None:
    """Write the results of a result file into the store, except those that it has.

    Args:
        path: file that this command wrote.
        described: this run's "settings" (without seeds) and "data"; the file's must be the same.
        workshop: workshop of this run.
        store: results of this run.

    Raises:
        UsageError: it is no result file of this command, or was measured with other settings or
            other data.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = list(read_results(values))
        differing = [
            name
            for part, own in described.items()
            for name in own
            if own[name] != values[part].get(name)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no result file of the ablation: {error}.") from error
    if differing:
        raise UsageError(f"{path} was measured with other settings or data: {differing}.")
    taken = 0
    for row, seed, result in found:
        identity = workshop.identity(row, seed)
        if store.read(row, seed, identity) is None:
            store.write(row, seed, identity, **result)
            taken += 1
    note(f"{taken} results are taken from {path}.")


def read_results(values: Mapping[str, Any]) -> Iterator[tuple[Row, int, dict[str, Any]]]:
    """Yield row, seed and result of what `summarise` made a file of.

    A row whose name stood for another change then is left out.
    """
    rows, whole = values["rows"], origin(values)
    for row in ROWS:
        names = list(FROZEN_LABELS) if row == FROZEN else [row.name]
        changes = json.loads(json.dumps(row.changes()))  # JSON has no tuples
        if any(name not in rows or rows[name]["changes"] != changes for name in names):
            continue
        first = rows[names[0]]
        for place, seed in enumerate(first["seeds"] or [0]):
            scores = {
                name: {metric: some[place] for metric, some in rows[name]["values"].items()}
                for name in names
            }
            measured = first["measured"][place] if "measured" in first else whole
            seconds = first["seconds"][place]
            yield row, seed, {"scores": scores, "seconds": seconds, "measured": measured}
