"""Reading the files of a listing, and single images by their path."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from ztcir_sdk.errors import ImageError, reason_of
from ztcir_sdk.files import open_ordinary, read_bounded
from ztcir_sdk.names import is_plain_tar, is_tar
from ztcir_sdk.picture_formats import VIDEO_SUFFIXES
from ztcir_sdk.sources.listing import Listing, SourceFile, frame_in, tar_errors
from ztcir_sdk.sources.metadata import MAX_METADATA_BYTES
from ztcir_sdk.sources.rules import CollectionRules
from ztcir_sdk.sources.videos import VideoReader, read_frame

__all__ = ["SourceReader", "container_of", "image_exists", "read_image"]

MAX_FILE_BYTES = 1 << 29
"""Bytes of the largest file that is read; 100 megapixels without compression take less."""


class SourceReader:
    """Reads the files of one listing; `close` it at the end. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: tuple[Path, Any] | None = None

    def close(self) -> None:
        """Close the compressed archive or the video that is open, if any."""
        with self._lock:
            self._close()

    def read(self, file: SourceFile) -> bytes:
        """Return an image's bytes; read archives and videos in the order of the listing.

        Raises:
            ImageError: the file cannot be read, or is too large.
        """
        if file.size > MAX_FILE_BYTES:
            raise ImageError(
                f"{file.path} is larger than {MAX_FILE_BYTES >> 20} MB, too large for an image: "
                "scale it down first."
            )
        try:
            if file.time is not None:
                with self._lock:
                    video = cast("VideoReader", self._opened(file.file, VideoReader))
                    return video.read(file.time)
            if file.offset is None:
                return read_bounded(file.file, MAX_FILE_BYTES)
            return self._read_slice(file.file, file.offset, file.size)
        except tar_errors() as error:
            raise ImageError(
                f"{file.path} cannot be read ({reason_of(error)}): check the file."
            ) from error

    def read_metadata(self, file: SourceFile) -> bytes | None:
        """Return the JSON text beside an image, or None.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        if file.metadata_error is not None:
            raise ImageError(file.metadata_error)
        if file.metadata is None:
            return None
        try:
            if isinstance(file.metadata, Path):
                with open_ordinary(file.metadata) as stream:
                    return stream.read(MAX_METADATA_BYTES + 1)  # it may have grown
            if isinstance(file.metadata, bytes):
                return zlib.decompress(file.metadata)
            return self._read_slice(file.file, *file.metadata)
        except tar_errors() as error:
            raise ImageError(
                f"The metadata of {file.path} cannot be read ({reason_of(error)}): check the file."
            ) from error

    def _read_slice(self, archive: Path, offset: int, size: int) -> bytes:
        if is_plain_tar(archive.name):
            with open_ordinary(archive) as stream:
                stream.seek(offset)
                data = stream.read(size)
        else:
            with self._lock:
                unpacked = cast("IO[bytes]", self._opened(archive, _gzip_open))
                unpacked.seek(offset)  # going back would start again at the beginning
                data = unpacked.read(size)
        if len(data) != size:
            raise EOFError("the archive ends early")
        return data

    def _opened(self, path: Path, open_file: Callable[[Path], Any]) -> Any:
        if self._open is None or self._open[0] != path:
            self._close()
            self._open = (path, open_file(path))
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def container_of(path: Path) -> Path | None:
    """Return the archive or the video that a path leads into; None if the path itself exists."""
    try:
        path.lstat()
        return None
    except (OSError, ValueError):  # ValueError: a null character
        pass
    frame = frame_in(str(path))
    if frame is not None and Path(frame[0]).suffix.lower() in VIDEO_SUFFIXES:
        video = Path(frame[0])
        if _is_file(video):
            return video
    return next((one for one in path.parents if is_tar(one.name) and _is_file(one)), None)


def image_exists(path: Path) -> bool:
    """Return whether the file of an image, or the archive or video that it is in, exists."""
    return _is_file(path) or container_of(path) is not None


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  (False for a name that no file can have)


def read_image(root: Path, path: str) -> bytes:
    """Return the bytes of an image at a path relative to `root`.

    The path may lead into an archive, ``shard.tar/key.jpg``, or be a frame, ``clip.mp4@12.0s``.

    Raises:
        ImageError: it does not exist, or cannot be read.
    """
    whole = root / path
    if _is_file(whole):
        return SourceReader().read(SourceFile(path, whole.stat().st_size, 0, whole))
    container = container_of(whole)
    frame = frame_in(str(whole))
    if container is not None and frame is not None and container == Path(frame[0]):
        return read_frame(container, frame[1])
    if container is not None:
        try:
            status = container.stat()
        except OSError as error:
            raise ImageError(f"{whole} cannot be read ({reason_of(error)}).") from error
        files, failed = _archive(container, status.st_size, status.st_mtime_ns)
        if (file := files.get(whole.relative_to(container).as_posix())) is not None:
            reader = SourceReader()
            try:
                return reader.read(file)
            finally:
                reader.close()
        if failed:
            raise ImageError(f"{whole} cannot be read: {failed}")
    raise ImageError(f"{whole} does not exist: if it was moved, index the collection again.")


@lru_cache(maxsize=8)
def _archive(path: Path, size: int, mtime_ns: int) -> tuple[dict[str, SourceFile], str]:
    """Return the images of an archive by name, and why it cannot be read to its end."""
    listing = Listing(path.parent)
    from ztcir_sdk.sources.archives import list_archive

    list_archive(path, listing, CollectionRules(default_excludes=False))
    start = len(path.name) + 1
    failed = next((sentence for name, sentence in listing.failed if name == path.name), "")
    return {file.path[start:]: file for file in listing.files}, failed


def _gzip_open(path: Path) -> Any:
    import gzip

    return gzip.open(path)
