"""Measure every row of the ablation with some seeds, and write the result file.

    python -m benchmarks.ablation --catalogue catalogue

The backbone is the embedded bundle's own, read back from its graphs, or a checkpoint's. Each result
is written when it is ready. After an interruption the same call resumes each training and skips
finished results. `python -m benchmarks.readme` then writes the figures into docs/method.md.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation.earlier import take_results
from benchmarks.ablation.report import summarise
from benchmarks.ablation.rows import FROZEN, FULL, ROWS, Row, Settings, choose_rows
from benchmarks.ablation.store import Store, origin
from benchmarks.ablation.training import Workshop
from benchmarks.ablation.validation import TIDY, read_validation
from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.provenance import load_average, provenance
from cli.output import note, table
from export.bundled_backbone import bundled_backbone
from train.data.collection import read_collection
from train.data.source import read_sources
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.environment import now
from ztcir_sdk.errors import disk_full_as_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure and write the result file; return the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that weights are random
    if options.out is None:
        options.out = RESULTS / ("ablation-options.json" if options.options else "ablation.json")
    return run_command(lambda: _measure_and_report(options))


def _measure_and_report(options: argparse.Namespace) -> None:
    with disk_full_as_error():
        values = run(options)
        rows = [(name, f"{row['mean']['mAP@10']:.4f}") for name, row in values["rows"].items()]
        table(("row", "mAP@10"), rows)
        write_result(options.out, values)
    note("`python -m benchmarks.readme` writes the figures into the documents.")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the requested rows; return all results with these settings, as JSON values.

    Raises:
        ZtcirError: a file is missing, or a row is unknown.
    """
    names = options.rows
    if options.options and names is None:
        names = [FULL.name, *(row.name for row in ROWS if row.option)]
    rows = choose_rows(names)
    started, load = now(), load_average()
    settings = Settings(
        map_steps=options.steps[0],
        compose_steps=options.steps[1],
        triplets=options.triplets,
        drawings=options.drawings,
        inverted=options.inversion[0],
        inversion_steps=options.inversion[1],
    )
    catalogue, drawings = options.catalogue, settings.drawings
    images, development = read_collection([str(catalogue / "train-*.tar")], drawings=drawings)
    backbone = options.backbone or bundled_backbone(Bundle.embedded(), options.runs / "backbone")
    workshop = Workshop(
        str(backbone),
        images,
        development,
        settings,
        options.runs,
        options.features,
        keep=options.keep,
    )
    gallery, _ = read_sources([str(catalogue / "val-*.tar")])
    validation = read_validation(
        workshop.frozen,
        gallery,
        catalogue / "val-triplets.jsonl",
        options.runs,
        catalogue / "val-open-triplets.jsonl",
    )
    data = {
        **workshop.fingerprints,
        "validation": validation.fingerprint,
        "images": len(images),
        "development": len(development),
        "queries": validation.kinds.count(TIDY),
        "open_requests": len(validation.kinds) - validation.kinds.count(TIDY),
        "gallery": len(validation.gallery),
    }
    store = Store(options.runs / "results", validation.fingerprint)
    for path in options.earlier:
        take_results(path, {"settings": asdict(settings), "data": data}, workshop, store)
    seeds = tuple(dict.fromkeys(options.seeds))
    measure_rows(workshop, store, rows, seeds, validation)
    found = collect(workshop, store, seeds)
    kept = rows if options.options else {*rows, *choose_rows(None)}
    return {
        **provenance(started, torch.get_num_threads(), load),
        "settings": {**asdict(settings), "seeds": list(seeds)},
        "data": data,
        **summarise({row: own for row, own in found.items() if row in kept}),
    }


