"""How the progress of long work is shown: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_IN_LOG = 60.0
SECONDS_ON_TERMINAL = 0.1


def progress_bar(
    over: Iterable[Any] | None = None, *, what: str | None = None, **options: Any
) -> tqdm[Any]:
    """Return a progress bar on standard error; it takes `tqdm`'s other options.

    Args:
        over: what it counts; ``None``: the caller calls ``update()``.
        what: the phase, shown before the bar.
    """
    terminal = sys.stderr.isatty()
    interval = SECONDS_ON_TERMINAL if terminal else SECONDS_IN_LOG
    if not terminal and options.get("leave") is False:  # a short phase gets no line in a log
        options["delay"] = interval
    options = {"mininterval": interval, "maxinterval": max(10.0, interval), **options}
    return tqdm(over, desc=what, file=sys.stderr, **options)
