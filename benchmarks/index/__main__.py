"""Measure the index beside its rivals.

    python -m benchmarks.index --rows 1000000               a million vectors like CLIP's
    python -m benchmarks.index --index photos.ztcir         the vectors of an index
    python -m benchmarks.index --parts growth               only what must not grow with the index

What was built is kept in `--folder`: after an interruption, the same command goes on. Engines whose
package is missing are left out and named; benchmarks/index/requirements/ has a file for each.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.index.data import clip_like, of_index
from benchmarks.index.engines import ENGINES
from benchmarks.index.growth import measure_commands, measure_commits
from benchmarks.index.measure import measure
from benchmarks.provenance import load_average, provenance
from cli.output import note
from ztcir_sdk.environment import installed, now
from ztcir_sdk.errors import UsageError
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["main"]

PACKAGES: Mapping[str, str] = {
    "ztcir": "hnswlib",
    "hnswlib": "hnswlib",
    "faiss, HNSW": "faiss",
    "faiss, flat": "faiss",
    "faiss, 8-bit flat": "faiss",
    "usearch, f16": "usearch",
    "LanceDB": "lancedb",
}
"""Engine -> the package that it needs."""
DISTRIBUTIONS = ("hnswlib", "faiss-cpu", "usearch", "lancedb", "simsimd", "numpy")
PARTS = ("engines", "growth")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write a result file; return the exit code."""
    parser = command_parser("index", "Measure the index beside its rivals.")
    parser.add_argument("--rows", type=positive, default=1_000_000, help="number of vectors")
    parser.add_argument("--dim", type=positive, default=512, help="width of the vectors")
    parser.add_argument("--index", type=Path, help="take the vectors of this index instead")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=positive, default=20, help="turns of 20 queries")
    parser.add_argument("--folder", type=Path, default=Path("runs/index"), help="for what is built")
    parser.add_argument("--out", type=Path, help="result file; default: named after the data")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    folder: Path = options.folder.absolute()
    if options.index is not None:
        data = of_index(folder, options.index)
    else:
        data = clip_like(folder, options.rows, options.dim)
    if data.rows < 1000:
        raise UsageError(f"{data.rows} vectors are too few to measure: give at least 1000.")
    place = folder / data.file.stem
    values: dict[str, Any] = {"data": data.name, "rows": data.rows, "dim": data.dim}
    if "engines" in options.parts:
        chosen, missing = _available(options.engines)
        figures, failed = measure(data, place, chosen, options.rounds)
        values |= {"engines": figures, "not_measured": {**missing, **failed}}
    if "growth" in options.parts:
        note("measuring commits and commands")
        place.mkdir(parents=True, exist_ok=True)
        values["commits"] = measure_commits(data, place)
        values["command"] = measure_commands(data.rows, place)
    found = provenance(date, available_cores(), load)
    found["versions"] |= {name: installed(name) for name in DISTRIBUTIONS}
    out = options.out or RESULTS / f"index-{data.file.stem}.json"
    write_result(out, {**found, **values})


def _available(engines: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the engines whose packages are installed, and why the others are not measured."""
    chosen, missing = [], {}
    for name in engines:
        package = PACKAGES.get(name)
        if package is None or importlib.util.find_spec(package) is not None:
            chosen.append(name)
        else:
            missing[name] = (
                f"not installed: pip install -r benchmarks/index/requirements/{package}.txt"
            )
            note(f"{name} is {missing[name]}")
    return chosen, missing


if __name__ == "__main__":
    sys.exit(main())
