"""What an index is: numbers, origin and storage, for people and as JSON."""

from __future__ import annotations

from typing import Any

from ztcir_sdk.gallery.targets import AnyIndex
from ztcir_sdk.index import Index
from ztcir_sdk.schema import to_json

__all__ = ["describe_index", "stored_bytes"]


def stored_bytes(index: AnyIndex) -> int | None:
    """Return the bytes of an index's files; None where Milvus keeps them."""
    if not isinstance(index, Index):
        return None
    return sum(path.stat().st_size for path in index.path.iterdir() if path.is_file())


def describe_index(index: AnyIndex) -> dict[str, Any]:
    """Return what `ztcir index --info` shows, as JSON values."""
    manifest = index.manifest
    values: dict[str, Any] = {
        "index": str(index.path),
        "images": len(index),
        "width": index.dim,
        "image_tower": index.image_tower,
        "precision": manifest.precision,
        "root": str(index.root),
        "root_exists": index.root.is_dir(),
        "updated": manifest.updated,
        "ztcir": manifest.ztcir,
        "format_version": manifest.format_version,
        "metadata_table": None if manifest.metadata is None else manifest.metadata.file,
        "rules": to_json(manifest.rules),
    }
    if isinstance(index, Index):
        graph = index.manifest.graph
        values |= {
            "bytes": stored_bytes(index),
            "storage": getattr(index.manifest, "storage", "f32"),
            "removed_rows": index.manifest.rows - index.manifest.items,
            "graph": None if graph is None else _graph(to_json(graph)),
        }
    else:
        values |= {"storage": "milvus", "index_type": index.manifest.index_type}
    return values


def _graph(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("file", "sha256")}
