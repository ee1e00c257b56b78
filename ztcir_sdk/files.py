"""Replace files and folders atomically, and compute checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = [
    "finish_swap",
    "flush_file",
    "flush_folder",
    "folder_whole",
    "hash_file",
    "is_inside",
    "open_ordinary",
    "open_whole",
    "read_bounded",
    "standing_folder",
    "write_whole",
]

BLOCK = 1 << 20


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path, or the archive that it leads into, is in a folder, links followed."""
    try:
        real = Path(os.path.realpath(path))
        return real.is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):  # ValueError: a null character
        return False


def hash_file(file: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    hasher = hashlib.sha256()
    with open_ordinary(file) as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def open_ordinary(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open an ordinary file for reading; links are followed.

    A pipe would block, and a device may never end.

    Raises:
        OSError: it does not exist, cannot be read, or is another kind of file.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not an ordinary file", os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of an ordinary file.

    Raises:
        OSError: it cannot be read, is another kind of file, or has over `most` bytes.
    """
    with open_ordinary(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(
            errno.EFBIG,
            f"it has over {most / 1e6:.0f} MB, the limit of such files",
            os.fspath(path),
        )
    return data


def flush_file(file: Path) -> None:
    """Flush a file to disk."""
    with file.open("rb+") as stream:  # Windows cannot flush a file opened for reading
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the system supports it."""
    if sys.platform == "win32":  # it cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # CIFS and some FUSE file systems
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_whole(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a file for writing; it replaces `path` when the block ends without an error.

    A crash leaves the old file or the new one; no other process sees an incomplete file.

    Args:
        path: file to create or replace.
        mode: "wb" or "w".
        options: further arguments of ``open``, such as ``encoding``.

    Raises:
        OSError: the folder is missing, the disk is full, and so on; `path` is then unchanged.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    try:
        with fresh.open(mode.replace("w", "x"), **options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def write_whole(path: Path, data: bytes | str) -> None:
    """Create or replace a file atomically; text is written as UTF-8. See `open_whole`."""
    with open_whole(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def standing_folder(target: Path) -> Path:
    """Return `target`, or its previous folder if a writer was killed while replacing it."""
    old = _aside(target, "old")
    return old if not target.exists() and old.is_dir() else target


def finish_swap(target: Path) -> None:
    """Finish a replacement of `target` whose writer was killed; keep the newer folder."""
    import shutil  # writers alone need it

    old = _aside(target, "old")
    if target.exists():
        # Windows cannot remove open files; the next writer tries again.
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(target)


@contextlib.contextmanager
def folder_whole(target: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `target` when the block ends without an error.

    A crash leaves the old folder or the new one, at `target` or where `standing_folder` finds it.
    The block must flush the files that it writes.

    Args:
        target: folder to create or replace.

    Raises:
        OSError: the disk is full, a rename failed, and so on; the old folder then remains.
    """
    import shutil  # writers alone need it

    fresh, old = _aside(target, "new"), _aside(target, "old")
    if fresh.exists():  # left by a killed writer
        shutil.rmtree(fresh)
    fresh.mkdir()
    try:
        yield fresh
        flush_folder(fresh)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        try:
            fresh.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    flush_folder(target.parent)
    finish_swap(target)


def _aside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.ztcir-{suffix}")
