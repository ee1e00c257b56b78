"""JSON files beside images: which one belongs to which image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ztcir_sdk.errors import reason_of
from ztcir_sdk.sources.listing import SourceFile, printable
from ztcir_sdk.sources.metadata import MAX_METADATA_BYTES

__all__ = ["MetadataFiles", "is_metadata", "metadata_names", "too_large"]

SUFFIX = ".json"


def is_metadata(name: str) -> bool:
    """Return whether a file's name is that of JSON, which may belong to an image."""
    return name.lower().endswith(SUFFIX)


def metadata_names(name: str) -> list[str]:
    """Return what the JSON of an image may be called, without its suffix; the first counts.

    For ``key.front.jpg``: ``key.front``, ``key.front.jpg`` and ``key``, as webdataset, exports of
    photo services, and webdataset with several images a sample call it.
    """
    pure = PurePosixPath(name)
    first = pure.name.split(".")[0]
    names = [str(pure.with_suffix("")), name]
    return [*names, str(pure.with_name(first))] if first else names


def too_large(path: str, size: int) -> str:
    """Return the sentence about JSON that is too large to be read."""
    return (
        f"The metadata of {path} is ignored: its JSON has {size / 1e6:.1f} MB, over the limit of "
        f"{MAX_METADATA_BYTES / 1e6:.0f} MB."
    )


class MetadataFiles:
    """The JSON files of one folder.

    Attributes:
        names: their names.
        used: the names of those that belong to an image that was listed.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.used: set[str] = set()
        self._by_key = {name[: -len(SUFFIX)]: name for name in sorted(self.names)}

    @classmethod
    def beside(cls, image: Path) -> MetadataFiles:
        """Return those that belong to one image, which need no look at its whole folder."""
        names = (f"{key}{SUFFIX}" for key in metadata_names(image.name))
        return cls(name for name in names if os.path.lexists(image.with_name(name)))

    def add_to(self, file: SourceFile) -> SourceFile:
        """Return an image with the JSON that belongs to it; its time is that of the newer one."""
        keys = metadata_names(file.file.name)
        name = next((self._by_key[key] for key in keys if key in self._by_key), None)
        if name is None:
            return file
        self.used.add(name)
        path = file.file.with_name(name)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
                raise OSError("it is not a regular file")
        except OSError as error:
            why = f"The metadata of {file.path} is ignored: its JSON {reason_of(error)}."
            return replace(file, metadata_error=printable(why))
        newest = max(file.mtime_ns, status.st_mtime_ns)
        if status.st_size > MAX_METADATA_BYTES:
            why = too_large(file.path, status.st_size)
            return replace(file, mtime_ns=newest, metadata_error=why)
        return replace(file, mtime_ns=newest, metadata=path)
