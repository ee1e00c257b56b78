"""Plots as PNG files, which record the figures that they show."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cli.output import write_file
from ztcir_sdk.errors import MissingDependencyError, install_hint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "shows", "write_figure"]

METADATA = "ztcir-figures"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; its size is in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            f"The plot needs matplotlib: {install_hint('dev')}."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Figure, path: Path, shown: object = None) -> None:
    """Write a figure as a PNG.

    Args:
        figure: the figure.
        path: the file.
        shown: the figures that it shows, as JSON values, for `shows`; None to record nothing.

    Raises:
        ZtcirError: the file cannot be written.
    """
    stream = io.BytesIO()
    metadata = {} if shown is None else {METADATA: _digest(shown)}
    figure.savefig(stream, format="png", dpi=130, metadata=metadata)
    write_file(path, stream.getvalue())


def shows(path: Path, shown: object) -> bool:
    """Whether a PNG of `write_figure` shows these figures, whatever its bytes."""
    try:
        with Image.open(path) as image:
            found: object = image.info.get(METADATA)
    except OSError:
        return False
    return found == _digest(shown)


def _digest(shown: object) -> str:
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()
