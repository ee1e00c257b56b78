"""Run cases in processes of their own, each with limits of time and memory, and watch what they do.

A process that ends, hangs or takes too much is a finding, and so is a case that starts a program,
opens a file for reading outside of its folder, or raises anything but a sentence for the user.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.fuzz import archives, bundles, indexes, pictures

__all__ = ["KINDS", "Kind", "Outcome", "run_case", "run_kind"]

Case = Callable[[Path, random.Random], str]


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what reads it."""

    make: Callable[[random.Random], bytes]
    read: Case
    package: str | None = None
    """What reads it, where that is an extra."""

    @property
    def is_available(self) -> bool:
        """Whether the package that reads it is installed."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


KINDS: Mapping[str, Kind] = {
    "pictures": Kind(pictures.make_picture, pictures.read_picture),
    "heic": Kind(pictures.make_heic, pictures.read_heic, "pi_heif"),
    "raw": Kind(pictures.make_raw, pictures.read_raw, "rawpy"),
    "archives": Kind(archives.make_archive, archives.read_archive),
    "manifests": Kind(bundles.make_manifest, bundles.read_manifest),
    "tokenizers": Kind(bundles.make_tokenizer, bundles.read_tokenizer),
    "indexes": Kind(indexes.make_index, indexes.read_index),
}
CASE_SECONDS = 5.0
"""Seconds of a core that a case may take."""
HANG_SECONDS = 120.0
"""Seconds without an answer after which a process is ended."""
CASE_BYTES = 600_000_000
"""Memory that a case may take."""
PROCESS_BYTES = 6_000_000_000
"""Address space of a process."""
CASES_A_PROCESS = 2_000
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")


@dataclass
class Outcome:
    """What the cases of one kind did."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    largest: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "cases": self.cases,
            "outcomes": dict(self.outcomes),
            "findings": self.findings[:100],
            "core_seconds": round(self.seconds, 1),
            "slowest_case_core_seconds": round(self.slowest, 3),
            "largest_case_mb": round(self.largest / 1e6),
        }


class _Watch:
    """Sees, by Python's audit hook, what a case opens and starts."""

    def __init__(self) -> None:
        self.folder = ""
        self.seen: list[str] = []
        self._known = (
            *(sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), "/usr/", "/lib"),
            *("/proc/", "/sys/", "/dev/null", "/dev/urandom", str(Path(__file__).parents[2])),
            f"{tempfile.gettempdir()}/ztcir-",
        )
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event.startswith(_PROGRAMS):
            self.seen.append(f"started a program: {event}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.normpath(Path.cwd() / os.fsdecode(arguments[0]))
            if not path.startswith((self.folder, *self._known)):
                self.seen.append(f"opened {path[:200]}")


def run_case(kind: Kind, seed: int, watch: _Watch | None = None) -> tuple[str, float, int, str]:
    """Run one case; return its outcome, seconds of a core, bytes of memory, and a problem or ""."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="ztcir-case-"))
    problem = outcome = ""
    try:
        file = folder / "case"
        file.write_bytes(kind.make(rng))
        before, started = _start_of_peak(), time.process_time()
        if watch is not None:
            watch.seen, watch.folder = [], str(folder)
        try:
            outcome = kind.read(file, rng)
        except BaseException:
            outcome, problem = "traceback", traceback.format_exc(limit=-6)
        finally:
            if watch is not None:
                watch.folder = ""
        seconds, size = time.process_time() - started, _peak() - before
        if watch is not None and watch.seen:
            problem = problem or watch.seen[0]
        if seconds > CASE_SECONDS:
            problem = problem or f"took {seconds:.1f} s of a core"
        if size > CASE_BYTES:
            problem = problem or f"took {size / 1e6:.0f} MB"
        return outcome, seconds, size, problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_of_peak() -> int:
    """Let the peak of this process's memory begin now; return what it has."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    import resource  # POSIX alone has it

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    text = Path("/proc/self/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _work(name: str, seeds: range, pipe: Connection) -> None:
    """Run cases in a process of their own, and send what each did."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (PROCESS_BYTES, PROCESS_BYTES))
    warnings.simplefilter("ignore")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)  # where Rust prints its panics
    watch = _Watch()
    for seed in seeds:
        pipe.send((seed, None))
        pipe.send((seed, run_case(KINDS[name], seed, watch)))
    pipe.send((-1, None))
    pipe.close()


def run_kind(name: str, cases: int, progress: Callable[[int, int], None]) -> Outcome:
    """Run many cases of a kind, one process after the other."""
    outcome = Outcome()
    context = multiprocessing.get_context("spawn")
    first = 0
    while first < cases:
        seeds = range(first, min(first + CASES_A_PROCESS, cases))
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(name, seeds, theirs))
        process.start()
        theirs.close()
        first = _collect(ours, process, seeds, outcome)
        process.join(5)
        if process.is_alive():
            process.kill()
        progress(first, cases)
    return outcome


def _collect(pipe: Connection, process: Any, seeds: range, outcome: Outcome) -> int:
    """Take a process's answers; return the number of the next case."""
    current = seeds[0]
    while True:
        problem = ""
        try:
            if not pipe.poll(HANG_SECONDS):
                process.kill()
                problem = f"hung for {HANG_SECONDS:.0f} s"
            else:
                seed, answer = pipe.recv()
                if seed < 0:
                    return seeds[-1] + 1
                current = seed
                if answer is None:
                    continue
                what, seconds, size, problem = answer
                outcome.cases += 1
                outcome.outcomes[what] += 1
                outcome.seconds += seconds
                outcome.slowest = max(outcome.slowest, seconds)
                outcome.largest = max(outcome.largest, size)
                if problem:
                    outcome.findings.append({"seed": seed, "problem": problem})
                continue
        except EOFError:
            process.join()
            problem = f"the process ended with {process.exitcode}"
        outcome.cases += 1
        outcome.outcomes["crash"] += 1
        outcome.findings.append({"seed": current, "problem": problem})
        return current + 1
