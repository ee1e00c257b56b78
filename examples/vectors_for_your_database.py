"""Get NumPy vectors for your own vector database, here a plain array.

python examples/vectors_for_your_database.py [FOLDER [REFERENCE [TEXT]]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ztcir_sdk import Retriever


def main(
    folder: str = "ztcir-demo/photos",
    reference: str = "ztcir-demo/photos/red-striped-t-shirt-01.jpg",
    text: str = "make it blue",
) -> None:
    """Print the five nearest images."""
    retriever = Retriever.from_pretrained()

    paths = sorted(Path(folder).glob("*.jpg"))
    gallery = retriever.encode_images(paths)  # (N, D) float32, each row of length 1
    np.savez("gallery.npz", vectors=gallery, paths=[str(path) for path in paths])

    query = retriever.reference(reference).encode(text)  # (D,) float32, of length 1
    scores = gallery @ query  # cosine similarities
    for row in np.argsort(-scores)[:5]:
        print(f"{scores[row]:.3f}", paths[row])

    # Store this with the vectors: queries must come from the same image tower and preprocessing.
    print("image tower:", retriever.image_tower)


if __name__ == "__main__":
    main(*sys.argv[1:])
