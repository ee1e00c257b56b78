"""A collection of images -> vectors -> an index, which can be updated.

Files of unchanged size and modification time are not read; known content is not encoded again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.gallery.encoding import ImageEncoder, encode_files
from ztcir_sdk.gallery.report import IndexReport, no_image_sentence, source_name
from ztcir_sdk.gallery.settings import IndexOptions, IndexSettings
from ztcir_sdk.gallery.targets import AnyIndex, AnyWriter, Target
from ztcir_sdk.gallery.transfer import import_vectors
from ztcir_sdk.gallery.vector_files import find_vector_files
from ztcir_sdk.index import DEFAULT_STORAGE, Index
from ztcir_sdk.index.graph import graph_notes
from ztcir_sdk.index.manifest import MetadataRecord, old_colours
from ztcir_sdk.loading import DecodingPipeline, LoadedFile
from ztcir_sdk.sources import (
    CollectionRules,
    Failure,
    Listing,
    MetadataTable,
    Source,
    SourceFile,
    list_images,
    printable,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11

__all__ = ["build_index"]


def build_index(
    source: Source,
    to: str | os.PathLike[str],
    encoder: ImageEncoder,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    flush_every: int = 1000,
    flush_seconds: float = 30.0,
    **options: Unpack[IndexOptions],
) -> IndexReport:
    """Build the index of a collection, or update it after changes in the collection.

    An indexed image stays while its file exists, even if `source` names only a part of the
    collection.

    Args:
        source: a folder, a tar archive or an image file, or several, see `list_images`; or Parquet
            files of vectors, of which nothing is encoded, see `import_vectors`.
        to: the index's folder, usually ``NAME.ztcir``, or an address such as
            ``milvus://host:19530/photos``.
        encoder: the image encoder.
        progress: called with the number of images done, and of all images.
        workers: threads that read and decode; by default one a core, at most 8.
        flush_every: number of images between two commits to disk,
        flush_seconds: or seconds between them; after a kill the next call resumes at the last one.
        **options: see `IndexOptions`.

    Raises:
        ZtcirError: the source is missing or has no usable image, the index cannot be read or
            written, or more than half of its images would be removed.
        IndexMismatchError: the index was made by another image tower.
        UsageError: the index belongs to another collection.
    """
    started = time.monotonic()
    settings = IndexSettings(**options)
    if files := find_vector_files(source):
        return import_vectors(
            files, to, image_tower=encoder.image_tower, root=settings.root, progress=progress
        )
    target = Target(to)
    index = target.open(encoder.image_tower, encoder.dim)
    rules = settings.rules(None if index is None else index.manifest.rules)
    known_table = None if index is None else index.manifest.metadata
    table = settings.metadata_table("" if known_table is None else known_table.file, target.beside)
    listing = list_images(
        source,
        root=None if index is None else index.root,
        skip=target.folder,
        rules=rules,
        widen=settings.add,
    )
    if index is not None:
        _require_same_collection(index, listing)
    if not listing.files:
        raise ZtcirError(no_image_sentence(source, listing))
    created = index is None
    if index is None:
        index = target.create(
            dim=encoder.dim,
            image_tower=encoder.image_tower,
            precision=encoder.precision,
            root=listing.root,
            storage=settings.storage or DEFAULT_STORAGE,
        )
    try:
        with (
            index.edit() as writer,
            DecodingPipeline(workers) as pipeline,
        ):
            build = _Build(
                writer,
                index,
                encoder,
                listing,
                settings,
                progress,
                flush_every,
                flush_seconds,
                target,
            )
            build.prepare(rules)
            build.use_table(table)
            build.run(pipeline)
            if len(writer) == 0:
                raise ZtcirError(
                    f"None of the {len(listing.files)} images in {source_name(source)} can be "
                    f"used; the first: {build.failed[0][1]}"
                )
            writer.commit(storage=settings.storage)
    except BaseException:
        if created and len(index) == 0:
            target.discard(index)
        raise
    return IndexReport(
        added=build.added,
        updated=build.updated,
        renamed=build.renamed,
        removed=build.removed,
        unchanged=build.unchanged,
        failed=sorted(build.failed),
        seconds=time.monotonic() - started,
        total=len(index),
        skipped=dict(listing.skipped),
        excluded=listing.excluded,
        notes=[
            *listing.fixes,
            *build.table_notes(),
            *_notes_about(index),
        ],
        ignored_metadata=sorted(build.ignored_metadata),
    )


class _Build:
    """One run of `build_index`: applies each file of a listing to the index."""

    def __init__(
        self,
        writer: AnyWriter,
        index: AnyIndex,
        encoder: ImageEncoder,
        listing: Listing,
        settings: IndexSettings,
        progress: Callable[[int, int], None] | None,
        flush_every: int,
        flush_seconds: float,
        target: Target,
    ) -> None:
        self.added = self.updated = self.renamed = self.removed = self.unchanged = 0
        self.failed = list(listing.failed)
        self.ignored_metadata: list[Failure] = []
        self._index = index
        self._target = target
        self._settings = settings
        self._writer = writer
        self._encoder = encoder
        self._listing = listing
        self._progress = progress
        self._flush_every = flush_every
        self._flush_seconds = flush_seconds
        self._done = 0
        self._encoded = False
        self._flushed_at = (0, time.monotonic())
        self._copies: dict[str, list[LoadedFile]] = {}  # content hash -> copies of it
        self._table: MetadataTable | None = None
        self._table_changed = False
        self._known: dict[str, tuple[int, int]] = {}  # size and time of each indexed path
        self._with_metadata: set[str] = set()
        self._gone: set[str] = set()
        self._vanished: set[str] = set()

    def prepare(self, rules: CollectionRules) -> None:
        """Give the items the paths that they have now, and see what is gone.

        Raises:
            ZtcirError: most of the images are missing.
        """
        old, new = self._index.root.resolve(), self._listing.root.resolve()
        grown = old != new and old.is_relative_to(new) and (old.is_dir() or self._settings.add)
        if grown:
            inside = old.relative_to(new).as_posix()
            # Longest first, so that no new path is still in use.
            for item in sorted(self._writer.items(), key=lambda item: -len(item.path)):
                self._writer.amend(replace(item, path=f"{inside}/{item.path}"))
            if rules == self._index.manifest.rules:
                rules = rules.within(inside)
        self._known = self._writer.times()
        self._with_metadata = self._writer.paths_with_metadata()
        absent = self._known.keys() - {file.path for file in self._listing.files}
        self._gone = {path for path in absent if self._listing.lacks(path)}
        # What is left out on purpose still exists, and may go.
        self._vanished = {path for path in self._gone if not self._listing.exists(path)}
        self.unchanged = len(absent) - len(self._gone)
        self._require_most(self._vanished - self._possibly_renamed())
        self._writer.set_origin(root=self._listing.root, rules=rules)

    def _possibly_renamed(self) -> set[str]:
        """Return those vanished paths for which there is a new file of the same size."""
        new = Counter(file.size for file in self._listing.files if file.path not in self._known)
        found = set()
        for path in self._vanished:
            size = self._known[path][0]
            if new[size] > 0:
                new[size] -= 1
                found.add(path)
        return found

    def _require_most(self, vanished: set[str]) -> None:
        """Refuse to remove more than half of the index, unless that is wanted."""
        if self._settings.prune or 2 * len(vanished) <= len(self._known):
            return
        root = self._index.root
        raise ZtcirError(
            f"{len(vanished)} of {len(self._known)} images of the index {self._index.path} are "
            f"missing{'' if root.is_dir() else f', since {printable(str(root))} does not exist'}: "
            "connect the disk, name the folder that moved with --root, or pass --prune to remove "
            "them from the index."
        )

    def run(self, pipeline: DecodingPipeline) -> None:
        """Apply every file of the listing, then remove what is gone."""
        files, known = self._listing.files, self._known
        changed = [
            file
            for file in files
            if known.get(file.path) != (file.size, file.mtime_ns) or self._needs_new_metadata(file)
        ]
        same = len(files) - len(changed) - self.updated
        self.unchanged += same
        same += self.updated
        self._flushed_at = (same, time.monotonic())
        self._finished(same)

        fresh = self._new_content(pipeline.load(changed))
        for loaded, result in encode_files(pipeline, fresh, self._encoder):
            copies = [loaded, *self._copies.pop(loaded.content_hash)]
            if isinstance(result, ImageError):
                for one in copies:
                    # name each copy by its own path
                    self._fail(one, str(result).replace(loaded.file.path, one.file.path))
                continue
            if not self._encoded:
                self._encoded = True
                self._writer.set_origin(precision=self._encoder.precision)
            for one in copies:
                self._put(one, result)
        self._require_most(self._vanished & self._gone)
        for path in sorted(self._gone):
            self._writer.remove(path)
            self.removed += 1
        listed = {file.path for file in files}
        if self._table_changed and (self._table is None or known.keys() <= listed | self._gone):
            self._writer.set_origin(
                metadata=self._metadata_record(), no_metadata=self._table is None
            )

    def use_table(self, table: MetadataTable | None) -> None:
        """Take the metadata of images from a table, too."""
        self._table = table
        record = self._metadata_record()
        self._table_changed = record != self._index.manifest.metadata
        if self._table_changed and record is not None:
            # Until it is applied to all images, it counts as changed.
            unfinished = MetadataRecord(record.file, bytes=0, mtime_ns=0)
            self._writer.set_origin(metadata=unfinished)

    def _metadata_record(self) -> MetadataRecord | None:
        if self._table is None:
            return None
        status = self._table.path.stat()
        recorded = self._target.recorded(self._table.path)
        return MetadataRecord(recorded, status.st_size, status.st_mtime_ns)

    def _row(self, file: SourceFile) -> dict[str, Any] | None:
        return None if self._table is None else self._table.row(self._listing.root, file.path)

    def _needs_new_metadata(self, file: SourceFile) -> bool:
        """Apply a table that has changed; return whether the image's own JSON must be read too."""
        if not self._table_changed:
            # JSON that came or went with an older time than the image's, and JSON that is ignored.
            return file.has_metadata != (file.path in self._with_metadata) and (
                file.has_metadata or self._row(file) is None
            )
        if file.has_metadata:
            return True
        item, row = self._writer.get(file.path), self._row(file)
        if item is not None and item.metadata != row:
            self._writer.amend(replace(item, metadata=row))
            self.updated += 1
        return False

    def table_notes(self) -> list[str]:
        """Return a sentence on how many images the table has a row for."""
        if self._table is None:
            return []
        files = self._listing.files
        found = sum(self._row(file) is not None for file in files)
        return [f"{found} of {len(files)} images have a row in {printable(str(self._table.path))}."]

    def _new_content(self, files: Iterable[LoadedFile]) -> Iterator[LoadedFile]:
        """Index files whose content is known; yield those that must be encoded."""
        for loaded in files:
            if (row := self._row(loaded.file)) is not None:
                loaded.metadata = {**(loaded.metadata or {}), **row}
            if loaded.unreadable is not None:
                self._fail(loaded, str(loaded.unreadable))
            elif not self._index_known(loaded):
                if loaded.content_hash in self._copies:
                    loaded.data = b""
                    self._copies[loaded.content_hash].append(loaded)
                else:
                    self._copies[loaded.content_hash] = []
                    yield loaded

    def _index_known(self, loaded: LoadedFile) -> bool:
        file, content_hash = loaded.file, loaded.content_hash
        here = self._writer.get(file.path)
        if here is not None and here.content_hash == content_hash:
            if here.metadata == loaded.metadata:
                self.unchanged += 1
            else:
                self.updated += 1
            self._writer.amend(
                replace(here, mtime_ns=file.mtime_ns, size=file.size, metadata=loaded.metadata)
            )
        else:
            moved = [i for i in self._writer.by_hash(content_hash) if i.path in self._gone]
            if here is None and moved:
                self._gone.remove(moved[0].path)
                self.renamed += 1
                self._writer.amend(
                    replace(
                        moved[0],
                        path=file.path,
                        size=file.size,
                        mtime_ns=file.mtime_ns,
                        metadata=loaded.metadata,
                    )
                )
            else:
                vector = self._writer.vector_of(content_hash)
                if vector is None:
                    return False
                self._put(loaded, vector)
                return True
        self._indexed(loaded)
        return True

    def _put(self, loaded: LoadedFile, vector: NDArray[np.float32]) -> None:
        file = loaded.file
        if self._writer.get(file.path) is None:
            self.added += 1
        else:
            self.updated += 1
        self._writer.put(
            file.path,
            vector,
            content_hash=loaded.content_hash,
            size=file.size,
            mtime_ns=file.mtime_ns,
            metadata=loaded.metadata,
        )
        self._indexed(loaded)

    def _indexed(self, loaded: LoadedFile) -> None:
        if loaded.metadata_error is not None:
            self.ignored_metadata.append((loaded.file.path, loaded.metadata_error))
        self._finished(1)

    def _fail(self, loaded: LoadedFile, sentence: str) -> None:
        self.failed.append((loaded.file.path, sentence))
        if self._writer.get(loaded.file.path) is not None:  # it was usable before
            self._writer.remove(loaded.file.path)
            self.removed += 1
        self._finished(1)

    def _finished(self, count: int) -> None:
        """Count images as done, report progress, and commit from time to time."""
        self._done += count
        done, at = self._flushed_at
        if self._done - done >= self._flush_every or time.monotonic() - at >= self._flush_seconds:
            self._writer.commit(build_graph=False)
            self._flushed_at = (self._done, time.monotonic())
        if self._progress is not None:
            self._progress(self._done, len(self._listing.files))


def _notes_about(index: AnyIndex) -> list[str]:
    if not isinstance(index, Index):
        return []
    return [*graph_notes(index.manifest), *old_colours(index.manifest)]


def _require_same_collection(index: AnyIndex, listing: Listing) -> None:
    """Refuse to mix two collections in an index, unless that is wanted."""
    old, new = index.root.resolve(), listing.root.resolve()
    # A missing root was moved; a root inside the new one has grown.
    if len(index) and old.is_dir() and not old.is_relative_to(new):
        raise UsageError(
            f"The index {index.path} belongs to the collection {printable(str(old))}, not "
            f"{printable(str(new))}: pass --add to add the folder to it, another --to, or delete "
            "the index first."
        )
