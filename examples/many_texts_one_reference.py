"""Encode a reference image once, then ask several texts about it.

python examples/many_texts_one_reference.py [FOLDER [REFERENCE]]
"""

from __future__ import annotations

import sys
from pathlib import Path

from ztcir_sdk import Retriever

TEXTS = ["make it blue", "the same with stripes", "a jacket in this colour"]


def main(
    folder: str = "ztcir-demo/photos",
    reference: str = "ztcir-demo/photos/brown-jacket-01.jpg",
) -> None:
    """Print the nearest images for each text."""
    retriever = Retriever.from_pretrained()
    retriever.index(folder, to="example.ztcir")

    image = retriever.reference(reference)  # runs the image encoder
    print(image.search("for women", k=1)[0].path)  # runs the token learner, then the text encoder

    # From now on only the text encoder runs, here once for all texts.
    for text, hits in zip(TEXTS, image.search_many(TEXTS, k=3), strict=True):
        print(text, "->", ", ".join(Path(hit.path).name for hit in hits))


if __name__ == "__main__":
    main(*sys.argv[1:])
