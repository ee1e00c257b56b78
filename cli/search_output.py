"""What `ztcir search` shows of its hits: lines, a sheet, a page."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.output import note, relative_to_here, table, write_file
from ztcir_sdk.errors import MissingDependencyError, install_hint

if TYPE_CHECKING:
    from PIL import Image

    from ztcir_sdk.index.hit import Hit
    from ztcir_sdk.modification import UnknownWord

__all__ = [
    "check_grid",
    "check_terminal",
    "missing_sentence",
    "page_to_open",
    "print_hits",
    "show_hits",
    "unknown_sentences",
    "write_pages",
]

SHOWN_WIDTH = 24
"""Columns of a hit on a terminal."""
MAX_SIDES = {"WEBP": 16_383, "JPEG": 65_500}
"""Format -> largest side of an image, in pixels."""
GRID_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def print_hits(hits: Sequence[Hit], *, print0: bool) -> None:
    """Print a line for each hit, or only its path and a NUL byte."""
    if print0:
        for hit in hits:
            click.echo(os.fsencode(hit.path) + b"\0", nl=False)
        return
    table(
        ("rank", "score", "image"),
        [(str(hit.rank), f"{hit.score:.3f}", str(relative_to_here(hit.path))) for hit in hits],
        header=False,
    )


def check_terminal() -> None:
    """Refuse to draw hits where nobody sees them.

    Raises:
        click.UsageError: standard output is no terminal.
        MissingDependencyError: the package that draws is not installed.
    """
    if not (sys.stdout.isatty() and sys.stdin.isatty()):  # it is asked what it can draw
        raise click.UsageError("--show draws on a terminal: leave it out, or write --grid OUT.png.")
    if importlib.util.find_spec("textual_image") is None:
        raise MissingDependencyError(f"--show needs textual-image: {install_hint('show')}.")


def show_hits(hits: Sequence[Hit]) -> None:
    """Draw the hits: as images where the terminal can, else in half blocks of colour."""
    from rich.columns import Columns
    from rich.console import Console, Group
    from rich.text import Text
    from textual_image.renderable import Image as Drawn

    from ztcir_sdk.pages.thumbnails import thumbnail

    cells = []
    for hit in hits:
        image = thumbnail(hit.path, inside=hit.root)
        name = Text(f"{hit.rank}. {hit.score:.3f}\n{Path(hit.path).name}", overflow="fold")
        drawn = Text("not found") if image is None else Drawn(image, width=SHOWN_WIDTH)
        cells.append(Group(drawn, name))
    Console().print(Columns(cells, width=SHOWN_WIDTH, padding=(1, 2)))


def page_to_open() -> Path:
    """Return a new file for a page that is opened and not kept."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="ztcir-")) / "hits.html"


def unknown_sentences(words: Sequence[UnknownWord]) -> list[str]:
    """Return which words of a query were corrected, and which the model was not trained on."""
    corrected = [f"{one.word!r} as {one.suggestion!r}" for one in words if one.corrected]
    sentences = []
    if corrected:
        sentences.append(f"Read {', '.join(corrected)}: --as-typed leaves the words as they are.")
    if others := [one for one in words if not one.corrected]:
        sentences.append(_unknown_sentence(others))
    return sentences


def _unknown_sentence(words: Sequence[UnknownWord]) -> str:
    listed = [
        f"{one.word!r}" + (f" (did you mean {one.suggestion!r}?)" if one.suggestion else "")
        for one in words
    ]
    return (
        f"The model was not trained on {', '.join(listed)}: it may ignore or misread "
        f"{'it' if len(listed) == 1 else 'these words'}."
    )


def missing_sentence(missing: Sequence[str], found: int, index: Path | str, root: Path) -> str:
    """Return what to do about hits whose files are gone."""
    from ztcir_sdk.gallery import missing_folder

    gone = missing_folder(root, [os.path.relpath(path, root) for path in missing])
    if gone is None:
        return f"{len(missing)} of {found} hits no longer exist: update {index} with `ztcir index`."
    new = "FOLDER" if gone == root else f"{gone}=FOLDER"
    return (
        f"{len(missing)} of {found} hits are missing, since {gone} does not exist: connect the "
        f"disk, or name the folder that was moved: `ztcir index --root {new} --to {index}`."
    )


def check_grid(grid: Path, k: int) -> None:
    """Refuse a sheet that its format cannot hold, before anything is searched."""
    from ztcir_sdk.pages.contact_sheet import sheet_height

    if grid.suffix.lower() not in GRID_FORMATS:
        raise click.BadParameter(
            f"{grid.name!r} must end in {' or '.join(GRID_FORMATS)}.", param_hint="--grid"
        )
    most = MAX_SIDES.get(GRID_FORMATS[grid.suffix.lower()])
    if most is not None and sheet_height(k) > most:
        raise click.BadParameter(
            f"A sheet of {k} hits is higher than the {most} pixels that a {grid.suffix} can have: "
            "write a .png, or ask for fewer hits with -k.",
            param_hint="--grid",
        )


def write_pages(
    reference: str | Image.Image | None,
    text: str,
    hits: Sequence[Hit],
    *,
    grid: Path | None,
    html: Path | None,
) -> None:
    """Write the sheet and the page that are asked for.

    Args:
        reference: the first reference image or its path; None for a search by words alone.
        text: what was asked for, in words.
        hits: the hits.
        grid: where the sheet goes; its suffix is of `GRID_FORMATS`.
        html: where the page goes.
    """
    if grid is not None:
        write_file(grid, _grid(reference, text, hits, GRID_FORMATS[grid.suffix.lower()]))
        note(f"wrote {grid}")
    if html is not None:
        from ztcir_sdk.pages.result_page import result_page

        write_file(html, result_page(reference, text, hits).encode())
        note(f"wrote {html}")


def _grid(
    reference: str | Image.Image | None, text: str, hits: Sequence[Hit], file_format: str
) -> bytes:
    from ztcir_sdk.pages.contact_sheet import SheetCell, SheetRow, contact_sheet
    from ztcir_sdk.pages.thumbnails import thumbnail

    cells = [
        SheetCell(thumbnail(hit.path, inside=hit.root), f"{Path(hit.path).name}\n{hit.score:.3f}")
        for hit in hits
    ]
    shown = None if reference is None else thumbnail(reference) or reference
    sheet = contact_sheet([SheetRow(shown, text, cells)])
    stream = io.BytesIO()
    sheet.save(stream, file_format)
    return stream.getvalue()
