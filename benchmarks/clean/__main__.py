"""How long clean files take with the checks of strangers' files, beside Pillow alone and before.

    python -m benchmarks.clean                     load_image beside Pillow
    python -m benchmarks.clean --before 7a87dc2    and beside the same work of an earlier commit

Each side reads the same files in a process of its own; the sides take turns, and each round gives
ratios. The result is the median of the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.provenance import ROOT, load_average, provenance
from cli.output import note
from ztcir_sdk.environment import now
from ztcir_sdk.errors import UsageError

FILE = "clean.json"
SIZES = {"small": (60, 80), "web": (750, 1000)}
FORMATS: Mapping[str, dict[str, Any]] = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {},
    "TIFF": {"compression": "tiff_deflate"},
    "GIF": {},
}
MEMBERS = 300
"""Pictures of the archive."""

WORKER = Path(__file__).with_name("worker.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result file; return the exit code."""
    parser = command_parser("clean", "Measure what checks cost on clean files.")
    parser.add_argument("--before", help="also measure this commit")
    parser.add_argument("--rounds", type=positive, default=15, help="turns of each side")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ztcir-clean-")))
        files = _write_files(scratch / "files")
        codes = {"now": ROOT, "Pillow": ROOT}
        if options.before is not None:
            codes["before"] = _code_of(options.before, scratch / "before")
        sides = {
            name: stack.enter_context(_worker(name, code, scratch / "files"))
            for name, code in codes.items()
        }
        seconds = _take_turns(sides, files, options.rounds)
    values = {
        "before": options.before,
        "rounds": options.rounds,
        "files": {
            name: {
                **{f"{side}_ms": 1000 * float(np.median(found)) for side, found in own.items()},
                **{
                    f"ratio_to_{side}": float(np.median(np.divide(own["now"], own[side])))
                    for side in own
                    if side != "now"
                },
            }
            for name, own in seconds.items()
        },
    }
    write_result(options.output, {**provenance(date, 1, load), **values})


def _write_files(folder: Path) -> dict[str, int]:
    """Write clean files; return how often each is read in a turn."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    repeats = {}
    for size, (width, height) in SIZES.items():
        noise = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        for form, options in FORMATS.items():
            name = f"{size}.{form.lower()}"
            image.save(folder / name, form, **options)
            repeats[name] = 40 if size == "small" else 4
    data = (folder / "small.jpeg").read_bytes()
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for number in range(MEMBERS):
            member = tarfile.TarInfo(f"{number:04}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    repeats["shard.tar"] = 1
    return repeats


def _code_of(commit: str, folder: Path) -> Path:
    """Write the SDK of a commit to a folder."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "ztcir_sdk"], capture_output=True, check=False
    )
    if done.returncode:
        raise UsageError(f"There is no commit {commit} here: name one that `git log` shows.")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@contextlib.contextmanager
def _worker(name: str, code: Path, files: Path) -> Iterator[subprocess.Popen[str]]:
    kind = "pillow" if name == "Pillow" else "ztcir"
    with subprocess.Popen(
        [sys.executable, str(WORKER), kind, str(files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=files,
        env={**os.environ, "PYTHONPATH": str(code)},
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _take_turns(
    sides: dict[str, subprocess.Popen[str]], files: dict[str, int], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Return seconds of the processor by file and side, one of each round."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in files}
    for number in range(-1, rounds):  # the first warms up
        for name, repeat in files.items():
            names = list(sides)
            turn = number % len(names)
            for side in [*names[turn:], *names[:turn]]:
                if side == "Pillow" and name.endswith(".tar"):
                    continue
                taken = _ask(sides[side], name, repeat)
                if number >= 0:
                    seconds[name].setdefault(side, []).append(taken)
        note(f"round {number + 1} of {rounds}")
    return seconds


def _ask(process: subprocess.Popen[str], name: str, repeat: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([name, repeat]) + "\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


if __name__ == "__main__":
    sys.exit(main())
