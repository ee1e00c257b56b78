"""Remove images from an index; their files stay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.filters import parse_filter
from ztcir_sdk.gallery.targets import AnyIndex
from ztcir_sdk.sources import printable

__all__ = ["remove_images"]


def remove_images(
    index: AnyIndex,
    paths: Sequence[str | os.PathLike[str]] = (),
    *,
    where: str | None = None,
    prune: bool = False,
) -> int:
    """Remove images from an index, and return their number.

    Args:
        index: an open index.
        paths: images and folders, relative to the collection's root or to the current folder, or
            absolute.
        where: a filter; with `paths`, only images among them that satisfy it are removed.
        prune: allow to remove more than half of the index.

    Raises:
        UsageError: nothing is named, or the filter does not fit the index.
        ZtcirError: a path is not in the index, or more than half would be removed.
    """
    if not paths and where is None:
        raise UsageError(
            "Name what to remove: paths of images or folders, or a filter with --where."
        )
    parsed = None if where is None else parse_filter(where)
    satisfied = None if parsed is None else set(index.labels_where(parsed).tolist())
    wanted = {name: _names(index, Path(name)) for name in (os.fspath(path) for path in paths)}
    found: set[str] = set()
    matched: set[str] = set()
    count = 0
    for item in index.items():
        count += 1
        hit = not wanted
        for name, candidates in wanted.items():
            if any(_is_in(item.path, one) for one in candidates):
                matched.add(name)
                hit = True
        if hit and (satisfied is None or item.label in satisfied):
            found.add(item.path)
    if missing := sorted(wanted.keys() - matched):
        raise ZtcirError(
            f"{printable(missing[0])} is not in the index {index.path}: paths are relative to "
            f"{printable(str(index.root))}."
        )
    if 2 * len(found) > count and not prune:
        raise ZtcirError(
            f"This would remove {len(found)} of the {count} images of {index.path}: pass --prune "
            "if that is intended."
        )
    if found:
        with index.edit() as writer:
            for path in sorted(found):
                writer.remove(path)
    return len(found)


def _names(index: AnyIndex, path: Path) -> set[str]:
    """Return the paths in the index that a path can mean; "." is the whole collection."""
    names = set() if path.is_absolute() else {path.as_posix()}
    root = os.path.abspath(index.root)  # noqa: PTH100  (links stay)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    if absolute.is_relative_to(root):
        names.add(absolute.relative_to(root).as_posix())
    return names


def _is_in(path: str, place: str) -> bool:
    return place in (".", path) or path.startswith(f"{place}/")
