"""The images of a collection: in folders, in tar archives, and single files.

An image is identified by its path relative to the collection's root, which is ``shard.tar/key.jpg``
in an archive. There ``key.json`` is its metadata, as in webdataset. Archives are read in place,
never unpacked.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, cast

from ztcir_sdk.errors import ImageError, UsageError, ZtcirError
from ztcir_sdk.names import is_tar
from ztcir_sdk.picture_formats import IMAGE_SUFFIXES, is_readable_image

__all__ = [
    "Failure",
    "Listing",
    "Source",
    "SourceFile",
    "SourceReader",
    "list_images",
    "read_image",
]

LARGEST_FILE = 1 << 29
"""Bytes of the largest file that is read; 100 megapixels without compression take less."""

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A folder, an archive or an image file, or several of them."""
Failure = tuple[str, str]
"""The path of what cannot be used, and a sentence that says why."""

_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class SourceFile:
    """An image that was listed and is not read yet."""

    path: str
    """Relative to the collection's root, with forward slashes."""
    size: int
    """Bytes of the encoded image."""
    mtime_ns: int
    """Modification time of the file or its archive, in nanoseconds since 1970."""
    file: Path
    """The file or the archive."""
    offset: int | None = None
    """Start of the image in the archive's tar stream; None for a file of its own."""
    metadata: tuple[int, int] | bytes | None = None
    """JSON: offset and size in the tar stream, or the text if the archive is compressed."""

    @property
    def key(self) -> str:
        """Name without folder and suffix."""
        return PurePosixPath(self.path).stem

    @property
    def sequential(self) -> bool:
        """Whether it is in a compressed archive, which is only read from front to back."""
        return self.offset is not None and not self.file.name.lower().endswith(".tar")


@dataclass
class Listing:
    """The contents of a source."""

    root: Path
    """The folder that paths are relative to."""
    files: list[SourceFile] = field(default_factory=list)
    """The images: of a folder by path, of an archive in its own order."""
    failed: list[Failure] = field(default_factory=list)
    """What could not be listed."""
    covered: list[str] = field(default_factory=list)
    """Folders and archives whose contents were listed; "" is the root itself."""
    unlisted: list[str] = field(default_factory=list)
    """Those among them that could not be read, so their images may still exist."""
    _exists: dict[Path, bool] = field(default_factory=dict)

    def fail(self, path: str, sentence: str) -> None:
        """Record what could not be listed, by a printable path."""
        self.failed.append((printable(path), sentence))

    def lacks(self, path: str) -> bool:
        """Return whether the image of a relative path no longer exists."""
        if _within(path, self.unlisted):
            return False
        if _within(path, self.covered):
            return path not in self._paths
        whole = self.root / path
        above = list(whole.parents)[: len(Path(path).parts) - 1]  # one may be the archive
        return not any(self._is_file(at) for at in (whole, *above))

    def _is_file(self, path: Path) -> bool:
        if path not in self._exists:
            self._exists[path] = os.path.isfile(path)  # noqa: PTH113  (False if access is denied)
        return self._exists[path]

    @cached_property
    def _paths(self) -> set[str]:
        return {file.path for file in self.files}


