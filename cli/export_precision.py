"""Options of `ztcir export`: which precisions a bundle holds, and what they are tried on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ztcir_sdk.names import PRECISIONS
from ztcir_sdk.path_patterns import expand_paths

if TYPE_CHECKING:
    from export.precision import Acceptance

__all__ = ["PrecisionChoice", "precision_options"]

"""As in `export.precision`, which --help does without."""

TRIED_ON = {"calibration": ("int8",), "gallery": ("fp16", "int8"), "triplets": ("fp16", "int8")}
"""Option -> the precisions that it is about."""

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class PrecisionChoice:
    """The values of the options of `precision_options`."""

    precision: tuple[str, ...]
    """What was asked for, in order; empty for the default."""
    calibration: Path | None
    gallery: tuple[str, ...]
    triplets: Path | None

    def acceptance(self, *, trained: bool) -> Acceptance:
        """What fp16 and int8 are measured on.

        Raises:
            UsageError: triplets without a gallery.
        """
        from export.precision import Acceptance

        return Acceptance(
            trained=trained,
            gallery=expand_paths(self.gallery) if self.gallery else None,
            triplets=self.triplets,
            calibration=self.calibration,
        )


def precision_options(command: Command) -> Callable[..., Any]:
    """Add --precision and what belongs to it; hand them over as `precisions`."""

    @functools.wraps(command)
    def called(*args: Any, precision: tuple[str, ...], **others: Any) -> Any:
        named = tuple(dict.fromkeys(name for value in precision for name in value.split(",")))
        for name in named:
            if name not in PRECISIONS:
                raise click.UsageError(
                    f"There is no precision {name!r}: choose from {', '.join(PRECISIONS)}."
                )
        given = {option: others.pop(option) for option in TRIED_ON}
        for option, about in TRIED_ON.items():
            if given[option] and not set(about) & set(named):
                raise click.UsageError(
                    f"--{option} is about {' and '.join(about)}: add --precision {about[0]}."
                )
        choice = PrecisionChoice(named, **given)
        return command(*args, precisions=choice, **others)

    decorated: Callable[..., Any] = called
    for option in (
        click.option(
            "--triplets",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Queries with known answers about --gallery, by which fp16 and int8 may lose at "
            "most half a point of mAP@10.",
        ),
        click.option(
            "--gallery",
            multiple=True,
            metavar="FOLDER_OR_TARS",
            help="Pictures on which fp16 and int8 must rank as fp32 does; default: drawings.",
        ),
        click.option(
            "--calibration",
            type=click.Path(path_type=Path, exists=True),
            metavar="FOLDER",
            help="Pictures that int8 takes its ranges from; default: drawings.",
        ),
        click.option(
            "--precision",
            multiple=True,
            metavar="fp32|fp16|int8",
            help="What the bundle holds, several with commas or repeated; default: fp32. With "
            "--trt of a BUNDLE, which of its graphs engines are built of; default: all but int8.",
        ),
    ):
        decorated = option(decorated)
    return decorated
