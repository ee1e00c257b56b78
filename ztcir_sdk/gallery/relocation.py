"""The new place of a collection that was moved, entered into its index."""

from __future__ import annotations

import os
from pathlib import Path

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.sources import Listing, printable

__all__ = ["relocate_index"]


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
    folder = Path(os.path.abspath(root))  # noqa: PTH100  (links stay)
    if not folder.is_dir():
        raise ZtcirError(f"{printable(str(folder))} is not a folder: name the collection's root.")
    index = Index.open(path, image_tower=None)
    there = Listing(folder)
    found = total = 0
    missing = ""
    for item in index.items():
        total += 1
        if there.exists(item.path):
            found += 1
        else:
            missing = missing or item.path
    if 2 * found < total and not prune:
        raise ZtcirError(
            f"{printable(str(folder))} has {found} of the {total} images of {index.path}, and not "
            f"{missing}, for one: name the folder that was {printable(str(index.root))} before, "
            "or pass --prune."
        )
    with index.edit() as writer:
        writer.set_origin(root=folder)
    return found, total
