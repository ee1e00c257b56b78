"""Search the images of a Hugging Face data set, with its columns as they are.

pip install datasets
python examples/datasets_recipe.py [FOLDER]
"""

from __future__ import annotations

import sys
from typing import Any

import datasets
import numpy as np

from ztcir_sdk import Retriever


def main(folder: str = "ztcir-demo/photos") -> None:
    """Add a column of vectors to a data set, then rank its rows by an image and a text."""
    # or load_dataset("ORG/NAME", split="train"): any data set with a column of images
    photos = datasets.load_dataset("imagefolder", data_dir=folder, split="train")
    retriever = Retriever.from_pretrained()

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {"vector": retriever.encode_images(rows["image"])}

    photos = photos.map(encode, batched=True, batch_size=64).with_format("numpy", ["vector"])
    vectors = np.asarray(photos["vector"][:], dtype=np.float32)  # (N, D)

    pictures = photos.with_format(None)
    reference = retriever.reference(pictures[0]["image"])
    for text in ("make it blue", "as a dress"):
        scores = vectors @ reference.encode(text)
        scores[0] = -1  # the reference itself
        best = np.argsort(-scores)[:3]
        print(f"{text}: " + ", ".join(f"row {row} {scores[row]:.3f}" for row in best))


if __name__ == "__main__":
    main(*sys.argv[1:])
