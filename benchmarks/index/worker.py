"""One engine in a process of its own, driven line by line, so that engines can take turns.

Each line of standard input is a JSON object with ``do``; each answer is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.data import NEIGHBOURS, allowed_rows
from benchmarks.index.engines import ENGINES

__all__ = ["main"]

PATIENCE, MIN_TIMED = 5.0, 100
"""Seconds that measuring a recall may take, but not of fewer queries."""


class _Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        self._engine = ENGINES[options.engine]()
        self._folder: Path = options.folder
        shape = (options.rows, options.dim)
        self._vectors = np.memmap(options.vectors, np.float32, "r", shape=shape).view(np.ndarray)
        self._queries = np.load(options.queries)

    def build(self) -> dict[str, Any]:
        """Build; the data is read before, so that the disk's state does not count."""
        for start in range(0, len(self._vectors), 1 << 14):
            self._vectors[start : start + (1 << 14)].sum()
        self._folder.mkdir(parents=True)
        start_cpu, begun = _cpu_seconds(), time.perf_counter()
        self._engine.build(self._vectors, self._folder)
        seconds, cpu = time.perf_counter() - begun, _cpu_seconds() - start_cpu
        size = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        return {"seconds": seconds, "cpu_seconds": cpu, "bytes": size, "peak_mb": _peak_mb()}

    def open(self) -> dict[str, Any]:
        """Open, and answer once."""
        before, begun = _memory_mb(), time.perf_counter()
        self._engine.open(self._folder, self._vectors)
        opened = time.perf_counter()
        self._engine.search(self._queries[0], NEIGHBOURS, 64)
        first = time.perf_counter() - opened
        return {
            "seconds": opened - begun,
            "first_query_ms": 1000 * first,
            "memory_mb": _memory_mb() - before,
        }

    def allow(self, fraction: float) -> dict[str, Any]:
        """Set a filter."""
        self._engine.allow(allowed_rows(len(self._vectors), fraction))
        return {}

    def recall(self, effort: int, first: int, end: int, answers: str) -> dict[str, Any]:
        """Measure recall on some queries, by scores: of equal vectors any is right.

        Slow engines stop after `PATIENCE` seconds; they compare with every vector.
        """
        least, begun = np.load(answers), time.perf_counter()
        found: list[float] = []
        for number in range(first, end):
            if len(found) >= MIN_TIMED and time.perf_counter() - begun > PATIENCE:
                break
            rows = self._engine.search(self._queries[number], NEIGHBOURS, effort)
            scores = self._vectors[rows] @ self._queries[number]
            found.append(float((scores >= least[number, 0] - 1e-6).sum()) / NEIGHBOURS)
        return {
            "recall": float(np.mean(found)),
            "recall_error": float(np.std(found) / len(found) ** 0.5),  # a standard error
            "recall_queries": len(found),
        }

    def time(self, effort: int, first: int, count: int) -> dict[str, Any]:
        """Time single queries, in milliseconds, after two that do not count."""
        some = self._queries[first:]
        for query in some[:2]:
            self._engine.search(query, NEIGHBOURS, effort)
        times = []
        for number in range(count):
            begun = time.perf_counter()
            self._engine.search(some[number % len(some)], NEIGHBOURS, effort)
            times.append(1000 * (time.perf_counter() - begun))
        return {"times_ms": times}


def _cpu_seconds() -> float:
    import resource  # POSIX alone has it

    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory_mb() -> float:
    """Return the memory of this process without what it maps from files, where Linux tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return _peak_mb()
    [line] = [one for one in status.read_text().splitlines() if one.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Answer lines until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    for name in ("folder", "vectors", "queries"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("rows", "dim"):
        parser.add_argument(f"--{name}", type=int, required=True)
    worker = _Worker(parser.parse_args())
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(worker, asked.pop("do"))(**asked)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
