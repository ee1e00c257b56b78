"""What `ztcir search` costs from cold, as ratios to importing what it cannot do without.

    python -m benchmarks.cold

Each round starts every command once, in a process of its own, with compiled modules as pip installs
them. Ratios are medians over the rounds of one run: of the time that a user waits, and of the time
of processors, which depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.markdown import format_table
from benchmarks.provenance import ROOT, load_average, provenance
from cli.output import note, table
from ztcir_sdk.benchmark import draw_photos
from ztcir_sdk.environment import now
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import DEFAULT_BUNDLE
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.runtime.start_cache import START_CACHE_VARIABLE

FLOOR, SEARCH, PYTHON, IMPORT = "floor", "search", "python", "import_sdk"
LABELS = {
    PYTHON: "python -c pass",
    IMPORT: "python -c 'import ztcir_sdk'",
    FLOOR: "python -c 'import numpy, onnxruntime'",
    SEARCH: 'ztcir search ref.jpg "make it red"',
}
PICTURES = 200
LAUNCHER = Path(__file__).with_name("launch.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the ratios; return the exit code."""
    parser = command_parser("cold", "Measure what a search costs from cold, as ratios.")
    parser.add_argument("--rounds", type=positive, default=20, help="rounds of all commands")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "cold.json", help="file of the result"
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure_and_report(options))


def _measure_and_report(options: argparse.Namespace) -> None:
    result = run(options.rounds)
    rows = [
        (LABELS[name], *(f"{one[key]:.0f}" for key in ("wall_ms", "cpu_ms", "peak_mb")))
        for name, one in result["commands"].items()
    ]
    table(("command", "wall ms", "CPU ms", "peak MB"), rows)
    ratios = result["search_to_floor"]
    note(f"a search is {ratios['wall']:.2f} times the floor, {ratios['cpu']:.2f} in CPU time")
    write_result(options.out, result)


def run(rounds: int) -> dict[str, Any]:
    """Measure all commands and return the values of the result file.

    Raises:
        ZtcirError: a command failed.
    """
    started, load = now(), load_average()
    with tempfile.TemporaryDirectory(prefix="ztcir-cold-") as scratch:
        folder = Path(scratch)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            START_CACHE_VARIABLE: str(folder / "start"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _prepare(folder)
        python = sys.executable
        commands = {
            PYTHON: [python, "-c", "pass"],
            IMPORT: [python, "-c", "import ztcir_sdk"],
            FLOOR: [python, "-c", "import numpy, onnxruntime"],
            SEARCH: [python, "-m", "cli", "search", "ref.jpg", "make it red", "--device", "cpu"],
        }
        for command in commands.values():
            _timed(command, environment, folder)  # compiles the modules
        shutil.rmtree(folder / "start", ignore_errors=True)
        first = _timed(commands[SEARCH], environment, folder)
        second = _timed(commands[SEARCH], environment, folder)
        times: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(_timed(command, environment, folder))
    return {
        **provenance(started, available_cores(), load),
        "settings": {"rounds": rounds, "index": PICTURES, "bundle": DEFAULT_BUNDLE},
        "commands": {name: _summary(own) for name, own in times.items()},
        "empty_start_cache": {"first": first, "second": second},
        "search_to_floor": {
            side: _ratio(times[SEARCH], times[FLOOR], f"{side}_ms") for side in ("wall", "cpu")
        },
        "import_beyond_python_ms": round(
            float(
                np.median(
                    [
                        one["wall_ms"] - other["wall_ms"]
                        for one, other in zip(times[IMPORT], times[PYTHON], strict=True)
                    ]
                )
            ),
            1,
        ),
    }


def _prepare(folder: Path) -> None:
    """Draw photos and index them; the first is the reference."""
    photos = folder / "photos"
    photos.mkdir()
    files = draw_photos(photos, PICTURES)
    (folder / "ref.jpg").write_bytes(files[0].read_bytes())
    Retriever.from_pretrained(device="cpu").index(photos, to=folder / "photos.ztcir")


def _timed(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> dict[str, float]:
    """Run a command; return its time, its processors' time and its peak memory.

    Raises:
        ZtcirError: it failed.
    """
    answer = subprocess.run(
        [sys.executable, "-S", str(LAUNCHER), *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise ZtcirError(f"{' '.join(command[1:])} failed: {answer.stderr.strip()[-500:]}")
    values: dict[str, float] = json.loads(answer.stdout)
    return values


def _summary(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(float(np.median([one[key] for one in times])), 1) for key in times[0]}


def _ratio(
    times: Sequence[Mapping[str, float]], floor: Sequence[Mapping[str, float]], key: str
) -> float:
    """Return the median over rounds of the ratio of two commands."""
    ratios = [one[key] / other[key] for one, other in zip(times, floor, strict=True)]
    return round(float(np.median(ratios)), 3)


def describe_cold(values: Mapping[str, Any]) -> str:
    """Describe a command from cold beside what it cannot do without."""
    names = {
        "python": "`python -c pass`",
        "import_sdk": "`import ztcir_sdk`",
        "floor": "`import numpy, onnxruntime`",
        "search": '`ztcir search ref.jpg "make it red"`',
    }
    rows = [
        (
            label,
            *(f"{values['commands'][name][key]:.0f}" for key in ("wall_ms", "cpu_ms", "peak_mb")),
        )
        for name, label in names.items()
    ]
    first = values["empty_start_cache"]["first"]
    return (
        f"{format_table(('command', 'ms', 'ms of a processor', 'peak MB'), rows)}\n\n"
        f"A search takes {values['search_to_floor']['wall']:.2f} times the imports that it needs "
        f"at least; the first one on a machine, before anything is kept, {first['wall_ms']:.0f} ms "
        f"and {first['peak_mb']:.0f} MB. {values['machine']['cpu']}, {values['date'][:10]}."
    )


if __name__ == "__main__":
    sys.exit(main())
