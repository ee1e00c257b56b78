"""What is indexed of a collection, and what may be removed: keywords and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from msgspec.structs import replace

from ztcir_sdk.errors import UsageError
from ztcir_sdk.sources import CollectionRules

__all__ = ["IndexOptions", "IndexSettings"]


class IndexOptions(TypedDict, total=False):
    """Keywords of `Retriever.index`.

    The index remembers the first four; None, the default, takes what it remembers.

    Attributes:
        exclude: patterns of files and folders to leave out, as in ``.gitignore``: without a slash
            they are compared with every name, with a slash they are paths from the collection's
            root.
        include: patterns of the files to index, and no others.
        default_excludes: leave out hidden names, bins, and folders of thumbnails; see
            `DEFAULT_EXCLUDES`. True at first.
        video_every: seconds between the frames that are indexed of each video; 0, the default at
            first, leaves videos out.
        add: allow a source outside the index's collection, which is then added to it.
        prune: allow to remove more than half of the index.
    """

    exclude: Sequence[str] | None
    include: Sequence[str] | None
    default_excludes: bool | None
    video_every: float | None
    add: bool
    prune: bool


@dataclass(frozen=True)
class IndexSettings:
    """The values of `IndexOptions`.

    Raises:
        UsageError: `video_every` is negative, or no number.
    """

    exclude: Sequence[str] | None = None
    include: Sequence[str] | None = None
    default_excludes: bool | None = None
    video_every: float | None = None
    add: bool = False
    prune: bool = False

    def __post_init__(self) -> None:
        every = self.video_every
        if every is not None and not (every == 0 or (math.isfinite(every) and every >= 0.001)):
            raise UsageError(f"video_every must be 0 or at least 0.001 seconds, not {every}.")
        for name in ("exclude", "include"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} must be a list of patterns, not a text.")

    def rules(self, remembered: CollectionRules | None) -> CollectionRules:
        """Return the rules of an index, with what is given in place of what it remembers."""
        rules = CollectionRules() if remembered is None else remembered
        if self.exclude is not None:
            rules = replace(rules, exclude=tuple(filter(None, self.exclude)))
        if self.include is not None:
            rules = replace(rules, include=tuple(filter(None, self.include)))
        if self.default_excludes is not None:
            rules = replace(rules, default_excludes=self.default_excludes)
        if self.video_every is not None:
            rules = replace(rules, video_every=float(self.video_every))
        return rules
