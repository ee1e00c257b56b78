"""Answer many queries in one call.

python examples/batch_queries.py [FOLDER]
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

from ztcir_sdk import Retriever

TEXTS = ["make it blue", "make it black"]


def main(folder: str = "ztcir-demo/photos") -> None:
    """Ask each text about the first ten images, and print the nearest image of each query."""
    retriever = Retriever.from_pretrained()
    retriever.index(folder, to="example.ztcir")

    images = sorted(Path(folder).glob("*.jpg"))[:10]
    queries = list(product(images, TEXTS))
    # Every image is encoded once, in batches; texts run in batches; the index is searched once.
    for (image, text), hits in zip(queries, retriever.search_many(queries, k=1), strict=True):
        print(image.name, "+", text, "->", Path(hits[0].path).name)


if __name__ == "__main__":
    main(*sys.argv[1:])
