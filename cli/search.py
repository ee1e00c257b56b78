"""`ztcir search`: an image and a text in, ranked hits out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import (
    Command,
    Engine,
    as_json,
    strength_option,
    weight_option,
    with_engine,
)
from cli.output import emit_json, note, relative_to_here, table, write_file
from ztcir_sdk.names import METHODS, TEXT_METHODS
from ztcir_sdk.picture_formats import is_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from ztcir_sdk.index.hit import Hit
    from ztcir_sdk.modification import UnknownWord

__all__ = ["search"]

LARGEST_SIDES = {"WEBP": 16_383, "JPEG": 65_500}
"""Format -> largest side of an image, in pixels."""
GRID_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@click.command(cls=Command)
@click.argument("reference", metavar="REF")
@click.argument("text", default="")
@click.option(
    "-k",
    "--top",
    "k",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Number of hits.",
)
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="NAME.ztcir",
    help="Index to search; default: $ZTCIR_INDEX, else the only *.ztcir in the current folder.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="composed",
    show_default=True,
    help="Search method; keep the default unless you are comparing.",
)
@strength_option
@weight_option
@click.option(
    "--grid",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Also write an image of REF and the hits.",
)
@click.option(
    "--allow-url", is_flag=True, help="Download REF if it is a web address (at most 100 MB)."
)
@click.option(
    "-0",
    "--print0",
    "print0",
    is_flag=True,
    help="Print the paths alone, each ended by a NUL byte, for `xargs -0`.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.html",
    help="Also write a self-contained page of REF and the hits.",
)
@with_engine
@as_json
def search(
    reference: str,
    text: str,
    k: int,
    index: Path | None,
    method: str,
    strength: float | None,
    weight: float | None,
    grid: Path | None,
    html: Path | None,
    allow_url: bool,
    print0: bool,
    engine: Engine,
    as_json: bool,
) -> None:
    """Find images similar to REF, modified as TEXT describes.

    REF is a path, - for standard input, or a file:// or http(s):// address. REF itself is left out
    of the hits. TEXT is optional with --method image and mapped.

    \b
    Examples:
      ztcir search ref.jpg "make it red"
      ztcir search ref.jpg "for women" -k 5 --html hits.html
      ztcir search ref.jpg "make it red" --strength 0.6
      ztcir search ref.jpg --method image --json
      ztcir search ref.jpg "make it red" -0
    """
    from ztcir_sdk.decoding import load_image
    from ztcir_sdk.decoding.reference_source import open_reference
    from ztcir_sdk.index.default import default_index_path
    from ztcir_sdk.sources import image_exists

    _check_arguments(reference, text)
    if grid is not None and grid.suffix.lower() not in GRID_FORMATS:
        raise click.BadParameter(
            f"{grid.name!r} must end in {' or '.join(GRID_FORMATS)}.", param_hint="--grid"
        )
    where = default_index_path() if index is None else index
    if grid is not None:
        _check_grid(grid, k)
    source = open_reference(reference, allow_url=allow_url)
    retriever = engine.retriever()
    hits = retriever.search(
        source, text, k, index=where, method=method, strength=strength, weight=weight
    )
    unknown = retriever.unknown_words(text) if method in TEXT_METHODS else ()
    if unknown:
        note(_unknown_sentence(unknown))
    missing = [hit.path for hit in hits if not image_exists(Path(hit.path))]
    if missing:
        note(_missing_sentence(len(missing), len(hits), where, retriever.open_index(where).root))
    if grid is not None or html is not None:
        shown = source if isinstance(source, str) else load_image(source)
        _write_pages(shown, text, hits, grid=grid, html=html)
    if as_json:
        emit_json(
            {
                "reference": reference,
                "text": text,
                "method": method,
                "strength": strength,
                "index": str(where.absolute()),
                "bundle": retriever.bundle.name,
                "hits": [hit.to_dict() for hit in hits],
                "missing": missing,
                "unknown_words": [word.to_dict() for word in unknown],
            }
        )
        return
    if print0:
        for hit in hits:
            click.echo(os.fsencode(hit.path) + b"\0", nl=False)
        return
    table(
        ("rank", "score", "image"),
        [(str(hit.rank), f"{hit.score:.3f}", str(relative_to_here(hit.path))) for hit in hits],
        header=False,
    )


def _unknown_sentence(words: Sequence[UnknownWord]) -> str:
    listed = [
        f"{one.word!r}" + (f" (did you mean {one.suggestion!r}?)" if one.suggestion else "")
        for one in words
    ]
    return (
        f"The model was not trained on {', '.join(listed)}: it may ignore or misread "
        f"{'it' if len(listed) == 1 else 'these words'}."
    )


def _missing_sentence(missing: int, found: int, index: Path, root: Path) -> str:
    if not root.is_dir():
        return (
            f"{missing} of {found} hits are missing, since {root} does not exist: connect the "
            f"disk, or name the folder that was moved: `ztcir index --root FOLDER --to {index}`."
        )
    return f"{missing} of {found} hits no longer exist: update {index} with `ztcir index`."


def _check_arguments(reference: str, text: str) -> None:
    """Refuse a text where the image goes, and the other way round."""

    def is_file(argument: str) -> bool:
        try:
            return Path(argument).is_file()
        except (OSError, ValueError):  # too long, or with a null character: words
            return False

    if is_file(text) and not is_file(reference):
        raise click.UsageError(
            f"REF comes first and TEXT second: ztcir search {text!r} {reference!r}."
        )
    if is_file(text) and is_image(text):
        raise click.UsageError(
            f"TEXT is the image file {text!r}: describe in words what should change. To search "
            "with an image alone, use --method image."
        )


def _check_grid(grid: Path, k: int) -> None:
    """Refuse a sheet that its format cannot hold, before anything is searched."""
    from ztcir_sdk.pages.contact_sheet import sheet_height

    most = LARGEST_SIDES.get(GRID_FORMATS[grid.suffix.lower()])
    if most is not None and sheet_height(k) > most:
        raise click.BadParameter(
            f"A sheet of {k} hits is higher than the {most} pixels that a {grid.suffix} can have: "
            "write a .png, or ask for fewer hits with -k.",
            param_hint="--grid",
        )


def _write_pages(
    reference: str | Image.Image,
    text: str,
    hits: Sequence[Hit],
    *,
    grid: Path | None,
    html: Path | None,
) -> None:
    if grid is not None:
        write_file(grid, _grid(reference, text, hits, GRID_FORMATS[grid.suffix.lower()]))
        note(f"wrote {grid}")
    if html is not None:
        from ztcir_sdk.pages.result_page import result_page

        write_file(html, result_page(reference, text, hits).encode())
        note(f"wrote {html}")


def _grid(reference: str | Image.Image, text: str, hits: Sequence[Hit], file_format: str) -> bytes:
    from ztcir_sdk.pages.contact_sheet import SheetCell, SheetRow, contact_sheet
    from ztcir_sdk.pages.thumbnails import thumbnail

    cells = [
        SheetCell(thumbnail(hit.path) or hit.path, f"{Path(hit.path).name}\n{hit.score:.3f}")
        for hit in hits
    ]
    sheet = contact_sheet([SheetRow(thumbnail(reference) or reference, text, cells)])
    stream = io.BytesIO()
    sheet.save(stream, file_format)
    return stream.getvalue()
