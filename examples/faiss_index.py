"""Keep the vectors in FAISS, and ask it with composed queries.

pip install faiss-cpu
python examples/faiss_index.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import faiss

from ztcir_sdk import Retriever


def main(folder: str = "ztcir-demo/photos") -> None:
    """Index the images of a folder, then search them with an image and two texts."""
    retriever = Retriever.from_pretrained()
    images = sorted(Path(folder).glob("*.jpg"))

    index = faiss.IndexFlatIP(retriever.dim)  # vectors have length 1: this is their cosine
    index.add(retriever.encode_images(images))

    reference = retriever.reference(images[0])  # encoded once
    for text in ("make it blue", "as a dress"):
        scores, rows = index.search(reference.encode(text)[None], 2)
        names = [images[row].name for row in rows[0]]
        print(f"{images[0].name} + {text}: {names[0]} {scores[0][0]:.3f}, {names[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
