"""Draw what the default bundle finds on real photos, for a few changes as people type them.

    python -m benchmarks.photo_sheet --images 'catalogue/val-{0000..0001}.tar'

Each reference is the first photo of the gallery with the attributes that are named here, so that
none is picked for its hits.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.command import command_parser, run_command
from benchmarks.provenance import ROOT
from cli.output import note, write_file
from ztcir_sdk import Index, Retriever
from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import UsageError
from ztcir_sdk.pages.contact_sheet import SheetCell, SheetRow, contact_sheet
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.sources import read_image

CHANGES = (
    ({"articleType": "Shirts", "baseColour": "White", "gender": "Men"}, "mkae it pink"),
    ({"articleType": "Tshirts", "baseColour": "Red", "gender": "Men"}, "no red please"),
    ({"articleType": "Handbags", "baseColour": "Black", "gender": "Women"}, "lieber in Braun"),
    ({"articleType": "Casual Shoes", "baseColour": "Black", "gender": "Men"}, "with thicker laces"),
)
"""Attributes of a reference, and what is asked of it."""
HITS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and draw; return the exit code."""
    parser = command_parser("photo_sheet", "Draw hits of real photos.")
    parser.add_argument("--images", nargs="+", required=True, help="shards of a gallery")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "photo-sheet.png")
    options = parser.parse_args(arguments)
    return run_command(lambda: _draw(options))


def _draw(options: argparse.Namespace) -> None:
    retriever = Retriever.from_pretrained()
    with tempfile.TemporaryDirectory(prefix="ztcir-photos-") as scratch:
        place = Path(scratch) / "gallery.ztcir"
        retriever.index(expand_paths(options.images), to=place)
        index = Index.open(place, image_tower=retriever.image_tower)
        rows = [_row(retriever, index, wanted, text) for wanted, text in CHANGES]
    stream = io.BytesIO()
    sheet = contact_sheet(rows, per_line=HITS, cell=(90, 120))
    sheet.quantize(256).save(stream, "PNG", optimize=True)
    write_file(options.output, stream.getvalue())
    note(f"Wrote {options.output}.")


def _row(retriever: Retriever, index: Index, wanted: dict[str, str], text: str) -> SheetRow:
    """Search for one change, and draw its reference and hits.

    Raises:
        UsageError: the gallery has no photo with these attributes.
    """
    matching = (item for item in index.items() if wanted.items() <= (item.metadata or {}).items())
    item = next(matching, None)
    if item is None:
        raise UsageError(f"No photo is {' '.join(wanted.values())}: name another gallery.")
    photo = read_image(index.root, item.path)
    hits = retriever.search(photo, text, index=index, k=HITS)
    cells = [
        SheetCell(_open(hit.path), " ".join(str((hit.metadata or {}).get(one)) for one in wanted))
        for hit in hits
    ]
    return SheetRow(load_image(photo), text, cells)


def _open(path: str) -> Image.Image:
    return load_image(read_image(Path(path).parent, Path(path).name))


if __name__ == "__main__":
    sys.exit(main())
