"""Encode a part of a collection to Parquet files, so that many machines can share one collection.

Machine number i of n takes the images whose path has the hash i modulo n, so the machines share
nothing, and a new image changes no other's part.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.gallery.encoding import ImageEncoder, encode_files
from ztcir_sdk.gallery.report import no_image_sentence
from ztcir_sdk.gallery.settings import IndexOptions, IndexSettings
from ztcir_sdk.gallery.vector_files import (
    PART,
    VectorFile,
    VectorFileInfo,
    VectorRow,
    part_name,
    write_vectors,
)
from ztcir_sdk.loading import DecodingPipeline, LoadedFile
from ztcir_sdk.sources import Failure, Listing, MetadataTable, Source, SourceFile, list_images
from ztcir_sdk.sources.identity import path_id

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11

__all__ = ["EmbedReport", "Shard", "embed_images"]

PART_ROWS = 20_000
"""Images of one file, at most."""
PART_SECONDS = 300.0
"""Time after which a file is finished; what a kill loses."""


@dataclass(frozen=True)
class Shard:
    """One machine's part of a collection: number `number` of `count`, from 1.

    Raises:
        UsageError: there is no such part.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= 99_999:
            raise UsageError(
                f"There is no shard {self.number}/{self.count}: number the machines from 1, as in "
                "3/16."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``3/16``.

        Raises:
            UsageError: it is no such pair.
        """
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip(), re.ASCII)
        if found is None:
            raise UsageError(f"{text!r} is not a shard: write the third of sixteen as 3/16.")
        return cls(int(found[1]), int(found[2]))

    def has(self, path: str) -> bool:
        """Return whether an image belongs to this part."""
        return path_id(path) % self.count == self.number - 1


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_images` did, in numbers of images."""

    encoded: int
    """Images encoded now."""
    kept: int
    """Images of this shard that an earlier call encoded."""
    total: int
    """Images of this shard in the files."""
    others: int
    """Images that belong to other shards."""
    failed: list[Failure]
    """Path and sentence of each unusable file, ordered by path."""
    seconds: float
    files: list[str] = field(default_factory=list)
    """Names of the files that were written now."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `failed` as objects with `path` and `error`."""
        failed = [{"path": path, "error": sentence} for path, sentence in self.failed]
        return {**asdict(self), "failed": failed}


def embed_images(
    source: Source,
    to: str | os.PathLike[str],
    encoder: ImageEncoder,
    *,
    shard: Shard | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    part_rows: int = PART_ROWS,
    **options: Unpack[IndexOptions],
) -> EmbedReport:
    """Encode the images of a shard, and write them to Parquet files in the folder `to`.

    Images that are in its files already are not encoded again, so an interrupted call resumes.
    `build_index` reads the files of all shards: `ztcir index embeddings/`.

    Args:
        source: a folder, a tar archive or an image file, or several.
        to: folder of the files; the machines may share it, or each have its own.
        encoder: the image encoder.
        shard: this machine's part; by default everything.
        progress: called with the number of images done, and of all images of the shard.
        workers: threads that read and decode; by default one a core, at most 8.
        part_rows: images of one file, at most.
        **options: what to leave out, and so on; see `IndexOptions`.

    Raises:
        ZtcirError: the source is missing or has no image, or the files were made by another image
            tower or with another number of shards.
        MissingDependencyError: pyarrow is not installed.
    """
    started = time.monotonic()
    shard = Shard() if shard is None else shard
    settings, folder = IndexSettings(**options), Path(to).absolute()
    listing = list_images(source, skip=folder, rules=settings.rules(None))
    if not listing.files:
        raise ZtcirError(no_image_sentence(source, listing))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZtcirError(
            f"The folder {folder} cannot be created ({error.strerror}): choose another one."
        ) from error
    info = VectorFileInfo(encoder.image_tower, encoder.precision, encoder.dim, str(listing.root))
    parts = _Parts(folder, shard, info)
    table = settings.metadata_table("", folder)
    own = [file for file in listing.files if shard.has(file.path)]
    fresh = [file for file in own if parts.known.get(file.path) != (file.size, file.mtime_ns)]
    run = _Run(parts, encoder, listing, table, progress, len(own), part_rows)
    with DecodingPipeline(workers) as pipeline:
        run.encode(pipeline, fresh, len(own) - len(fresh))
    return EmbedReport(
        encoded=run.encoded,
        kept=len(own) - len(fresh),
        total=len(own) - len(fresh) + run.encoded,
        others=len(listing.files) - len(own),
        failed=sorted(run.failed),
        seconds=time.monotonic() - started,
        files=parts.written,
    )


class _Parts:
    """The files of a shard in a folder."""

    def __init__(self, folder: Path, shard: Shard, info: VectorFileInfo) -> None:
        self.known: dict[str, tuple[int, int]] = {}  # size and time of each path
        self.written: list[str] = []
        self._folder, self._shard, self._info = folder, shard, info
        self._next = 0
        for path in sorted(folder.iterdir()):
            found = PART.fullmatch(path.name)
            if found is None:
                continue
            number, count, part = map(int, found.groups())
            if count != shard.count:
                raise ZtcirError(
                    f"{folder} has files of {count} shards, not {shard.count}: use another "
                    "folder, or as many shards as before."
                )
            if number == shard.number:
                self._next = max(self._next, part + 1)
                self._read(path)

    def _read(self, path: Path) -> None:
        file = VectorFile(path)
        if (file.info.image_tower, file.info.dim) != (self._info.image_tower, self._info.dim):
            raise ZtcirError(
                f"{path} was made by another image tower: use another folder, or delete it."
            )
        if file.info.root != self._info.root:
            raise ZtcirError(
                f"{path} is of the collection {file.info.root}, not {self._info.root}: use "
                "another folder."
            )
        for row in file.records():
            self.known[row.path] = (row.size, row.mtime_ns)

    def write(self, rows: list[VectorRow], vectors: list[NDArray[np.float32]]) -> None:
        """Write a further file."""
        name = part_name(self._shard.number, self._shard.count, self._next)
        write_vectors(self._folder / name, self._info, [(rows, np.stack(vectors))])
        self.written.append(name)
        self._next += 1


class _Run:
    """Encodes files in batches, and collects the rows of the next part."""

    def __init__(
        self,
        parts: _Parts,
        encoder: ImageEncoder,
        listing: Listing,
        table: MetadataTable | None,
        progress: Callable[[int, int], None] | None,
        total: int,
        part_rows: int,
    ) -> None:
        self.encoded = 0
        self.failed = list(listing.failed)
        self._parts, self._encoder, self._listing, self._table = parts, encoder, listing, table
        self._progress, self._total, self._part_rows = progress, total, part_rows
        self._done = 0
        self._rows: list[VectorRow] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._written_at = time.monotonic()

    def encode(self, pipeline: DecodingPipeline, files: list[SourceFile], kept: int) -> None:
        """Encode files and write them."""
        self._finished(kept)
        for loaded, result in encode_files(pipeline, pipeline.load(files), self._encoder):
            if isinstance(result, ImageError):
                self.failed.append((loaded.file.path, str(result)))
                self._finished(1)
                continue
            if loaded.metadata_error is not None:
                self.failed.append((loaded.file.path, loaded.metadata_error))
            self._rows.append(self._row(loaded))
            self._vectors.append(result)
            self.encoded += 1
            self._finished(1)
            old = time.monotonic() - self._written_at >= PART_SECONDS
            if len(self._rows) >= self._part_rows or old:
                self._write()
        self._write()

    def _row(self, loaded: LoadedFile) -> VectorRow:
        file, metadata = loaded.file, loaded.metadata
        row = None if self._table is None else self._table.row(self._listing.root, file.path)
        if row is not None:
            metadata = {**(metadata or {}), **row}
        return VectorRow(file.path, loaded.content_hash, file.size, file.mtime_ns, metadata)

    def _write(self) -> None:
        if self._rows:
            self._parts.write(self._rows, self._vectors)
        self._rows, self._vectors = [], []
        self._written_at = time.monotonic()

    def _finished(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)
