"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

import click

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import write_whole

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ztcir_sdk.retriever import Retriever

__all__ = [
    "absolute_name",
    "choose_verbosity",
    "emit_json",
    "is_quiet",
    "measured_with",
    "note",
    "print_line",
    "printable",
    "progress_bar",
    "progress_bars",
    "relative_to_here",
    "set_verbosity",
    "table",
    "write_file",
]

LOG_SECONDS = 60.0
"""Seconds between two lines of progress in a log."""


def emit_json(value: Any) -> None:
    """Print one JSON object; ASCII, so that it survives every terminal's encoding."""
    click.echo(json.dumps(value, allow_nan=False))


def measured_with(retriever: Retriever) -> dict[str, Any]:
    """Return the bundle, date, machine and versions of a measurement, as JSON values."""
    from ztcir_sdk.environment import describe_machine, now, versions

    return {
        "bundle": {
            "name": retriever.bundle.name,
            "fingerprint": retriever.bundle.fingerprint,
            "precision": retriever.precision,
            "precisions": retriever.encoder.precisions,
        },
        "date": now(),
        "machine": describe_machine(),
        "versions": versions(),
    }


class _Verbosity:
    """How much is printed beside results; `set_verbosity` sets it for each call of a command."""

    quiet = False


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Say what is printed on standard error beside errors.

    Args:
        quiet: no notes, no warnings, and no progress.
        verbose: also the log of the SDK: what is loaded, and how long it takes.
    """
    _Verbosity.quiet = quiet
    logger = logging.getLogger("ztcir")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if verbose and not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(relativeCreated)6.0f ms  %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def choose_verbosity(name: str) -> None:
    """Set what one of ``--quiet`` and ``--verbose`` stands for, before a command or after its name.

    Raises:
        click.UsageError: the other one is given too.
    """
    if click.get_current_context().find_root().meta.setdefault("ztcir.verbosity", name) != name:
        raise click.UsageError("--quiet and --verbose contradict each other: give one of them.")
    set_verbosity(quiet=name == "quiet", verbose=name == "verbose")


def is_quiet() -> bool:
    """Return whether only results and errors are printed."""
    return _Verbosity.quiet


def note(sentence: str) -> None:
    """Print a sentence that is not a result, on standard error, unless the user wants none."""
    if _Verbosity.quiet:
        return
    click.echo("\n".join(map(printable, sentence.split("\n"))), err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    """Print rows: a table on a terminal, else tab-separated lines, with `header` or without."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells] if header else cells:
            print_line("\t".join(row))
        return
    from rich import box  # takes a while to load, which `--help` need not wait for
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        numbers = all(row[i].replace(".", "").replace("%", "").isdigit() for row in cells)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*map(Text, row))
    Console().print(drawn)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show bars on standard error; in a log, which is no terminal, a line now and then.

    Yields ``progress(what, done, total)``.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal and not is_quiet()
    bars = Progress(*columns, console=console, transient=True, disable=not shown)
    tasks: dict[str, TaskID] = {}
    printed_at = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal printed_at
        if bars.disable:
            if time.monotonic() - printed_at >= LOG_SECONDS:
                printed_at = time.monotonic()
                note(f"{what}: {done} of {total}")
            return
        if what not in tasks:
            tasks[what] = bars.add_task(what)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield progress


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show one bar; yield ``progress(done, total)``."""
    with progress_bars() as progress:
        yield functools.partial(progress, what)


def write_file(path: Path, data: bytes) -> None:
    """Write a file that the user named.

    Raises:
        ZtcirError: its folder is missing, or cannot be written to.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise ZtcirError(
            f"{path} cannot be written ({error.strerror}): choose another place."
        ) from error


def relative_to_here(path: str | os.PathLike[str]) -> Path:
    """Shorten a path inside the current folder."""
    here = Path.cwd()
    return Path(path).relative_to(here) if Path(path).is_relative_to(here) else Path(path)


def absolute_name(index: Path | str) -> str:
    """Return an index's absolute path; its address, if it is in Milvus."""
    return index if isinstance(index, str) else str(index.absolute())


def print_line(line: str) -> None:
    """Print a line; what standard output cannot encode is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))


def printable(text: str) -> str:
    """Escape control characters and lone surrogates, which names may contain."""
    return "".join(
        char.encode("unicode_escape").decode() if category(char) in ("Cc", "Cs") else char
        for char in text
    )
