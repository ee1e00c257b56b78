"""Vectors from an index to a file and back, without encoding an image."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import IndexMismatchError, UsageError
from ztcir_sdk.gallery.report import IndexReport
from ztcir_sdk.gallery.targets import AnyIndex, AnyWriter, Target
from ztcir_sdk.gallery.vector_files import (
    ROWS_AT_ONCE,
    VectorFile,
    VectorFileInfo,
    VectorRow,
    write_vectors,
)
from ztcir_sdk.index import Item
from ztcir_sdk.sources import printable

__all__ = ["export_vectors", "import_vectors"]

COMMIT_ROWS = 50_000
"""Rows between two commits."""


def export_vectors(
    index: AnyIndex,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write all items of an index and their vectors to a Parquet file; return their number.

    Args:
        index: an open index.
        path: file to create or replace.
        progress: called with the number of items done, and of all items.

    Raises:
        ZtcirError: the file cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    total = len(index)
    manifest = index.manifest
    info = VectorFileInfo(index.image_tower, manifest.precision, index.dim, str(index.root))

    def batches() -> Iterator[tuple[Sequence[VectorRow], NDArray[np.float32]]]:
        done = 0
        for items in _pages(index.items()):
            rows = [
                VectorRow(i.path, i.content_hash, i.size, i.mtime_ns, i.metadata) for i in items
            ]
            yield rows, index.vectors([item.label for item in items])
            done += len(items)
            if progress is not None:
                progress(done, total)

    return write_vectors(Path(path), info, batches())


def import_vectors(
    files: Sequence[Path],
    to: str | os.PathLike[str],
    *,
    image_tower: str | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Put the vectors of Parquet files into an index, which is created where there is none.

    Of several rows about one path the last one counts. Images that are in the index and not in the
    files stay.

    Args:
        files: what `export_vectors` and `embed_images` wrote.
        to: the index's folder, or its address in Milvus.
        image_tower: the only image tower that is accepted; None accepts that of the files.
        root: folder of the images on this machine; by default the one that the files record.
        progress: called with the number of rows done, and of all rows.

    Raises:
        IndexMismatchError: the files, the index or `image_tower` do not belong together.
        UsageError: the files are about different collections, and no root is given.
        ZtcirError: a file is damaged, or the index cannot be written.
    """
    started = time.monotonic()
    opened = [VectorFile(path) for path in files]
    info = _common_info(opened, image_tower, root)
    target = Target(to)
    index = target.open(info.image_tower, info.dim)
    created = index is None
    if index is None:
        index = target.create(
            dim=info.dim,
            image_tower=info.image_tower,
            precision=info.precision,
            root=Path(info.root),
        )
    _require_root(index, info)
    try:
        with index.edit() as writer:
            counts = _put_all(writer, opened, progress)
            for precision in info.precision.split("+"):
                writer.set_origin(precision=precision)
    except BaseException:
        if created and len(index) == 0:
            target.discard(index)
        raise
    added, updated, unchanged = counts
    return IndexReport(
        added=added,
        updated=updated,
        renamed=0,
        removed=0,
        unchanged=unchanged,
        failed=[],
        seconds=time.monotonic() - started,
        total=len(index),
    )


def _put_all(
    writer: AnyWriter, files: Sequence[VectorFile], progress: Callable[[int, int], None] | None
) -> tuple[int, int, int]:
    """Put every row; return the numbers of added, updated and unchanged items."""
    total = sum(file.rows for file in files)
    known = set(writer.times())
    counts = [0, 0, 0]
    done = since_commit = 0
    for file in files:
        for rows, vectors in file.batches():
            for row, vector in zip(rows, vectors, strict=True):
                before = writer.get(row.path) if row.path in known else None
                known.add(row.path)
                counts[_put(writer, before, row, vector)] += 1
            done += len(rows)
            since_commit += len(rows)
            if since_commit >= COMMIT_ROWS:
                writer.commit(build_graph=False)
                since_commit = 0
            if progress is not None:
                progress(done, total)
    return counts[0], counts[1], counts[2]


def _put(
    writer: AnyWriter, before: Item | None, row: VectorRow, vector: NDArray[np.float32]
) -> int:
    """Put a row; return 0 if it was added, 1 if updated, 2 if there was nothing to change."""
    if before is not None and before.content_hash == row.content_hash:
        now = replace(before, size=row.size, mtime_ns=row.mtime_ns, metadata=row.metadata)
        if now == before:
            return 2
        writer.amend(now)
        return 1
    writer.put(
        row.path,
        vector,
        content_hash=row.content_hash,
        size=row.size,
        mtime_ns=row.mtime_ns,
        metadata=row.metadata,
    )
    return 0 if before is None else 1


def _common_info(
    files: Sequence[VectorFile], image_tower: str | None, root: str | os.PathLike[str] | None
) -> VectorFileInfo:
    """Return where the vectors of all files come from."""
    first = files[0]
    for file in files:
        if (file.info.image_tower, file.info.dim) != (first.info.image_tower, first.info.dim):
            raise IndexMismatchError(
                f"{file.path} was made by another image tower than {first.path}: index them apart."
            )
        if root is None and file.info.root != first.info.root:
            raise UsageError(
                f"{file.path} is about images in {printable(file.info.root)}, and {first.path} in "
                f"{printable(first.info.root)}: name the folder of the images here with --root."
            )
    if image_tower is not None and image_tower != first.info.image_tower:
        raise IndexMismatchError(
            f"{first.path} was made by another image tower ({first.info.image_tower[:12]}, not "
            f"{image_tower[:12]}): use the bundle that made it."
        )
    precisions = sorted({part for file in files for part in file.info.precision.split("+")})
    place = first.info.root if root is None else os.path.abspath(root)  # noqa: PTH100
    return VectorFileInfo(first.info.image_tower, "+".join(precisions), first.info.dim, str(place))


def _require_root(index: AnyIndex, info: VectorFileInfo) -> None:
    """Refuse to mix paths of two collections."""
    if len(index) and os.path.normpath(index.root) != os.path.normpath(info.root):
        raise UsageError(
            f"The index {index.path} belongs to the collection {printable(str(index.root))}, not "
            f"{printable(info.root)}: pass that folder with --root, or another --to."
        )


def _pages(items: Iterator[Item]) -> Iterator[list[Item]]:
    page: list[Item] = []
    for item in items:
        page.append(item)
        if len(page) == ROWS_AT_ONCE:
            yield page
            page = []
    if page:
        yield page
