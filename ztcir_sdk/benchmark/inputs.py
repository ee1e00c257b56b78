"""What is measured with: drawn photos, and an index of random vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ztcir_sdk.drawings.drawings import demo_gallery, drawn_jpeg
from ztcir_sdk.index import Index
from ztcir_sdk.retriever import Retriever

__all__ = ["draw_photos", "random_index"]


def random_index(retriever: Retriever, path: Path, count: int) -> Path:
    """Write an index of random vectors at `path`, and return the path.

    Its items are the images 000000.jpg, 000001.jpg and so on, which do not exist.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, retriever.dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index.create(
        path,
        dim=retriever.dim,
        image_tower=retriever.image_tower,
        precision=retriever.precision,
        root=path.parent,
    )
    with index.edit() as writer:
        for number, vector in enumerate(vectors):
            writer.put(
                f"{number:06}.jpg", vector, content_hash=f"{number:064x}", size=0, mtime_ns=0
            )
    return path


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Draw JPEGs of products, 240 by 320 pixels, into `folder`."""
    files: list[Path] = []
    for number, drawing in enumerate(demo_gallery(-(-count // 40), seed=1)[:count]):
        files.append(folder / f"{number:04}.jpg")
        files[-1].write_bytes(drawn_jpeg(drawing))
    return files
