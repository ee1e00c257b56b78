"""The script `ztcir`: start the command line, or name the file that hides one of its packages."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

__all__ = ["OWN_PACKAGES", "hidden_package", "main"]

OWN_PACKAGES = ("cli", "train", "export")
"""Packages beside `ztcir_sdk`, whose names a file of the user can take."""


def hidden_package(package: str) -> str | None:
    """Return a sentence if Python finds another `package` before this project's; else None."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).resolve()
    if found.parent == Path(__file__).resolve().parent.parent / package:
        return None
    return (
        f"{found} hides the package {package} of ztcir: rename it, or unset PYTHONPATH and run "
        "ztcir from another folder."
    )


def main() -> None:
    """Run the command line, which is imported here only, by name: the SDK does not need it."""
    if (sentence := hidden_package("cli")) is not None:
        sys.exit(f"Error: {sentence}")
    importlib.import_module("cli.main").main()
