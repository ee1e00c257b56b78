"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ztcir_sdk.bundle import Bundle

__all__ = ["METHODS", "as_json", "bundle_option", "engine_options", "load_bundle"]

METHODS = ("composed", "mapped", "stage1", "image", "text", "sum")
"""As in `ztcir_sdk.bundle`, which --help does without."""

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="A bundle's folder; default: the bundle inside the package.",
)


def engine_options(command: Command) -> Command:
    """Add --bundle, --device, --precision and --threads, which say what answers and where."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads; default: one per core that may be used.",
        ),
        click.option("--precision", help="fp32, fp16 or int8, as the bundle has it."),
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
        ),
        bundle_option,
    ):
        command = option(command)
    return command


def load_bundle(path: Path | None) -> Bundle:
    """Load the bundle of --bundle."""
    from ztcir_sdk.bundle import Bundle

    return Bundle.embedded() if path is None else Bundle.load(path)
