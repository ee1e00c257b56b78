"""Options of `ztcir export` for precisions, and for the images that they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import in_section, pass_as
from ztcir_sdk.errors import check_choice
from ztcir_sdk.names import PRECISIONS
from ztcir_sdk.path_patterns import expand_paths

if TYPE_CHECKING:
    from export.precision import Acceptance


IMAGE_OPTIONS = {
    "calibration": ("int8",),
    "gallery": ("fp16", "int8"),
    "triplets": ("fp16", "int8"),
}
"""Option that names images or queries -> the precisions that use it."""


@dataclass(frozen=True)
class PrecisionChoice:
    """The values of the options of `precision_options`.

    Attributes:
        precision: requested precisions, in order; empty for the default.
        calibration: folder of images that int8 measures its ranges on.
        gallery: folders or archives of images to rank.
        triplets: file of queries about the gallery.
    """

    precision: tuple[str, ...]
    calibration: Path | None
    gallery: tuple[str, ...]
    triplets: Path | None

    def acceptance(self, *, trained: bool) -> Acceptance:
        """Return what fp16 and int8 are measured on.

        Raises:
            UsageError: there are triplets but no gallery.
        """
        from export.precision import Acceptance

        return Acceptance(
            trained=trained,
            gallery=expand_paths(self.gallery) if self.gallery else None,
            triplets=self.triplets,
            calibration=self.calibration,
        )


def _precision_choice(precision: tuple[str, ...], **images: Any) -> dict[str, PrecisionChoice]:
    names = tuple(dict.fromkeys(name for value in precision for name in value.split(",")))
    for name in names:
        check_choice("precision", name, PRECISIONS)
    for option, users in IMAGE_OPTIONS.items():
        if images[option] and not set(users) & set(names):
            raise click.UsageError(
                f"--{option} is only used for {' and '.join(users)}: add --precision {users[0]}."
            )
    return {"precisions": PrecisionChoice(names, **images)}


_option = in_section("Precision options")

precision_options = pass_as(
    _precision_choice,
    _option(
        "--precision",
        multiple=True,
        metavar="|".join(PRECISIONS),
        help="Precisions of the bundle, separated by commas; default: fp32. With --trt and "
        "BUNDLE, precisions to build engines of; default: all except int8. Repeatable.",
    ),
    _option(
        "--calibration",
        type=click.Path(path_type=Path, exists=True),
        metavar="FOLDER",
        help="Images that int8 measures its ranges on; default: drawings.",
    ),
    _option(
        "--gallery",
        multiple=True,
        metavar="FOLDER_OR_TARS",
        help="Images on which fp16 and int8 must rank as fp32 does; default: drawings. Repeatable.",
    ),
    _option(
        "--triplets",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Queries with known targets in --gallery; fp16 and int8 may lose at most half a "
        "point of their mAP@10.",
    ),
)
"""Adds --precision and its options; passes them as `precisions`."""
