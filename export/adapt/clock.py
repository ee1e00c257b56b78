"""The time of an adaptation: what is spent over all its processes, and what is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import write_whole

__all__ = ["Progress", "Say", "duration"]

Say = Callable[[str], None]
"""Receives a sentence about the progress."""

STATE = "adapt.json"
SAVE_EVERY = 10.0  # seconds; so much time a kill may leave uncounted


@dataclass
class Progress:
    """The state of an adaptation in its folder: what was decided, what is done, the time spent.

    Attributes:
        folder: folder of the run.
        minutes: time that the whole run may take; ``None``: any.
        say: receives a sentence for each phase.
    """

    folder: Path
    minutes: float | None
    say: Say
    _started: float = field(default_factory=time.monotonic)
    _before: float = 0.0
    _saved: float = 0.0
    _state: dict[str, Any] = field(default_factory=dict)

    def open(self, identity: Mapping[str, Any]) -> None:
        """Begin, or go on with what the folder holds.

        Args:
            identity: all that the run depends on, as JSON values.

        Raises:
            ZtcirError: the folder holds another adaptation.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        identity = json.loads(json.dumps(identity))
        try:
            self._state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._state = {"identity": identity, "spent": 0.0, "known": {}}
        found = self._state.get("identity", {})
        if found != identity:
            changed = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            raise ZtcirError(
                f"{self.folder} holds an adaptation with other {' and '.join(changed)}; choose "
                "another --work, or delete the folder."
            )
        self._before = float(self._state["spent"])
        if self._before:
            self.say(f"Resuming in {self.folder}, after {duration(self._before)}.")
        self._save()

    @property
    def spent(self) -> float:
        """Seconds since the start, over all processes."""
        return self._before + time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds until the end of the given time; infinite if none is given."""
        return float("inf") if self.minutes is None else 60 * self.minutes - self.spent

    def recall(self, name: str) -> Any:
        """Return what `note` stored; ``None`` if nothing."""
        return self._state["known"].get(name)

    def note(self, name: str, value: Any) -> None:
        """Store a JSON value, which a later process then finds."""
        self._state["known"][name] = value
        self._save()

    def until(self, seconds: float) -> Callable[[], bool] | None:
        """Return what says whether this many seconds have passed from now; None if infinite."""
        if seconds == float("inf"):
            return None
        end = time.monotonic() + seconds

        def is_over() -> bool:
            if time.monotonic() - self._saved > SAVE_EVERY:
                self._save()
            return time.monotonic() >= end

        return is_over

    def _save(self) -> None:
        self._saved = time.monotonic()
        self._state["spent"] = round(self.spent, 1)
        write_whole(self.folder / STATE, json.dumps(self._state, indent=1) + "\n")


def duration(seconds: float) -> str:
    """Return a duration in words, such as "4 minutes"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
