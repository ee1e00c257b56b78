"""Where a measurement comes from: machine, versions, commit and load."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from ztcir_sdk.environment import describe_machine, versions

ROOT = Path(__file__).resolve().parents[1]


def provenance(date: str, threads: int, load_before: float | None) -> dict[str, Any]:
    """Return the entries of every result file beside its figures, as JSON values.

    Args:
        date: start of the measurement.
        threads: number of threads that it used.
        load_before: `load_average` at the start.
    """
    from train.loop.record import versions as train_versions  # PyTorch, which ROOT does not need

    return {
        "date": date,
        "git": _git_state(),
        "machine": describe_machine(),
        "versions": {**train_versions(), **versions()},
        "threads": threads,
        "load_average": {"before": load_before, "after": load_average()},
    }


def _git_state() -> dict[str, Any] | None:
    """Return the measured commit, and whether Python files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(changed)}
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return None


def load_average() -> float | None:
    """Return the system's load average over the last minute; None where it has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
