"""Build, open and search every engine on one data set, in turns."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.data import FILTERED, FRACTIONS, QUERIES, TUNING, DataSet, allowed_rows
from benchmarks.index.engines import EFFORTS, ENGINES, EXACT
from benchmarks.provenance import ROOT, load_average
from cli.output import note
from ztcir_sdk.environment import now
from ztcir_sdk.files import write_whole

__all__ = ["BASELINE", "measure"]

BASELINE = "hnswlib"
"""Ratios of builds and of searches in graphs are relative to it,"""
EXACT_BASELINE = "numpy"
"""and those of exact searches to this."""
RECALL = 0.99
AT_ONCE = 20
"""Queries of an engine's turn."""


@dataclass(frozen=True)
class _Process:
    """An engine's process."""

    popen: subprocess.Popen[str]

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Let it do something, and return its answer."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self.popen.stdin.flush()
        answer = self.popen.stdout.readline()
        if not answer:
            raise ChildProcessError(f"the process ended ({self.popen.wait()})")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextlib.contextmanager
def _process(engine: str, folder: Path, data: DataSet, queries: Path) -> Iterator[_Process]:
    command = [sys.executable, "-m", "benchmarks.index.worker", engine, "--folder", str(folder)]
    command += ["--vectors", str(data.file), "--queries", str(queries)]
    command += ["--rows", str(data.rows), "--dim", str(data.dim)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as popen:
        try:
            yield _Process(popen)
        finally:
            if popen.stdin is not None:
                popen.stdin.close()
            if popen.poll() is None and sys.exc_info()[0] is not None:
                popen.kill()


def measure(
    data: DataSet, folder: Path, engines: list[str], rounds: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure engines; builds that an earlier run finished are kept.

    Returns:
        For each engine its figures, and for each that could not be measured, why.
    """
    queries, answers = folder / "queries.npy", folder / f"answers-of-{len(data.queries)}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(queries, data.queries)
    if not answers.exists():
        np.save(answers, data.answers())
    figures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in engines:
        try:
            figures[name] = {"build": _build(name, data, folder, queries)}
        except (ChildProcessError, OSError) as error:
            failed[name] = f"the build failed: {error}"
            note(f"{name}: {failed[name]}")
    with contextlib.ExitStack() as stack:
        running: dict[str, _Process] = {}
        for name in list(figures):
            process = stack.enter_context(_process(name, _place(folder, name), data, queries))
            try:
                figures[name]["open"] = process.ask("open")
            except ChildProcessError as error:
                failed[name] = f"it cannot be opened: {error}"
                del figures[name]
                continue
            running[name] = process
        for name, why in _tune(running, figures, answers).items():
            failed[name] = why
            del running[name], figures[name]
        _take_turns(running, figures, rounds, "search")
        for fraction in FRACTIONS:
            _filter(running, figures, data, folder, fraction, max(2, rounds // 4))
    _add_ratios(figures)
    return figures, failed


def _place(folder: Path, name: str) -> Path:
    return folder / "".join(letter if letter.isalnum() else "-" for letter in name)


def _build(name: str, data: DataSet, folder: Path, queries: Path) -> dict[str, Any]:
    place = _place(folder, name)
    record = place.with_suffix(".build.json")
    if record.exists():
        kept: dict[str, Any] = json.loads(record.read_text())
        return kept
    if place.exists():
        shutil.rmtree(place)
    note(f"{data.name}: building {name}")
    before = load_average()
    with _process(name, place, data, queries) as process:
        figures = process.ask("build")
    figures |= {"date": now(), "load_average": {"before": before, "after": load_average()}}
    write_whole(record, json.dumps(figures))
    return figures


def _tune(
    running: Mapping[str, _Process], figures: dict[str, Any], answers: Path
) -> dict[str, str]:
    """Give each engine the least effort with which it reaches the recall of ztcir's graph.

    Returns:
        Why engines cannot be searched.
    """
    wanted, failed = RECALL, {}
    for name, process in running.items():
        efforts = EFFORTS if ENGINES[name]().tunable else (EXACT,)
        tuned = 0.0
        try:
            for effort in efforts:
                tuned = process.ask(
                    "recall", effort=effort, first=0, end=TUNING, answers=str(answers)
                )["recall"]
                if tuned >= wanted:
                    break
            found = process.ask(
                "recall", effort=effort, first=TUNING, end=TUNING + QUERIES, answers=str(answers)
            )
        except (ChildProcessError, BrokenPipeError) as error:
            failed[name] = f"its search failed: {error}"
            continue
        figures[name]["effort"] = effort
        figures[name] |= found
        if name == "ztcir":
            wanted = max(RECALL, tuned)
    return failed


def _take_turns(
    running: Mapping[str, _Process], figures: dict[str, Any], rounds: int, entry: str
) -> None:
    """Time all engines in rounds, each round starting with the next engine."""
    names = list(running)
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % max(len(names), 1)
        for name in [*names[turn:], *names[:turn]]:
            first = TUNING + (number * AT_ONCE) % (QUERIES - AT_ONCE)
            answer = running[name].ask(
                "time", effort=figures[name]["effort"], first=first, count=AT_ONCE
            )
            times[name].append(answer["times_ms"])
    for name in names:
        every = np.concatenate([np.asarray(one) for one in times[name]])
        figures[name].setdefault(entry, {}).update(
            p50_ms=float(np.median(every)),
            p99_ms=float(np.percentile(every, 99)),
            runs=len(every),
            rounds_ms=[float(np.median(one)) for one in times[name]],
        )


def _filter(
    running: Mapping[str, _Process],
    figures: dict[str, Any],
    data: DataSet,
    folder: Path,
    fraction: float,
    rounds: int,
) -> None:
    """Search with a filter that leaves a part of the rows."""
    able = {name: process for name, process in running.items() if ENGINES[name]().filters}
    answers = folder / f"answers-of-{len(data.queries)}-{fraction}.npy"
    if not answers.exists():
        np.save(answers, data.answers(allowed_rows(data.rows, fraction)))
    entry = f"filtered_{fraction}"
    for name, process in able.items():
        process.ask("allow", fraction=fraction)
        found = process.ask(
            "recall",
            effort=figures[name]["effort"],
            first=TUNING,
            end=TUNING + FILTERED,
            answers=str(answers),
        )
        figures[name][entry] = found
    _take_turns(able, figures, rounds, entry)


def _add_ratios(figures: dict[str, Any]) -> None:
    """Add to each time its ratio to the baseline's, in the same rounds."""
    for values in figures.values():
        for entry in ("search", *(f"filtered_{fraction}" for fraction in FRACTIONS)):
            for baseline in (BASELINE, EXACT_BASELINE):
                if entry not in values or entry not in figures.get(baseline, {}):
                    continue
                ratios = np.asarray(values[entry]["rounds_ms"]) / np.asarray(
                    figures[baseline][entry]["rounds_ms"]
                )
                values[entry][f"ratio_to_{baseline}"] = {
                    "median": float(np.median(ratios)),
                    "p25": float(np.percentile(ratios, 25)),
                    "p75": float(np.percentile(ratios, 75)),
                }
        if BASELINE in figures:
            own, other = values["build"], figures[BASELINE]["build"]
            values["build"]["ratio_to_hnswlib"] = {
                "seconds": own["seconds"] / other["seconds"],
                "cpu_seconds": own["cpu_seconds"] / other["cpu_seconds"],
            }
