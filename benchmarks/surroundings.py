"""What a measurement was made of, and in what weather."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "git_state", "load_average"]

ROOT = Path(__file__).resolve().parents[1]


def git_state() -> dict[str, Any] | None:
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
