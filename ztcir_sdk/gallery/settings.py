"""What is indexed of a collection, and what may be removed: keywords and their checks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from msgspec.structs import replace

from ztcir_sdk.errors import UsageError, ZtcirError, check_choice
from ztcir_sdk.names import STORAGES
from ztcir_sdk.sources import CollectionRules, MetadataTable
from ztcir_sdk.sources.rules import check_pattern

__all__ = ["IndexOptions", "IndexSettings"]


class IndexOptions(TypedDict, total=False):
    """Keywords of `Retriever.index`.

    The index remembers all but the last three; None, the default, takes what it remembers.

    Attributes:
        exclude: patterns of files and folders to leave out, as in ``.gitignore``: without a slash
            they are compared with every name, with a slash they are paths from the collection's
            root.
        include: patterns of the files to index, and no others.
        default_excludes: leave out hidden names, bins, and folders of thumbnails; see
            `DEFAULT_EXCLUDES`. True at first.
        video_every: seconds between the frames that are indexed of each video; 0, the default at
            first, leaves videos out.
        metadata: a CSV, TSV or Parquet file with a row for each image, which becomes its metadata.
            A column such as "path", "filename" or "id" names the images. An empty text: none.
        storage: how vectors are stored: "f32" keeps every bit (the default at first); "f16" and
            "i8" take half the space, and "i8" is searched fastest without a graph. An index of
            another storage is converted.
        add: allow a source outside the index's collection, which is then added to it.
        prune: allow to remove more than half of the index.
        root: folder of the images on this machine, for files of vectors that were written on
            another one.
    """

    exclude: Sequence[str] | None
    include: Sequence[str] | None
    default_excludes: bool | None
    video_every: float | None
    metadata: str | os.PathLike[str] | None
    storage: str | None
    add: bool
    prune: bool
    root: str | os.PathLike[str] | None


@dataclass(frozen=True)
class IndexSettings:
    """The values of `IndexOptions`.

    Raises:
        UsageError: `video_every` is negative or no number, a pattern is not one, or there is no
            such storage.
    """

    exclude: Sequence[str] | None = None
    include: Sequence[str] | None = None
    default_excludes: bool | None = None
    video_every: float | None = None
    metadata: str | os.PathLike[str] | None = None
    storage: str | None = None
    add: bool = False
    prune: bool = False
    root: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        every = self.video_every
        if every is not None and not (every == 0 or (math.isfinite(every) and every >= 0.001)):
            raise UsageError(
                f"--video-every (video_every) must be 0 or at least 0.001 seconds, not {every:g}."
            )
        if self.storage is not None:
            check_choice("storage", self.storage, STORAGES)
        for name in ("exclude", "include"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} must be a list of patterns, not a text.")
            for pattern in filter(None, getattr(self, name) or ()):
                check_pattern(pattern)

    def metadata_table(self, remembered: str, index: Path) -> MetadataTable | None:
        """Read the table of metadata that is given, else the one that the index remembers.

        Args:
            remembered: its path relative to the index, or "".
            index: the index's folder.
        """
        if self.metadata is not None:
            given = os.fspath(self.metadata)
            return MetadataTable.read(Path(os.path.abspath(given))) if given else None  # noqa: PTH100
        if not remembered:
            return None
        path = Path(os.path.normpath(index.resolve() / remembered))
        if not path.is_file():
            raise ZtcirError(
                f"The table of metadata {path} does not exist: name it with --metadata, or pass "
                "--metadata '' to go on without one."
            )
        return MetadataTable.read(path)

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
