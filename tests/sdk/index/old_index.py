"""An index as ztcir 0.1 wrote it, to test that it opens and is brought up to date."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["OldItem", "write_old_index"]

OldItem = tuple[int, str, str, int, int, "str | None"]
"""Label, path, hash, size, mtime_ns, metadata."""

SCHEMA = """
CREATE TABLE items (
    label    INTEGER PRIMARY KEY,
    path     TEXT NOT NULL UNIQUE,
    hash     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    metadata TEXT
);
CREATE INDEX items_by_hash ON items (hash);
"""


def write_old_index(
    folder: Path,
    vectors: NDArray[np.float32],
    items: Sequence[OldItem],
    *,
    image_tower: str,
    graph: bool = False,
) -> None:
    """Write the format of version 1 with vectors (n, D); labels start at 10."""
    folder.mkdir(parents=True)
    (folder / "vectors-3.f32").write_bytes(vectors.astype("<f4").tobytes())
    with contextlib.closing(sqlite3.connect(folder / "items-4.sqlite")) as table:
        table.executescript(SCHEMA)
        table.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", items)
        table.commit()
    names = {"vectors": "vectors-3.f32", "table": "items-4.sqlite"}
    if graph:
        import hnswlib

        engine = hnswlib.Index(space="ip", dim=vectors.shape[1])
        engine.init_index(len(vectors), M=32, ef_construction=200)
        engine.add_items(vectors, np.arange(len(vectors)))
        engine.save_index(os.fspath(folder / "graph-4.hnsw"))
        names["graph"] = "graph-4.hnsw"
    records = {
        name: {
            "file": file,
            "bytes": (folder / file).stat().st_size,
            "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        }
        for name, file in names.items()
    }
    manifest = {
        "dim": vectors.shape[1],
        "items": len(items),
        "image_tower": image_tower,
        "precision": "fp32",
        "root": "..",
        "generation": 4,
        "first_label": 10,
        "rows": len(vectors),
        "vectors": records["vectors"],
        "table": records["table"],
        "graph": records.get("graph"),
        "graph_rows": len(vectors) if graph else 0,
        "updated": "2026-11-01T00:00:00+00:00",
        "ztcir": "0.1.0",
        "metric": "cosine",
        "format_version": 1,
    }
    (folder / "index.json").write_text(json.dumps(manifest, indent=2) + "\n")
