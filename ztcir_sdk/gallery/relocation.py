"""The new place of a collection, or of a folder of it, that was moved, entered into its index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.gallery.targets import AnyIndex, open_any
from ztcir_sdk.index import Item
from ztcir_sdk.sources import CollectionRules, Listing, printable

__all__ = ["missing_folder", "move_folder", "parse_move", "relocate_index"]


def parse_move(text: str) -> tuple[str | None, str]:
    """Return the old and the new folder of ``OLD=NEW``, or None and a new root.

    A folder that exists is a root, whatever characters its name has.

    Raises:
        UsageError: one of the two is empty.
    """
    if "=" not in text or Path(text).is_dir():
        return None, text
    splits = [at for at, char in enumerate(text) if char == "="]
    pairs = [(text[:at], text[at + 1 :]) for at in splits]
    old, new = next((pair for pair in pairs if Path(pair[1]).is_dir()), pairs[0])
    if not old or not new:
        raise UsageError(f"{text!r} is not OLD=NEW: name the folder's old and its new path.")
    return old, new


def relocate_index(
    path: str | os.PathLike[str], root: str | os.PathLike[str], *, prune: bool = False
) -> tuple[int, int]:
    """Record that the root of an index's collection is another folder now; nothing is encoded.

    Args:
        path: the index.
        root: the folder that was the collection's root before it was moved.
        prune: accept a folder that has less than half of the images.

    Returns:
        The number of images that are there, and of all images of the index.

    Raises:
        ZtcirError: there is no such folder or index, or most of the images are not there.
    """
    folder = _folder(root)
    index = open_any(path, image_tower=None)
    found = _count(folder, (item.path for item in index.items()), index, index.root, prune=prune)
    with index.edit() as writer:
        writer.set_origin(root=folder)
    return found, len(index)


def move_folder(
    path: str | os.PathLike[str],
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    prune: bool = False,
) -> tuple[int, int]:
    """Record that one folder of an index's collection is another one now; nothing is encoded.

    Args:
        path: the index.
        old: the folder, or the archive, as it was; relative to the index's root or to the current
            folder.
        new: its new place. If it is outside of the root, the root grows to hold both.
        prune: accept a folder that has less than half of the images.

    Returns:
        The number of images that are there, and of all images of the folder.

    Raises:
        ZtcirError: there is no such folder or index, or most of the images are not there.
        UsageError: the index has no images of the old folder.
    """
    index = open_any(path, image_tower=None)
    inside = _inside(index, old)
    if inside == "":
        return relocate_index(path, new, prune=prune)
    target = Path(os.path.abspath(new))  # noqa: PTH100  (links stay)
    if not target.exists():
        raise ZtcirError(f"{printable(str(target))} does not exist: name the folder's new place.")
    moved = [item for item in index.items() if _is_within(item.path, inside)]
    below = [item.path[len(inside) + 1 :] for item in moved]
    shown = index.root / inside
    found = len(moved)  # an archive is opened when an image of it is read
    if not target.is_file():
        found = _count(target, below, index, shown, prune=prune)

    try:
        root = Path(os.path.commonpath([index.root, target]))
    except ValueError:
        raise UsageError(
            f"{target} is on another drive than {index.root}: index each drive on its own."
        ) from None
    grown = "" if root == index.root else index.root.relative_to(root).as_posix()
    place = target.relative_to(root).as_posix()
    with index.edit() as writer:
        rules = index.manifest.rules
        for item in _in_order(index.items(), longer=len(place) > len(inside) or bool(grown)):
            if _is_within(item.path, inside):
                renamed = f"{place}/{item.path[len(inside) + 1 :]}"
            else:
                renamed = f"{grown}/{item.path}" if grown else item.path
            if renamed != item.path:
                writer.amend(replace(item, path=renamed))
        writer.set_origin(root=root, rules=_moved_rules(rules, inside, place, grown))
    return found, len(moved)


def missing_folder(root: Path, paths: Iterable[str]) -> Path | None:
    """Return the folder that is missing and held all of some missing images; None if it exists."""
    parents = [PurePosixPath(path).parent for path in paths]
    if not parents:
        return None
    common = root / os.path.commonpath(parents)
    if common.exists():
        return None
    return next(
        folder for folder in (common, *common.parents) if folder.parent.exists() or folder == root
    )


def _folder(root: str | os.PathLike[str]) -> Path:
    folder = Path(os.path.abspath(root))  # noqa: PTH100  (links stay)
    if not folder.is_dir():
        raise ZtcirError(f"{printable(str(folder))} is not a folder: name the collection's root.")
    return folder


def _count(
    folder: Path, paths: Iterable[str], index: AnyIndex, before: Path, *, prune: bool
) -> int:
    """Return how many images are in a folder; refuse one that lacks most of them."""
    there = Listing(folder)
    found = total = 0
    missing = ""
    for path in paths:
        total += 1
        if there.exists(path):
            found += 1
        else:
            missing = missing or path
    if 2 * found < total and not prune:
        raise ZtcirError(
            f"{printable(str(folder))} has {found} of the {total} images of {index.path}, and not "
            f"{missing}, for one: name the folder that was {printable(str(before))} before, "
            "or pass --prune."
        )
    return found


def _inside(index: AnyIndex, old: str | os.PathLike[str]) -> str:
    """Return the path of an old folder from the index's root; "" for the root itself."""
    absolute = Path(os.path.abspath(old))  # noqa: PTH100
    candidates = (absolute, index.root / os.fspath(old), absolute.resolve())
    for candidate in candidates:
        path = Path(os.path.normpath(candidate))
        if path == index.root:
            return ""
        if path.is_relative_to(index.root):
            inside = path.relative_to(index.root).as_posix()
            if any(_is_within(item.path, inside) for item in index.items()):
                return inside
    raise UsageError(
        f"The index {index.path} has no images of {printable(os.fspath(old))}: name a folder in "
        f"{printable(str(index.root))}, its root."
    )


def _is_within(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _in_order(items: Iterable[Item], *, longer: bool) -> Iterator[Item]:
    """Yield items so that no new path is still in use by an item that is renamed later."""
    yield from sorted(items, key=lambda item: len(item.path), reverse=longer)


def _moved_rules(rules: CollectionRules, inside: str, place: str, grown: str) -> CollectionRules:
    moved = rules.moved(inside, place if not grown else inside)
    if not grown:
        return moved
    # Below the grown root the old patterns have a longer path, but for those of what has moved.
    return moved.within(grown).moved(f"{grown}/{inside}", place)