def list_images(source: Source, *, root: Path | None = None, skip: Path | None = None) -> Listing:
    """List every image of a source, without reading any.

    In a folder, these are the files with an image's suffix at any depth. Hidden names and
    ``*.ztcir`` are left out, links are followed, and no folder is entered twice.

    Args:
        source: a folder, an archive (``.tar``, ``.tar.gz``, ``.tgz``) or an image file, or several.
        root: folder that paths are relative to, if it contains all of `source`; by default the
            nearest folder that does.
        skip: a folder to leave out.

    Raises:
        ZtcirError: a file or folder of `source` does not exist or has an unknown suffix.
        UsageError: `source` is empty, or has no folder in common.
    """
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not given:
        raise UsageError("There is nothing to index: name a folder, tar archives or image files.")
    paths = [Path(os.path.abspath(path)) for path in given]  # noqa: PTH100  (links stay)
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110  (False if access is denied)
            raise ZtcirError(f"{path} does not exist: check the path.")
    parents = [path if path.is_dir() else path.parent for path in paths]
    try:
        common = Path(os.path.commonpath(parents))
    except ValueError:
        raise UsageError(
            "The sources are on different drives: index each drive on its own."
        ) from None
    if root is None or not common.is_relative_to(root):
        root = common

    listing = Listing(root)
    for path in paths:
        if path.is_dir():
            _list_folder(path, listing, skip)
        elif is_tar(path.name):
            _list_archive(path, listing)
        elif is_readable_image(path):
            listing.files += _found(path, listing)
        else:
            raise ZtcirError(
                f"{path} is not a folder, a tar archive or an image file: images end in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}."
            )
    once = {file.path: file for file in listing.files}
    listing.files = list(once.values())
    return listing


