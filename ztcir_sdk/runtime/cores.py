"""The CPU cores that this process may use, and short work that is divided among them."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["available_cores", "cores_at_start", "in_threads"]

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

_CGROUP = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of cores that the system and the container grant this process, at least 1.

    By default ONNX Runtime and hnswlib start one thread per core of the host.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """Return the cores' worth of CPU time that a Linux control group grants, or None."""
    try:
        if (_CGROUP / "cpu.max").exists():  # version 2
            quota, period = (_CGROUP / "cpu.max").read_text().split()
        else:
            quota = (_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (_CGROUP / "cpu" / "cpu.cfs_period_us").read_text()
        granted = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or "max"
        return None
    return granted if granted > 0 else None  # -1 is version 1's "no limit"


@functools.cache
def cores_at_start() -> int:
    """Return what `available_cores` returned first: reading it takes as long as a short search."""
    return available_cores()


def in_threads(work: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
    """Return the result of each part, of which other threads take some.

    The calling thread does what no other has begun, so a busy machine costs little.
    """
    if len(parts) == 1:
        return [work(parts[0])]
    pool = _threads()
    others = [pool.submit(work, part) for part in parts[1:]]
    found = [work(parts[0])]
    for part, other in zip(parts[1:], others, strict=True):
        found.append(work(part) if other.cancel() else other.result())
    return found


@functools.cache
def _threads() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max(cores_at_start() - 1, 1), thread_name_prefix="ztcir-search")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
