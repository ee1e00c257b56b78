"""Tar archives of strangers: `tarfile`, with every size checked before it is believed.

`tarfile` reads headers of any length into memory, follows chains of them by recursion, and goes on
for ever at a size that is negative or does not lead forward.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from ztcir_sdk.files import open_ordinary
from ztcir_sdk.names import is_plain_tar

__all__ = ["TarHeaderError", "open_tar"]

HEADER_BYTES = 256_000
"""Bytes of all headers before one member: long names, pax records, maps of sparse files."""
PAX_RECORDS = 1_000
"""Records of one header in pax format, and of those that hold for all members."""
EXPANDED_BYTES = 1_000_000_000
"""Bytes that any compressed archive may expand to,"""
EXPANSION = 100
"""and further ones for each of its own bytes."""

_RECORD = re.compile(rb"([1-9][0-9]{0,9}) [^=]+=", re.S)
_DIGITS = re.compile(rb"[0-9]{1000}")


class TarHeaderError(OSError):
    """An archive has a header that cannot be right, or expands without end."""


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive to read its members one after the other; it keeps none of them.

    Raises:
        OSError, tarfile.TarError, EOFError, ...: see `tar_errors`.
    """
    with open_ordinary(path) as file:
        plain = is_plain_tar(path.name)
        stream = file if plain else cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
        size = os.fstat(file.fileno()).st_size
        most = size if plain else EXPANDED_BYTES + EXPANSION * size
        with _Archive(fileobj=_Bounded(stream, most), mode="r") as archive:  # type: ignore[arg-type]
            yield archive


class _Bounded:
    """A file whose headers are bounded, and what it expands to."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self.name = ""
        self._stream = stream
        self._most = most
        self._left: int | None = None  # bytes of headers that may still be read
        self._pushed = b""

    @contextlib.contextmanager
    def headers(self) -> Iterator[None]:
        """Bound what is read inside the block."""
        self._left = HEADER_BYTES
        try:
            yield
        finally:
            self._left = None

    def push(self, data: bytes) -> None:
        """Let the next read return these bytes, which it must ask for exactly."""
        self._pushed = data

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        if self._pushed:
            data, self._pushed = self._pushed, b""
            return data
        if self._left is not None:
            if not 0 <= size <= self._left:
                raise TarHeaderError(f"the headers of a member have over {HEADER_BYTES} bytes")
            self._left -= size
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; in a compressed archive everything before it is expanded."""
        if whence == os.SEEK_SET and offset > self._most:
            raise TarHeaderError("a member reaches beyond the end of the archive")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close nothing: whoever opened the file does."""


class _Header(tarfile.TarInfo):
    """A header whose size is checked before what it describes is read."""

    def _proc_member(self, archive: Any) -> Any:
        if self.size < 0:
            raise TarHeaderError("a header has a negative size")
        if len(archive.pax_headers) > PAX_RECORDS:
            raise TarHeaderError(f"it has over {PAX_RECORDS} records for all members")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_pax(self, archive: Any) -> Any:
        data = archive.fileobj.read(self._block(self.size))  # type: ignore[attr-defined]
        _check_records(data)
        archive.fileobj.push(data)
        return super()._proc_pax(archive)  # type: ignore[misc]


def _check_records(data: bytes) -> None:
    """Refuse records in pax format that `tarfile` needs quadratic time for."""
    if _DIGITS.search(data):
        raise TarHeaderError("a record has a number of over 1000 digits")
    place = count = 0
    while found := _RECORD.match(data, place):
        length = int(found[1])
        if length < found.end() - place:
            raise TarHeaderError("a record is shorter than its name")
        place += length
        count += 1
        if count > PAX_RECORDS:
            raise TarHeaderError(f"a member has over {PAX_RECORDS} records")
    if data[place : place + 1] not in (b"", b"\0"):
        raise TarHeaderError("a record has no length")


class _Archive(tarfile.TarFile):
    tarinfo = _Header

    def next(self) -> tarfile.TarInfo | None:
        if self.firstmember is not None:  # type: ignore[attr-defined]
            return super().next()
        before = self.offset
        with cast("_Bounded", self.fileobj).headers():
            member = super().next()
        self.members: list[tarfile.TarInfo] = []  # else it keeps every member
        if member is not None and (member.size < 0 or self.offset <= before):
            raise TarHeaderError("a header has a size that leads backwards")
        if member is None:
            self._check_end()
        return member

    def _check_end(self) -> None:
        """Refuse an end that is none: some versions of tarfile stop at a header in silence."""
        stream = cast("_Bounded", self.fileobj)
        stream.push(b"")
        stream.seek(self.offset)
        if any(stream.read(tarfile.BLOCKSIZE)):
            raise TarHeaderError("a header cannot be read")
