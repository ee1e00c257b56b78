"""What the commands of this folder share: options, exit codes and result files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.provenance import ROOT
from cli.output import note, write_file
from ztcir_sdk.errors import ZtcirError

RESULTS = ROOT / "benchmarks" / "results"


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks.NAME``, whose help shows default values."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def positive(text: str) -> int:
    """Parse an option that is a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def run_command(work: Callable[[], None]) -> int:
    """Do a command's work and return its exit code; print a user's error as a sentence."""
    try:
        work()
    except ZtcirError as error:
        note(f"Error: {error}")
        return error.exit_code
    return 0


def write_result(path: Path, values: dict[str, Any]) -> None:
    """Write a result file, with its folder.

    Raises:
        ZtcirError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())
    note(f"Wrote {path}.")
