"""What a measurement was made of, and in what weather."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from train.loop.record import versions as train_versions
from ztcir_sdk.environment import describe_machine, versions

__all__ = ["ROOT", "load_average", "surroundings"]

ROOT = Path(__file__).resolve().parents[1]


def surroundings(date: str, threads: int, load_before: float | None) -> dict[str, Any]:
    """Return what every result says beside its numbers, as JSON values.

    Args:
        date: when the measurement began.
        threads: that it used.
        load_before: `load_average` when it began.
    """
    return {
        "date": date,
        "git": _git_state(),
        "machine": describe_machine(),
        "versions": {**train_versions(), **versions()},
        "threads": threads,
        "load_average": {"before": load_before, "after": load_average()},
    }


def _git_state() -> dict[str, Any] | None:
    """Return the commit that is measured, and whether tracked files differ from it."""

    def ask(*command: str) -> str:
        git = ["git", "-C", str(ROOT), *command]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return {"commit": ask("rev-parse", "HEAD"), "modified": bool(changed)}
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return None


def load_average() -> float | None:
    """Return how many processes have wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
