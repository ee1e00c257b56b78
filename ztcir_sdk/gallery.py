"""A collection of pictures -> decoded batches -> vectors -> an index, kept up to date.

Nothing is read that has the size and time it had; nothing is encoded whose bytes are known. What
is read and decoded ahead is bounded in bytes and pixels, whatever the collection holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.errors import ImageError, IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.index import Index, IndexWriter
from ztcir_sdk.index.manifest import MANIFEST
from ztcir_sdk.preprocess import load_image
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.sources import (
    PICTURE_SUFFIXES,
    Failure,
    Listing,
    Source,
    SourceFile,
    SourceReader,
    list_pictures,
    printable,
)

__all__ = ["GalleryImage", "ImageEncoder", "IndexReport", "build_index", "iter_images"]

BATCH = 32
"""Pictures that are encoded at once, at most."""
PIXELS_AHEAD = 64_000_000
"""Decoded pixels that may wait to be encoded (192 MB), beside one picture for each thread."""
FILES_AHEAD = 64
BYTES_AHEAD = 64_000_000
"""Files, and bytes of files, that may wait to be decoded."""


class ImageEncoder(Protocol):
    """What turns pictures into vectors."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        ...

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of image-tower weights and preprocessing."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the graph: "fp32", "fp16", "int8"."""
        ...

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """Return the vectors (N, D) float32, L2-normalised, of N upright RGB pictures."""
        ...


@dataclass(frozen=True)
class GalleryImage:
    """A picture of a source, decoded; or why it could not be."""

    key: str
    """Name without folder and suffix: in an archive, the webdataset key."""
    path: str
    """Relative to the source's root; ``shard.tar/key.jpg`` in an archive."""
    content_hash: str
    """SHA-256 (hex) of the file's bytes; empty if it cannot be read."""
    metadata: Mapping[str, Any] | None
    """JSON object beside the picture in its archive, if there is one."""
    image: Image.Image | None
    """Upright RGB; None if it cannot be decoded."""
    error: str | None
    """What is wrong with the picture, or with its metadata: a sentence."""


@dataclass(frozen=True)
class IndexReport:
    """What `build_index` did, in numbers of pictures."""

    added: int
    """New ones, further copies of known ones among them."""
    updated: int
    """Those whose content or metadata changed."""
    renamed: int
    """Those found under another path."""
    removed: int
    """Those that are gone, or cannot be used any more."""
    unchanged: int
    """Those that are as they were."""
    failed: list[Failure]
    """What cannot be used: path and sentence, ordered by path."""
    seconds: float
    """How long it took."""
    total: int
    """Items in the index now."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; `failed` as objects of `path` and `error`."""
        failed = [{"path": path, "error": sentence} for path, sentence in self.failed]
        return {**asdict(self), "failed": failed}


def build_index(
    source: Source,
    to: str | os.PathLike[str],
    encoder: ImageEncoder,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    flush_every: int = 1000,
    flush_seconds: float = 30.0,
) -> IndexReport:
    """Make the index of a collection, or bring it up to date with what the collection now is.

    Whatever is indexed stays while it is there, though `source` may name only a part; to leave
    something out, delete the index and name the rest.

    Args:
        source: a folder, a tar archive or a picture, or several; see `list_pictures`.
        to: the index, by custom ``NAME.ztcir``.
        encoder: the image encoder.
        progress: called with how many pictures are done, and of how many.
        workers: threads that read and decode; by default one a core, at most 8.
        flush_every: pictures after which what is done is committed,
        flush_seconds: or seconds: what a kill can cost. The next call goes on from there.

    Raises:
        ZtcirError: the source is missing or has no picture that can be used, or the index cannot
            be read or written.
        IndexMismatchError: the index was made by another image tower.
        UsageError: the index is another collection's.
    """
    started = time.monotonic()
    target = Path(to).absolute()
    index = _open_for(encoder, target) if (target / MANIFEST).exists() else None
    listing = list_pictures(source, root=None if index is None else index.root, skip=target)
    if index is not None:
        _require_same_collection(index, listing)
    if not listing.files:
        raise ZtcirError(_nothing_in(source, listing))
    created = index is None
    if index is None:
        index = Index.create(
            target,
            dim=encoder.dim,
            image_tower=encoder.image_tower,
            precision=encoder.precision,
            root=listing.root,
        )
    try:
        with (
            index.edit() as writer,
            _Pipeline(workers) as pipeline,
        ):
            build = _Build(
                writer, index.root, encoder, listing, progress, flush_every, flush_seconds
            )
            build.run(pipeline)
            if len(writer) == 0:
                raise ZtcirError(
                    f"None of the {len(listing.files)} pictures in {_name(source)} can be used; "
                    f"the first: {build.failed[0][1]}"
                )
    except BaseException:
        if created and len(index) == 0:
            shutil.rmtree(target)
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
    )


