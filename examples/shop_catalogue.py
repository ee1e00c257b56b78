"""A shop: a catalogue with prices and stock, searched with filters, page by page.

python examples/shop_catalogue.py [FOLDER]
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

from ztcir_sdk import Hit, Query, Retriever


def write_catalogue(folder: Path, table: Path) -> None:
    """Write a table with a row for each photo, as a shop's database would export it."""
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "colour", "price", "stock"])
        for number, photo in enumerate(sorted(folder.glob("*.jpg"))):
            rows.writerow([photo.name, photo.name.partition("-")[0], 10 + number, number % 3])


def show(title: str, hits: list[Hit]) -> None:
    """Print a line for each hit."""
    print(title)
    for hit in hits:
        known = hit.metadata or {}
        print(f"  {hit.rank} {Path(hit.path).name} {known['price']} EUR, {known['stock']} left")


def main(folder: str = "ztcir-demo/photos") -> None:
    """Index the photos with their table, then ask as customers do."""
    photos = Path(folder)
    retriever = Retriever.from_pretrained()
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "catalogue.csv"
        write_catalogue(photos, table)
        retriever.index(photos, to=Path(place) / "shop.ztcir", metadata=table)

        seen = sorted(photos.glob("*.jpg"))[0]
        show(f"like {seen.name}, in stock:", retriever.search(seen, k=3, where="stock > 0"))
        options: dict[str, Any] = {"where": "price < 40 AND stock > 0", "unique": True}
        show(
            "the same in blue, under 40 EUR:", retriever.search(seen, "make it blue", 3, **options)
        )
        query = Query(images=seen, texts="make it blue", without="stripes")
        show("and without stripes, page 2:", retriever.search(query, k=3, offset=3, **options))


if __name__ == "__main__":
    main(*sys.argv[1:])
