"""Fuzz what reads strangers' files, guided by coverage: atheris, where it is installed.

    pip install atheris
    python -m benchmarks.fuzz.guided --seconds 120

Each kind runs in a process of its own. libFuzzer changes files of `benchmarks.fuzz`, keeps those
that reach new branches of ztcir_sdk and Pillow, and ends at the first that raises anything but a
sentence for the user, takes 20 s, or takes 2 GB with the interpreter.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.provenance import ROOT, load_average, provenance
from cli.output import note
from ztcir_sdk.environment import installed, now
from ztcir_sdk.errors import UsageError

__all__ = ["fuzz_guided", "main"]

FILE = "fuzz-guided.json"
NAMES = ("pictures", "archives", "manifests", "tokenizers")
"""Kinds of `benchmarks.fuzz` whose cases are one file. An index is a folder."""
SEEDS = 100
CASE_SECONDS, PROCESS_MB, MAX_BYTES = 20, 2_000, 1 << 16
"""libFuzzer counts seconds of the wall, in which other processes run as well."""
INSTRUMENTED = ("ztcir_sdk", "PIL")


def main(arguments: list[str] | None = None) -> int:
    """Fuzz each kind and write the figures; return the exit code."""
    parser = command_parser("fuzz.guided", "Fuzz strangers' files, guided by coverage.")
    parser.add_argument("--kinds", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seconds", type=positive, default=120, help="for each kind")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE, help="result file")
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args(arguments)
    if given.worker is not None:
        _work(given.worker, rest)
    return run_command(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    date, load = now(), load_average()
    kinds = {}
    for name in given.kinds:
        kinds[name] = fuzz_guided(name, given.seconds)
        note(f"{name}: {kinds[name]['cases']} cases, {len(kinds[name]['findings'])} findings")
    where = provenance(date, 1, load)
    where["versions"]["atheris"] = installed("atheris")
    limits = {"seconds": CASE_SECONDS, "process_mb": PROCESS_MB, "bytes": MAX_BYTES}
    write_result(given.output, {**where, "limits_a_case": limits, "kinds": kinds})


def fuzz_guided(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz one kind of file.

    Args:
        name: of `NAMES`.
        seconds: how long.

    Returns:
        The number of cases, of branches that were reached, of inputs that were kept for new ones,
        and what went wrong, with the file that shows it in hexadecimal digits.

    Raises:
        UsageError: atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise UsageError("atheris is not installed: pip install atheris, with Python 3.11 to 3.13.")
    scratch = Path(tempfile.mkdtemp(prefix="ztcir-guided-"))
    try:
        (scratch / "corpus").mkdir()
        options = (
            f"-max_total_time={seconds}",
            f"-timeout={CASE_SECONDS}",
            f"-rss_limit_mb={PROCESS_MB}",
            f"-max_len={MAX_BYTES}",
            f"-artifact_prefix={scratch}/found-",
            "-print_final_stats=1",
            "-seed=1",
        )
        command = [sys.executable, "-m", "benchmarks.fuzz.guided", "--worker", name]
        done = subprocess.run(
            [*command, *options, str(scratch / "corpus")],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
        )
        text = done.stdout + done.stderr
        found = sorted(scratch.glob("found-*"))
        findings = [
            {"problem": text[-2000:], "file": one.read_bytes().hex()[:20_000]} for one in found
        ]
        if done.returncode and not findings:
            findings = [{"problem": text[-2000:], "file": ""}]
        branches = re.findall(r"\bcov: (\d+)", text)
        cases = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
        return {
            "seconds": seconds,
            "cases": int(cases[-1]) if cases else 0,
            "branches": int(branches[-1]) if branches else 0,
            "kept": len(list((scratch / "corpus").iterdir())),
            "findings": findings,
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _work(name: str, options: list[str]) -> None:
    """Fuzz in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from benchmarks.fuzz.run import KINDS
    kind = KINDS[name]
    warnings.simplefilter("ignore")
    corpus, folder = Path(options[-1]), Path(tempfile.mkdtemp(prefix="ztcir-case-"))
    for seed in range(SEEDS):
        data = kind.make(random.Random(seed))
        if len(data) <= MAX_BYTES:
            (corpus / f"{seed:04}").write_bytes(data)

    def one(data: bytes) -> None:
        for old in folder.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        file = folder / "case"
        file.write_bytes(data)
        kind.read(file, random.Random(len(data)))

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