class SourceReader:
    """Reads the files of one listing; `close` it at the end. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unpacked: tuple[Path, IO[bytes]] | None = None

    def close(self) -> None:
        """Close the compressed archive that is open, if any."""
        with self._lock:
            self._close_unpacked()

    def read(self, file: SourceFile) -> bytes:
        """Return an image's bytes; read a compressed archive in the order of the listing.

        Raises:
            ImageError: the file cannot be read, or is too large.
        """
        if file.size > LARGEST_FILE:
            raise ImageError(
                f"{file.path} is larger than {LARGEST_FILE >> 20} MB, too large for an image: "
                "scale it down first."
            )
        try:
            if file.offset is None:
                return file.file.read_bytes()
            return self._read_slice(file.file, file.offset, file.size)
        except _TAR_ERRORS as error:
            raise ImageError(
                f"{file.path} cannot be read ({_reason(error)}): check the file."
            ) from error

    def read_metadata(self, file: SourceFile) -> bytes | None:
        """Return the JSON text beside an image in its archive, or None.

        Raises:
            ImageError: it cannot be read.
        """
        if file.metadata is None or isinstance(file.metadata, bytes):
            return file.metadata
        try:
            return self._read_slice(file.file, *file.metadata)
        except _TAR_ERRORS as error:
            raise ImageError(
                f"The metadata of {file.path} cannot be read ({_reason(error)}): check the file."
            ) from error

    def _read_slice(self, archive: Path, offset: int, size: int) -> bytes:
        if archive.name.lower().endswith(".tar"):
            with archive.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(size)
        else:
            with self._lock:
                unpacked = self._unpack(archive)
                unpacked.seek(offset)  # going back would start again at the beginning
                data = unpacked.read(size)
        if len(data) != size:
            raise EOFError("the archive ends early")
        return data

    def _unpack(self, archive: Path) -> IO[bytes]:
        if self._unpacked is None or self._unpacked[0] != archive:
            self._close_unpacked()
            stream = cast("IO[bytes]", gzip.open(archive, "rb"))  # noqa: SIM115
            self._unpacked = (archive, stream)
        return self._unpacked[1]

    def _close_unpacked(self) -> None:
        if self._unpacked is not None:
            self._unpacked[1].close()
            self._unpacked = None


def read_image(root: Path, path: str) -> bytes:
    """Return the bytes of an image at a path relative to `root`, which may lead into an archive.

    Raises:
        ImageError: it does not exist, or cannot be read.
    """
    whole = root / path
    if whole.is_file():
        return SourceReader().read(SourceFile(path, whole.stat().st_size, 0, whole))
    for parent in whole.parents:
        if is_tar(parent.name) and parent.is_file():
            name = whole.relative_to(parent).as_posix()
            try:
                with tarfile.open(parent) as archive:
                    for member in archive:
                        if member.isreg() and _member_path(member) == name:
                            stream = archive.extractfile(member)
                            if stream is not None and member.size <= LARGEST_FILE:
                                return stream.read()
            except _TAR_ERRORS as error:
                raise ImageError(
                    f"{whole} cannot be read ({_reason(error)}): check the archive."
                ) from error
    raise ImageError(f"{whole} does not exist: if it was moved, index the collection again.")


def printable(path: str) -> str:
    """Return a path with escapes for what is not Unicode."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _list_folder(folder: Path, listing: Listing, skip: Path | None) -> None:
    listing.covered.append(_relative(folder, listing.root))
    entered: set[tuple[int, int]] = set()
    found: list[SourceFile] = []
    # Links to folders come last: a folder that is also inside `folder` keeps its own path.
    folders, links = [folder], list[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        relative = _relative(current, listing.root)
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            listing.fail(
                relative, f"The folder {printable(relative)} cannot be read ({error.strerror})."
            )
            listing.unlisted.append(relative)
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not entry.name.lower().endswith(".ztcir") and path != skip:
                    (links if entry.is_symlink() else folders).append(path)
            elif is_readable_image(path):
                found += _found(path, listing)
    listing.files += sorted(found, key=lambda file: file.path)


def _found(path: Path, listing: Listing) -> Iterator[SourceFile]:
    relative = _relative(path, listing.root)
    if printable(relative) != relative:
        listing.fail(relative, f"The name {printable(relative)} is not Unicode: rename the file.")
        return
    try:
        status = path.stat()
    except OSError as error:
        listing.fail(relative, f"{relative} cannot be read ({error.strerror}).")
        return
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        listing.fail(relative, f"{relative} is not a regular file.")
        return
    yield SourceFile(relative, status.st_size, status.st_mtime_ns, path)


def _list_archive(path: Path, listing: Listing) -> None:
    relative = _relative(path, listing.root)
    listing.covered.append(relative)
    # Metadata of an uncompressed tar is read later; a compressed one is read once, from the start.
    plain = path.name.lower().endswith(".tar")
    images: dict[str, tuple[int, int]] = {}  # name -> offset and size
    texts: dict[str, tuple[int, int] | bytes] = {}  # name without suffix -> metadata
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        with tarfile.open(path, "r:" if plain else "r:gz") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every member
                name = _member_path(member)
                pure = PurePosixPath(name)
                suffix = pure.suffix.lower()
                if not member.isreg() or pure.name.startswith("."):
                    continue
                if suffix == ".json":
                    texts[str(pure.with_suffix(""))] = (member.offset_data, member.size)
                    if not plain and (stream := archive.extractfile(member)) is not None:
                        texts[str(pure.with_suffix(""))] = stream.read()
                elif is_readable_image(pure):
                    # The last one of a name counts, as when the archive is unpacked.
                    images.pop(name, None)
                    if ".." in pure.parts or printable(name) != name or member.issparse():
                        shown = printable(f"{relative}/{name}")
                        listing.fail(shown, f"{shown} has a name or type that cannot be indexed.")
                    else:
                        images[name] = (member.offset_data, member.size)
    except _TAR_ERRORS as error:
        why = _reason(error)
        listing.fail(relative, f"The archive {relative} cannot be read to its end ({why}).")
        listing.unlisted.append(relative)
        if not images:
            return
    for name, (offset, size) in images.items():
        pure = PurePosixPath(name)
        text = texts.get(str(pure.with_suffix("")))
        if text is None:  # key.front.jpg and key.json
            text = texts.get(str(pure.with_name(pure.name.split(".")[0])))
        listing.files.append(
            SourceFile(f"{relative}/{name}", size, status.st_mtime_ns, path, offset, text)
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _member_path(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name.lstrip("/")).as_posix()


def _relative(path: Path, root: Path) -> str:
    relative = path.relative_to(root).as_posix()
    return "" if relative == "." else relative


def _within(path: str, folders: list[str]) -> bool:
    return any(not folder or path.startswith(f"{folder}/") for folder in folders)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
