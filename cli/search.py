"""`ztcir search`: a picture and a text in, ranked hits out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Engine, as_json, with_engine
from cli.output import emit_json, note, table, write_file
from ztcir_sdk.names import METHODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ztcir_sdk.retriever import Hit

__all__ = ["search"]

GRID_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("text", default="")
@click.option("-k", "--top", "k", type=int, default=10, show_default=True, help="How many hits.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="NAME.ztcir",
    help="The index; default: $ZTCIR_INDEX, else the only *.ztcir in the current folder.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="composed",
    show_default=True,
    help="How to answer: composed is the method, the others are there to compare.",
)
@click.option("--weight", type=float, help="Of the text in --method sum, 0 to 1; default: 0.5.")
@click.option(
    "--grid",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Also write a picture of the reference and the hits.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.html",
    help="Also write a page of the hits, complete in one file.",
)
@with_engine
@as_json
def search(
    reference: str,
    text: str,
    k: int,
    index: Path | None,
    method: str,
    weight: float | None,
    grid: Path | None,
    html: Path | None,
    engine: Engine,
    as_json: bool,
) -> None:
    """Find pictures like REF, changed as TEXT says: `ztcir search ref.jpg "make it red"`.

    The reference itself is left out. --method image and mapped need no TEXT.
    """
    from ztcir_sdk.retriever import default_index_path

    if grid is not None and grid.suffix.lower() not in GRID_FORMATS:
        raise click.BadParameter(
            f"{grid.name!r} must end in {', '.join(GRID_FORMATS)}.", param_hint="--grid"
        )
    where = default_index_path() if index is None else index
    retriever = engine.retriever()
    hits = retriever.search(reference, text, k, index=where, method=method, weight=weight)
    if grid is not None:
        write_file(grid, _grid(reference, text, hits, GRID_FORMATS[grid.suffix.lower()]))
        note(f"wrote {grid}")
    if html is not None:
        from ztcir_sdk.pages.result_page import result_page

        write_file(html, result_page(reference, text, hits).encode())
        note(f"wrote {html}")
    if as_json:
        emit_json(
            {
                "reference": reference,
                "text": text,
                "method": method,
                "index": str(where.absolute()),
                "bundle": retriever.bundle.name,
                "hits": [hit.to_dict() for hit in hits],
            }
        )
        return
    table(
        ("rank", "score", "picture"),
        [(str(hit.rank), f"{hit.score:.3f}", _from_here(hit.path)) for hit in hits],
        header=False,
    )


def _from_here(path: str) -> str:
    """Shorten a path that leads into the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _grid(reference: str, text: str, hits: Sequence[Hit], form: str) -> bytes:
    from ztcir_sdk.pages.contact_sheet import SheetCell, SheetRow, contact_sheet
    from ztcir_sdk.pages.result_page import thumbnail

    cells = [
        SheetCell(thumbnail(hit.path) or hit.path, f"{Path(hit.path).name}\n{hit.score:.3f}")
        for hit in hits
    ]
    sheet = contact_sheet([SheetRow(thumbnail(reference) or reference, text, cells)])
    stream = io.BytesIO()
    sheet.save(stream, form)
    return stream.getvalue()
