"""The images of a folder, at any depth."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from ztcir_sdk.errors import reason_of
from ztcir_sdk.names import INDEX_SUFFIX
from ztcir_sdk.picture_formats import format_of, is_readable
from ztcir_sdk.sources.listing import Listing, SourceFile, printable, relative_path
from ztcir_sdk.sources.metadata_files import MetadataFiles, is_metadata
from ztcir_sdk.sources.rules import CollectionRules
from ztcir_sdk.sources.videos import list_video

__all__ = ["list_file", "list_folder"]


def list_folder(
    folder: Path, listing: Listing, rules: CollectionRules, skip: Collection[Path]
) -> None:
    """Add the images of a folder to a listing, and account for its other files.

    Links are followed, and no folder is entered twice. ``*.ztcir`` is left out, and so are the
    files and folders in `skip`, which are not counted.
    """
    listing.covered.append(relative_path(folder, listing.root))
    _Walk(folder, listing, rules, skip).run()


class _Walk:
    def __init__(
        self, folder: Path, listing: Listing, rules: CollectionRules, skip: Collection[Path]
    ) -> None:
        self._source = folder
        self._listing = listing
        self._rules = rules
        self._skip = skip
        # Links to folders come last: a folder that is also inside keeps its own path.
        self._folders = [folder]
        self._links: list[Path] = []
        self._entered: set[tuple[int, int]] = set()
        self._found: list[SourceFile] = []

    def run(self) -> None:
        while self._folders or self._links:
            self._enter(self._folders.pop() if self._folders else self._links.pop(0))
        self._listing.files += sorted(self._found, key=lambda file: file.path)

    def _enter(self, folder: Path) -> None:
        relative = relative_path(folder, self._listing.root)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._entered:
                return
            self._entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self._listing.fail(
                relative, f"The folder {printable(relative)} cannot be read ({reason_of(error)})."
            )
            self._listing.unlisted.append(relative)
            return
        below = relative_path(folder, self._source)

        def paths(name: str) -> tuple[str, str]:
            """Return a name's path below the source, and from the collection's root."""
            return (
                f"{below}/{name}" if below else name,
                f"{relative}/{name}" if relative else name,
            )

        texts = MetadataFiles(
            entry.name
            for entry in entries
            if is_metadata(entry.name)
            and not _is_folder(entry)
            and not self._rules.leaves_out_metadata(*paths(entry.name))
        )
        others: list[str] = []
        for entry in entries:
            if entry.name in texts.names:
                others.append(entry.name)  # counted below, unless it belongs to an image
            else:
                self._look_at(entry, *paths(entry.name), texts)
        for name in others:
            if name not in texts.used:
                self._count_text(folder / name, *paths(name))

    def _count_text(self, path: Path, below: str, relative: str) -> None:
        if path not in self._skip:
            kind = self._rules.leaves_out_file(below, relative)
            if kind is None:
                self._listing.skip(relative)
            else:
                self._listing.skipped[kind] += 1

    def _look_at(
        self, entry: os.DirEntry[str], below: str, relative: str, texts: MetadataFiles
    ) -> None:
        path = Path(entry.path)
        if path in self._skip:
            return
        if _is_folder(entry):
            if entry.name.lower().endswith(INDEX_SUFFIX):
                return
            if self._rules.leaves_out_folder(below, relative):
                self._listing.excluded.append(printable(relative))
            else:
                (self._links if entry.is_symlink() else self._folders).append(path)
        elif (kind := self._rules.leaves_out_file(below, relative)) is not None:
            self._listing.skipped[kind] += 1
        elif entry.is_symlink() and not os.path.exists(path):  # noqa: PTH110  (False in a circle)
            self._listing.fail(
                relative,
                f"The link {printable(relative)} leads to {printable(str(_link_target(path)))}, "
                "which does not exist: connect that disk, or remove the link.",
            )
            self._listing.unlisted.append(relative)
        else:
            self._found += list_file(path, self._listing, self._rules, texts)


def list_file(
    path: Path,
    listing: Listing,
    rules: CollectionRules,
    texts: MetadataFiles | None = None,
) -> list[SourceFile]:
    """Return the image of a file, or the frames of a video; count or name any other file.

    `texts` are the JSON files in its folder; by default they are looked for.
    """
    relative = relative_path(path, listing.root)
    picture_format = format_of(path)
    if picture_format is None or (picture_format.is_video and not rules.video_every):
        listing.skip(relative)
        return []
    if printable(relative) != relative:
        listing.fail(relative, f"The name {printable(relative)} is not Unicode: rename the file.")
        return []
    if not is_readable(picture_format):
        listing.skip_format(relative, picture_format)
        return []
    try:
        status = path.stat()
    except OSError as error:
        listing.fail(relative, f"{relative} cannot be read ({reason_of(error)}).")
        listing.unlisted.append(relative)
        return []
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        listing.fail(relative, f"{relative} is not a regular file.")
        return []
    file = SourceFile(relative, status.st_size, status.st_mtime_ns, path)
    if picture_format.is_video:
        return list_video(file, rules.video_every, listing)
    texts = MetadataFiles.beside(path) if texts is None else texts
    return [texts.add_to(file)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _link_target(path: Path) -> Path:
    try:
        return path.readlink()
    except OSError:
        return path
