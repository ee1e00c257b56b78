"""Memory of this process, in MB of a million bytes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ztcir_sdk.environment import peak_memory

__all__ = ["forget_peak", "peak_mb", "resident_mb"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mb() -> float | None:
    """Return the memory that this process has now; None where the system does not say (Linux)."""
    return _field("VmRSS")


def peak_mb() -> float | None:
    """Return the most memory that this process has had since `forget_peak`.

    Where there is no ``/proc``, it is the most since the process began; None on Windows.
    """
    if (peak := _field("VmHWM")) is not None:
        return peak
    most = peak_memory()
    return None if most is None else round(most / 1e6, 1)


def forget_peak() -> None:
    """Let `peak_mb` start again from the memory that the process has now, on Linux."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def _field(name: str) -> float | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else round(int(found[1]) * 1024 / 1e6, 1)
