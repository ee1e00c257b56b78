"""Listing what a user names: folders, archives, image files, and several of them."""

from __future__ import annotations

import os
from pathlib import Path

from ztcir_sdk.errors import MissingDependencyError, UsageError, ZtcirError, install_hint
from ztcir_sdk.names import is_tar
from ztcir_sdk.picture_formats import FORMATS, IMAGE_SUFFIXES, format_of, is_readable
from ztcir_sdk.sources.archives import list_archive
from ztcir_sdk.sources.folders import list_file, list_folder
from ztcir_sdk.sources.listing import Listing, Source, is_whole_machine, printable
from ztcir_sdk.sources.rules import CollectionRules

__all__ = ["list_images"]


def list_images(
    source: Source,
    *,
    root: Path | None = None,
    skip: Path | None = None,
    rules: CollectionRules | None = None,
    widen: bool = False,
) -> Listing:
    """List every image of a source, without reading any, and account for all other files.

    In a folder, these are the files with an image's suffix at any depth. Hidden names and
    ``*.ztcir`` are left out, links are followed, and no folder is entered twice.

    Args:
        source: a folder, an archive (``.tar``, ``.tar.gz``, ``.tgz``) or an image file, or several.
        root: folder that paths are relative to, if it contains all of `source`; by default the
            nearest folder that does.
        skip: a folder to leave out.
        rules: what else to leave out, and whether videos are read.
        widen: if `root` does not contain all of `source`, use the nearest folder that contains
            both.

    Raises:
        ZtcirError: a file or folder of `source` does not exist or has an unknown suffix.
        UsageError: `source` is empty, or has no folder in common.
        MissingDependencyError: videos are asked for, and PyAV is not installed.
    """
    rules = CollectionRules() if rules is None else rules
    _require_video_reader(rules)
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not given:
        raise UsageError("There is nothing to index: name a folder, tar archives or image files.")
    paths = [Path(os.path.abspath(path)) for path in given]  # noqa: PTH100  (links stay)
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110  (False if access is denied)
            raise ZtcirError(f"{printable(str(path))} does not exist: check the path.")
    # What is named for itself is not counted again in its folder.
    apart = {path for path in paths if not path.is_dir()} | ({skip} if skip else set())
    listing = Listing(_common_root(paths, root, widen=widen))
    for path in paths:
        if path.is_dir():
            list_folder(path, listing, rules, apart)
        elif is_tar(path.name):
            list_archive(path, listing, rules)
        elif format_of(path) is not None:
            listing.files += list_file(path, listing, rules)
        else:
            raise ZtcirError(
                f"{printable(str(path))} is not a folder, a tar archive or an image file: images "
                f"end in {', '.join(sorted(IMAGE_SUFFIXES))}."
            )
    listing.files = list({file.path: file for file in listing.files}.values())
    return listing


def _common_root(paths: list[Path], root: Path | None, *, widen: bool) -> Path:
    parents = [path if path.is_dir() else path.parent for path in paths]
    try:
        found = Path(os.path.commonpath(parents))
        if root is not None and found.is_relative_to(root):
            found = root
        elif root is not None and widen:
            found = Path(os.path.commonpath([root, found]))
    except ValueError:
        raise UsageError(
            "The sources are on different drives: index each drive on its own."
        ) from None
    if is_whole_machine(found):
        raise UsageError(
            f"The sources have only {found} in common, and an index of that would stand for every "
            "file of this machine: name folders that have another folder in common."
        )
    return found


def _require_video_reader(rules: CollectionRules) -> None:
    if rules.video_every and not all(is_readable(one) for one in FORMATS if one.is_video):
        raise MissingDependencyError(
            f"Frames of videos need the package av: {install_hint('video')}; or index without "
            "them, with --video-every 0."
        )
