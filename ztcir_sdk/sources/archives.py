"""The images of a tar archive, with their metadata; archives are read in place, never unpacked."""

from __future__ import annotations

import posixpath
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ztcir_sdk.errors import reason_of
from ztcir_sdk.names import is_plain_tar
from ztcir_sdk.picture_formats import format_of, is_readable
from ztcir_sdk.sources.listing import (
    Listing,
    SourceFile,
    printable,
    relative_path,
    tar_errors,
)
from ztcir_sdk.sources.metadata import MAX_METADATA_BYTES
from ztcir_sdk.sources.metadata_files import is_metadata, metadata_names, too_large
from ztcir_sdk.sources.rules import CollectionRules
from ztcir_sdk.sources.tar_reader import open_tar

__all__ = ["list_archive"]


@dataclass
class _Member:
    """A regular file of an archive."""

    offset: int
    size: int
    is_sparse: bool
    text: bytes | None = None
    """Content of a JSON file in a compressed archive, compressed with zlib."""


@dataclass
class _Members:
    """What an archive holds, by path; the last one of a path counts, as when it is unpacked."""

    files: dict[str, _Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Path -> the path that a hard or symbolic link leads to."""

    def find(self, path: str) -> _Member | None:
        """Return the file at a path, through links."""
        for _ in range(40):  # as many as Linux follows
            if path not in self.links:
                return self.files.get(path)
            path = self.links[path]
        return None


def list_archive(path: Path, listing: Listing, rules: CollectionRules) -> None:
    """Add the images of an archive to a listing, and account for its other members."""
    relative = relative_path(path, listing.root)
    listing.covered.append(relative)
    if printable(relative) != relative:
        listing.fail(relative, f"The name {printable(relative)} is not Unicode: rename the file.")
        return
    members = _Members()
    mtime_ns = 0
    try:
        status = path.stat()
        mtime_ns = status.st_mtime_ns
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        _read_members(path, members)
    except tar_errors() as error:
        why = reason_of(error)
        listing.fail(relative, f"The archive {relative} cannot be read to its end ({why}).")
        listing.unlisted.append(relative)
    _add_images(path, mtime_ns, members, listing, rules)


def _read_members(path: Path, members: _Members) -> None:
    # Metadata of an uncompressed tar is read later; a compressed one is read once, from the start.
    plain = is_plain_tar(path.name)
    with open_tar(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name.lstrip("/")).as_posix()
            members.files.pop(name, None)
            members.links.pop(name, None)
            if member.islnk():
                members.links[name] = PurePosixPath(member.linkname.lstrip("/")).as_posix()
            elif member.issym():
                target = posixpath.join(posixpath.dirname(name), member.linkname)
                members.links[name] = posixpath.normpath(target)
            elif member.isreg():
                found = _Member(member.offset_data, member.size, member.issparse())
                small = member.size <= MAX_METADATA_BYTES and not found.is_sparse
                if not plain and is_metadata(name) and small:
                    stream = archive.extractfile(member)
                    # Compressed: an archive can expand a thousandfold, its texts in memory not.
                    data = b"" if stream is None else stream.read(MAX_METADATA_BYTES)
                    found.text = zlib.compress(data, 1)
                members.files[name] = found


def _add_images(
    path: Path, mtime_ns: int, members: _Members, listing: Listing, rules: CollectionRules
) -> None:
    relative = relative_path(path, listing.root)
    texts: dict[str, str] = {}  # name without suffix -> the JSON's name
    images: list[str] = []
    left_out: set[str] = set()
    for name in [*members.files, *members.links]:
        if _is_text(name, f"{relative}/{name}", rules):
            texts[name[: -len(".json")]] = name
        elif (kind := _left_out(name, f"{relative}/{name}", rules)) is not None:
            if kind == "folder":
                left_out.add(f"{relative}/{PurePosixPath(name).parent}")
            else:
                listing.skipped[kind] += 1
        elif (picture_format := format_of(name)) is None or picture_format.is_video:
            listing.skip(name)
        elif not is_readable(picture_format):
            listing.skip_format(f"{relative}/{name}", picture_format)
        else:
            images.append(name)
    listing.excluded += sorted(map(printable, left_out))
    used: set[str] = set()
    order = {name: place for place, name in enumerate(members.files)}
    for name in sorted(images, key=lambda one: order.get(one, len(order))):
        shown = printable(f"{relative}/{name}")
        member = members.find(name)
        if member is None:
            listing.fail(
                shown,
                f"{shown} is a link to {printable(members.links[name])}, which is "
                "not in the archive.",
            )
        elif ".." in PurePosixPath(name).parts or printable(name) != name or member.is_sparse:
            listing.fail(shown, f"{shown} has a name or type that cannot be indexed.")
        else:
            text_name = _text_of(name, texts)
            used.add(text_name or "")
            text = None if text_name is None else members.find(text_name)
            metadata, error = _metadata(text, shown, compressed=not is_plain_tar(path.name))
            listing.files.append(
                SourceFile(
                    f"{relative}/{name}",
                    member.size,
                    mtime_ns,
                    path,
                    member.offset,
                    metadata,
                    error,
                )
            )
    for name in texts.values():
        if name not in used:
            kind = rules.leaves_out_file(name, f"{relative}/{name}")
            if kind is None:
                listing.skip(name)
            else:
                listing.skipped[kind] += 1


def _is_text(name: str, path: str, rules: CollectionRules) -> bool:
    """Return whether a member is JSON that may belong to an image."""
    if not is_metadata(name) or _left_out_folder(name, path, rules):
        return False
    return not rules.leaves_out_metadata(name, path)


def _left_out(name: str, path: str, rules: CollectionRules) -> str | None:
    """Return "folder", "hidden" or "excluded" for a member that is left out, else None."""
    return "folder" if _left_out_folder(name, path, rules) else rules.leaves_out_file(name, path)


def _left_out_folder(name: str, path: str, rules: CollectionRules) -> bool:
    above = [str(parent) for parent in PurePosixPath(name).parents if str(parent) != "."]
    root = path.removesuffix(f"/{name}")
    return any(
        rules.leaves_out_folder(folder, f"{root}/{folder}")
        for folder in above
        if PurePosixPath(folder).name != ".."
    )


def _text_of(name: str, texts: dict[str, str]) -> str | None:
    return next((texts[key] for key in metadata_names(name) if key in texts), None)


def _metadata(
    text: _Member | None, shown: str, *, compressed: bool
) -> tuple[tuple[int, int] | bytes | None, str | None]:
    if text is None:
        return None, None
    if text.size > MAX_METADATA_BYTES:
        return None, too_large(shown, text.size)
    return (text.text if compressed else (text.offset, text.size)), None