def measure_rows(
    workshop: Workshop,
    store: Store,
    rows: Sequence[Row],
    seeds: Sequence[int],
    validation: Any,
) -> None:
    """Measure missing results: all rows with the first seed, then with the next."""
    wanted = [(row, seed) for seed in seeds for row in rows if row != FROZEN or seed == seeds[0]]
    missing = [
        (row, seed)
        for row, seed in wanted
        if store.read(row, _seed(row, seed), workshop.identity(row, seed)) is None
    ]
    note(f"{len(wanted)} results are requested; {len(wanted) - len(missing)} are done already.")
    spent: dict[str, list[float]] = defaultdict(list)
    here = origin(provenance(now(), torch.get_num_threads(), None))
    for place, (row, seed) in enumerate(missing):
        note(f"{row.name}, seed {seed} ({place + 1} of {len(missing)})")
        begun = time.monotonic()
        scores = workshop.measure(row, seed, validation)
        seconds = time.monotonic() - begun
        identity, measured = workshop.identity(row, seed), {**here, "date": now()}
        store.write(row, _seed(row, seed), identity, scores, seconds, measured)
        spent[row.rival or row.stage].append(seconds)
        note(f"{row.name}, seed {seed}: {seconds:.0f} s{_end(spent, missing[place + 1 :])}")


def collect(
    workshop: Workshop, store: Store, seeds: Sequence[int]
) -> Mapping[Row, Mapping[int, dict[str, Any]]]:
    """Return all results with the workshop's settings: row -> seed -> result."""
    found: dict[Row, dict[int, dict[str, Any]]] = {}
    for row in ROWS:
        for seed in seeds:
            result = store.read(row, _seed(row, seed), workshop.identity(row, seed))
            if result is not None:
                found.setdefault(row, {})[_seed(row, seed)] = result
    return found


def _seed(row: Row, seed: int) -> int:
    """Return the seed of a row's result: nothing is trained in the frozen row."""
    return 0 if row == FROZEN else seed


def _end(spent: Mapping[str, Sequence[float]], left: Sequence[tuple[Row, int]]) -> str:
    """Describe when the rest is expected to end, from the durations of similar rows so far."""
    if not left:
        return ""
    means = {stage: sum(times) / len(times) for stage, times in spent.items()}
    rest = sum(means.get(row.rival or row.stage, max(means.values())) for row, _ in left)
    end = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=rest)
    return f"; {len(left)} left, end expected about {end:%Y-%m-%d %H:%M}"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "ablation", "Measure what each part of the method adds, beside rival methods."
    )
    add, rows = parser.add_argument, ", ".join(row.name for row in ROWS)
    catalogue = "folder of train-*.tar, val-*.tar and two files of queries"
    add("--catalogue", type=Path, default=Path("catalogue"), help=catalogue)
    add("--backbone", type=Path, help="checkpoint of the backbone; if None, the embedded bundle's")
    add("--features", type=Path, default=Path("runs/features"), help="cache of image features")
    add("--runs", type=Path, default=Path("runs/ablation"), help="folder of runs and results")
    add("--out", type=Path, help="result file; default: ablation.json in benchmarks/results")
    switches = "measure the switches that are off by default, into ablation-options.json"
    add("--options", action="store_true", help=switches)
    earlier = "result files of earlier runs: what they have is not measured again"
    add("--earlier", type=Path, nargs="+", metavar="FILE", default=[], help=earlier)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of trainings and triplets")
    add("--rows", nargs="+", metavar="ROW", help=f"rows to measure, of {rows}")
    add(
        "--steps",
        type=positive,
        nargs=2,
        metavar=("STAGE_I", "STAGE_II"),
        default=[Settings.map_steps, Settings.compose_steps],
        help="optimizer steps; a rival has as many as both stages",
    )
    add("--triplets", type=positive, default=Settings.triplets, help="number of all triplets")
    add("--drawings", type=int, default=Settings.drawings, help="drawings to train on")
    add(
        "--inversion",
        type=positive,
        nargs=2,
        metavar=("IMAGES", "STEPS"),
        default=[Settings.inverted, Settings.inversion_steps],
        help="images that SEARLE's rival inverts, and steps for each",
    )
    add("--keep", action="store_true", help="keep Stage II checkpoints, 0.2 GB per row and seed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