def iter_images(source: Source, *, workers: int | None = None) -> Iterator[GalleryImage]:
    """Decode every picture of a source, in the order of `list_pictures`, some ahead in threads.

    A picture that cannot be used comes with a sentence in place of an image.

    Raises:
        ZtcirError: a file or folder that `source` names is not there.
    """
    listing = list_pictures(source)
    for path, sentence in listing.failed:
        yield GalleryImage(Path(path).stem, path, "", None, None, sentence)
    with _Pipeline(workers) as pipeline:
        for loaded, image in pipeline.decode(pipeline.load(listing.files)):
            file, content_hash, metadata = loaded.file, loaded.content_hash, loaded.metadata
            if isinstance(image, ImageError):
                yield GalleryImage(file.key, file.path, content_hash, metadata, None, str(image))
            else:
                pixels = _pixels(image)  # the caller may change it
                yield GalleryImage(
                    file.key, file.path, content_hash, metadata, image, loaded.metadata_error
                )
                pipeline.release(pixels)


@dataclass
class _Loaded:
    """A file that was read."""

    file: SourceFile
    data: bytes = b""
    content_hash: str = ""
    metadata: Mapping[str, Any] | None = None
    unreadable: ImageError | None = None
    metadata_error: str | None = None


class _Pipeline:
    """Reads and decodes ahead in threads; results come in order."""

    def __init__(self, workers: int | None) -> None:
        workers = workers or min(8, available_cores())
        self._reader = SourceReader()
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="ztcir-read")
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="ztcir-decode")
        # Decoded pixels are held back by this gate; the picture that is waited for always passes.
        self._gate = threading.Condition()
        self._pixels = 0
        self._waited_for = -1
        self._closed = False

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._gate:
            self._closed = True
            self._gate.notify_all()
        self._readers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)
        self._reader.close()

    def load(self, files: Iterable[SourceFile]) -> Iterator[_Loaded]:
        """Read and hash files."""

        def submit(file: SourceFile) -> Future[_Loaded]:
            if file.sequential:  # in this thread, and so in order
                loaded = self._read(file)
                return self._readers.submit(_hashed, loaded)
            return self._readers.submit(lambda: _hashed(self._read(file)))

        ahead: deque[tuple[int, Future[_Loaded]]] = deque()
        for file in files:
            ahead.append((file.size, submit(file)))
            while len(ahead) >= FILES_AHEAD or sum(size for size, _ in ahead) >= BYTES_AHEAD:
                yield ahead.popleft()[1].result()
        while ahead:
            yield ahead.popleft()[1].result()

    def decode(
        self, loaded: Iterable[_Loaded]
    ) -> Iterator[tuple[_Loaded, Image.Image | ImageError]]:
        """Decode files; `release` an image's pixels when it is no longer held."""
        ahead: deque[tuple[int, _Loaded, Future[Image.Image | ImageError]]] = deque()

        def first() -> tuple[_Loaded, Image.Image | ImageError]:
            number, one, future = ahead.popleft()
            with self._gate:
                self._waited_for = number
                self._gate.notify_all()
            return one, future.result()

        for number, one in enumerate(loaded):
            ahead.append((number, one, self._decoders.submit(self._decode, number, one)))
            while (
                len(ahead) >= FILES_AHEAD
                or sum(one.file.size for _, one, _ in ahead) >= BYTES_AHEAD
            ):
                yield first()
        while ahead:
            yield first()

    def release(self, pixels: int) -> None:
        """Let the next be decoded in an image's place."""
        with self._gate:
            self._pixels -= pixels
            self._gate.notify_all()

    def _read(self, file: SourceFile) -> _Loaded:
        loaded = _Loaded(file)
        try:
            loaded.data = self._reader.read(file)
        except ImageError as error:
            loaded.unreadable = error
            return loaded
        try:
            text = self._reader.read_metadata(file)
            if text is not None:
                loaded.metadata = _json_object(text)
        except (ImageError, ValueError, RecursionError) as error:
            loaded.metadata_error = (
                f"The metadata of {file.path} is left out, since it is no JSON object ({error})."
            )
        return loaded

    def _decode(self, number: int, loaded: _Loaded) -> Image.Image | ImageError:
        if loaded.unreadable is not None:
            return loaded.unreadable
        with self._gate:
            self._gate.wait_for(
                lambda: self._closed or self._pixels < PIXELS_AHEAD or number <= self._waited_for
            )
        try:
            image = load_image(loaded.data, name=loaded.file.path)
        except ImageError as error:
            return error
        finally:
            loaded.data = b""
        with self._gate:
            self._pixels += _pixels(image)
        return image


