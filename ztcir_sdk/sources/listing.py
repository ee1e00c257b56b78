"""The files of a collection, listed: images, what failed, and what is not an image."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ztcir_sdk.names import TAR_SUFFIXES, is_plain_tar, tar_suffix
from ztcir_sdk.picture_formats import PictureFormat, how_to_read

__all__ = [
    "Failure",
    "Listing",
    "Source",
    "SourceFile",
    "frame_in",
    "is_relative_path",
    "printable",
    "relative_path",
    "tar_errors",
]

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A folder, an archive or an image file, or several of them."""
Failure = tuple[str, str]
"""The path of what cannot be used, and a sentence that says why."""


@cache
def tar_errors() -> tuple[type[Exception], ...]:
    """Return what reading a damaged archive raises, for an ``except`` that rarely asks for it."""
    import tarfile  # a search for a plain file needs none of it

    return (
        *(tarfile.TarError, OSError, EOFError, zlib.error, OverflowError, ValueError),
        *(RecursionError, LookupError, TypeError, AttributeError),  # of `tarfile`, for bad data
    )


@dataclass(frozen=True)
class SourceFile:
    """An image that was listed and is not read yet."""

    path: str
    """Relative to the collection's root, with forward slashes."""
    size: int
    """Bytes of the encoded image."""
    mtime_ns: int
    """Modification time of the archive, or of the file or the JSON beside it, whichever is newer:
    nanoseconds since 1970."""
    file: Path
    """The file, the archive or the video."""
    offset: int | None = None
    """Start of the image in the archive's tar stream; None outside of archives."""
    metadata: tuple[int, int] | bytes | Path | None = None
    """JSON: its file beside the image; in an archive its offset and size in the tar stream, or the
    zlib-compressed text if the archive is compressed."""
    metadata_error: str | None = None
    """A sentence that says why the JSON beside the image is not used."""
    time: float | None = None
    """Seconds from the video's start, of a frame."""

    @property
    def key(self) -> str:
        """Name without folder and suffix."""
        return PurePosixPath(self.path).stem

    @property
    def sequential(self) -> bool:
        """Whether it is in a compressed archive or a video, which are read from front to back."""
        if self.time is not None:
            return True
        return self.offset is not None and not is_plain_tar(self.file.name)

    @property
    def has_metadata(self) -> bool:
        """Whether there is JSON beside it, usable or not."""
        return self.metadata is not None or self.metadata_error is not None


@dataclass
class Listing:
    """The contents of a source."""

    root: Path
    """The folder that paths are relative to."""
    files: list[SourceFile] = field(default_factory=list)
    """The images: of a folder by path, of an archive in its own order."""
    failed: list[Failure] = field(default_factory=list)
    """What could not be listed."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files that are no images, or cannot be read here: number by suffix. Hidden and excluded
    files are counted as "hidden" and "excluded"."""
    excluded: list[str] = field(default_factory=list)
    """Folders that were left out."""
    formats: set[PictureFormat] = field(default_factory=set)
    """Formats among the skipped files whose reader is not installed."""
    covered: list[str] = field(default_factory=list)
    """Folders and archives whose contents were listed; "" is the root itself."""
    unlisted: list[str] = field(default_factory=list)
    """What could not be read, so that its images may still exist."""
    _exists: dict[Path, bool] = field(default_factory=dict)

    def fail(self, path: str, sentence: str) -> None:
        """Record what could not be listed, by a printable path."""
        self.failed.append((printable(path), sentence))

    def skip(self, name: str) -> None:
        """Count a file that is no image."""
        suffix = tar_suffix(name) or printable(PurePosixPath(name).suffix.lower())
        self.skipped[suffix or "no suffix"] += 1

    def skip_format(self, path: str, picture_format: PictureFormat) -> None:
        """Count an image whose reader is not installed; what is indexed of it stays."""
        self.skip(path)
        self.formats.add(picture_format)
        self.unlisted.append(path)

    @property
    def fixes(self) -> list[str]:
        """Sentences about how to read files that were skipped."""
        suffixes: dict[str, list[str]] = {}
        for one in self.formats:
            found = [suffix for suffix in one.suffixes if suffix in self.skipped]
            suffixes.setdefault(how_to_read(one), []).extend(found)
        sentences = [
            f"To read {' '.join(sorted(found))} files, {how}; then index again."
            for how, found in sorted(suffixes.items())
        ]
        if any(self.skipped[suffix] for suffix in TAR_SUFFIXES):
            sentences.append(
                "Tar archives are not read as part of a folder: name them, too, as in "
                "`ztcir index FOLDER FOLDER/*.tar*`."
            )
        return sentences

    def lacks(self, path: str) -> bool:
        """Return whether the image of a relative path no longer belongs to the collection."""
        if _within(path, self._unlisted):
            return False
        if _within(path, self._covered):
            return path not in self._paths
        return not self.exists(path)

    def exists(self, path: str) -> bool:
        """Return whether the file of a relative path, or the archive that it is in, exists."""
        whole = self.root / path
        above = list(whole.parents)[: len(Path(path).parts) - 1]  # one may be the archive
        video = frame_in(path)
        frames = () if video is None else (self.root / video[0],)
        return any(self._is_file(at) for at in (whole, *frames, *above))

    def _is_file(self, path: Path) -> bool:
        if path not in self._exists:
            self._exists[path] = os.path.isfile(path)  # noqa: PTH113  (False if access is denied)
        return self._exists[path]

    @cached_property
    def _paths(self) -> set[str]:
        return {file.path for file in self.files}

    @cached_property
    def _covered(self) -> frozenset[str]:
        return frozenset(self.covered)

    @cached_property
    def _unlisted(self) -> frozenset[str]:
        return frozenset(self.unlisted)


def frame_in(path: str) -> tuple[str, float] | None:
    """Return the video and the seconds that ``clip.mp4@12.0s`` stands for, or None."""
    video, _, time = path.rpartition("@")
    if not video or not time.endswith("s"):
        return None
    digits = time[:-1]
    if not digits.replace(".", "", 1).isascii() or not digits.replace(".", "", 1).isdigit():
        return None
    return video, float(digits)


def is_relative_path(path: Any) -> bool:
    """Return whether a value is the path of an image inside a collection's root."""
    if not isinstance(path, str) or not path or "\0" in path or path.startswith("/"):
        return False
    if ".." in PurePosixPath(path).parts:
        return False
    if os.name == "nt":
        pure = PureWindowsPath(path)
        return not pure.drive and not pure.root and ".." not in pure.parts
    return True


def is_whole_machine(root: Path) -> bool:
    """Return whether a collection's root is ``/``, inside of which every file is.

    On Windows, a drive is the root of its own files alone.
    """
    return os.name == "posix" and root == Path("/")


def printable(path: str) -> str:
    """Return a path with escapes for what is not Unicode."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def relative_path(path: Path, root: Path) -> str:
    """Return a path relative to `root`, with forward slashes; "" for `root` itself."""
    relative = path.relative_to(root).as_posix()
    return "" if relative == "." else relative


def _within(path: str, folders: frozenset[str]) -> bool:
    """Return whether a path is one of `folders`, or inside one; a video holds its frames."""
    if not folders:
        return False
    if "" in folders or path in folders:
        return True
    frame = frame_in(path)
    if frame is not None and frame[0] in folders:
        return True
    return any(str(parent) in folders for parent in PurePosixPath(path).parents)