class _Build:
    """One run of `build_index`: what each file of a listing does to the index."""

    def __init__(
        self,
        writer: IndexWriter,
        root: Path,
        encoder: ImageEncoder,
        listing: Listing,
        progress: Callable[[int, int], None] | None,
        flush_every: int,
        flush_seconds: float,
    ) -> None:
        self.added = self.updated = self.renamed = self.removed = self.unchanged = 0
        self.failed = list(listing.failed)
        self._index_root = root
        self._writer = writer
        self._encoder = encoder
        self._listing = listing
        self._progress = progress
        self._flush_every = flush_every
        self._flush_seconds = flush_seconds
        self._done = 0
        self._flushed_at = (0, time.monotonic())
        self._waiting: dict[str, list[_Loaded]] = {}  # content being encoded -> further copies
        self._gone: set[str] = set()

    def run(self, pipeline: _Pipeline) -> None:
        files = self._listing.files
        known = self._known()
        changed = [file for file in files if known.get(file.path) != (file.size, file.mtime_ns)]
        absent = known.keys() - {file.path for file in files}
        self._gone = {path for path in absent if self._listing.lacks(path)}
        same = len(files) - len(changed)
        self.unchanged = same + len(absent) - len(self._gone)
        self._flushed_at = (same, time.monotonic())
        self._finished(same)

        batch: list[tuple[_Loaded, Image.Image]] = []
        for loaded, image in pipeline.decode(self._new_content(pipeline.load(changed))):
            if isinstance(image, ImageError):
                for one in [loaded, *self._waiting.pop(loaded.content_hash)]:
                    # Each copy is named by its own path.
                    self._fail(one, str(image).replace(loaded.file.path, one.file.path))
                continue
            batch.append((loaded, image))
            if len(batch) == BATCH or sum(_pixels(i) for _, i in batch) >= PIXELS_AHEAD // 2:
                self._encode(batch, pipeline)
                batch = []
        if batch:
            self._encode(batch, pipeline)
        for path in sorted(self._gone):
            self._writer.remove(path)
            self.removed += 1

    def _known(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each indexed path, all relative to the listing's root."""
        old, new = self._index_root.resolve(), self._listing.root.resolve()
        if old != new and old.is_dir() and old.is_relative_to(new):  # more is listed than before
            inside = old.relative_to(new).as_posix()
            # Longest first, so that none takes a path that another one still has.
            for item in sorted(self._writer.items(), key=lambda item: -len(item.path)):
                self._writer.amend(replace(item, path=f"{inside}/{item.path}"))
        self._writer.set_origin(root=self._listing.root)
        return self._writer.times()

    def _new_content(self, files: Iterable[_Loaded]) -> Iterator[_Loaded]:
        """Index what is known by its bytes; yield what must be encoded."""
        for loaded in files:
            if loaded.unreadable is not None:
                self._fail(loaded, str(loaded.unreadable))
            elif not self._index_known(loaded):
                if loaded.content_hash in self._waiting:
                    loaded.data = b""
                    self._waiting[loaded.content_hash].append(loaded)
                else:
                    self._waiting[loaded.content_hash] = []
                    yield loaded

    def _index_known(self, loaded: _Loaded) -> bool:
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

    def _encode(self, batch: list[tuple[_Loaded, Image.Image]], pipeline: _Pipeline) -> None:
        images = [image for _, image in batch]
        vectors = self._encoder.encode_images(images)
        if vectors.shape != (len(batch), self._encoder.dim):
            raise ValueError(f"the encoder gave {vectors.shape} for {len(batch)} pictures")
        self._writer.set_origin(precision=self._encoder.precision)
        for (loaded, image), vector in zip(batch, vectors, strict=True):
            pipeline.release(_pixels(image))
            for one in [loaded, *self._waiting.pop(loaded.content_hash)]:
                self._put(one, vector)

    def _put(self, loaded: _Loaded, vector: NDArray[np.float32]) -> None:
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

    def _indexed(self, loaded: _Loaded) -> None:
        if loaded.metadata_error is not None:
            self.failed.append((loaded.file.path, loaded.metadata_error))
        self._finished(1)

    def _fail(self, loaded: _Loaded, sentence: str) -> None:
        self.failed.append((loaded.file.path, sentence))
        if self._writer.get(loaded.file.path) is not None:  # it was a picture once
            self._writer.remove(loaded.file.path)
            self.removed += 1
        self._finished(1)

    def _finished(self, count: int) -> None:
        """Count, tell, and commit from time to time."""
        self._done += count
        done, at = self._flushed_at
        if self._done - done >= self._flush_every or time.monotonic() - at >= self._flush_seconds:
            self._writer.commit(build_graph=False)
            self._flushed_at = (self._done, time.monotonic())
        if self._progress is not None:
            self._progress(self._done, len(self._listing.files))


def _hashed(loaded: _Loaded) -> _Loaded:
    if loaded.unreadable is None:
        loaded.content_hash = hashlib.sha256(loaded.data).hexdigest()
    return loaded


def _pixels(image: Image.Image) -> int:
    return image.width * image.height


def _json_object(text: bytes) -> Mapping[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return value


def _open_for(encoder: ImageEncoder, target: Path) -> Index:
    try:
        index = Index.open(target, image_tower=encoder.image_tower)
        same = index.dim == encoder.dim
    except IndexMismatchError:
        same = False
    if not same:
        raise IndexMismatchError(
            f"The index {target} was made by another image tower; "
            "pass another --to, or delete it to index the collection again."
        )
    return index


def _require_same_collection(index: Index, listing: Listing) -> None:
    """Refuse to mix two collections, or to empty an index because of another folder's absence."""
    old, new = index.root.resolve(), listing.root.resolve()
    # A root that is gone has been moved; one inside the new one grows.
    if len(index) and old.is_dir() and not old.is_relative_to(new):
        raise UsageError(
            f"The index {index.path} holds the collection {old}, not {new}; "
            "pass another --to, or delete it first."
        )


def _nothing_in(source: Source, listing: Listing) -> str:
    if listing.failed:
        return f"{_name(source)} has no picture that can be used; {listing.failed[0][1]}"
    suffixes = ", ".join(sorted(PICTURE_SUFFIXES))
    hint = ""
    if isinstance(source, str | os.PathLike) and any(Path(source).glob("*.tar*")):
        hint = "; to index the tar archives in it, name them"
    return f"{_name(source)} has no picture: no file that ends in {suffixes}{hint}."


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return printable(os.fspath(source))
    return f"{printable(os.fspath(source[0]))} and what was named with it"
