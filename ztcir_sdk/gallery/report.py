"""What indexing a collection did, and its sentences."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ztcir_sdk.names import TAR_SUFFIXES
from ztcir_sdk.picture_formats import IMAGE_SUFFIXES
from ztcir_sdk.sources import Failure, Listing, Source, printable

__all__ = [
    "IndexReport",
    "excluded_sentence",
    "no_image_sentence",
    "skipped_sentence",
    "source_name",
]

MAX_KINDS = 12
"""Suffixes that a sentence names."""


@dataclass(frozen=True)
class IndexReport:
    """What `build_index` did, in numbers of images."""

    added: int
    """New images, including further copies of known ones."""
    updated: int
    """Images whose content or metadata changed."""
    renamed: int
    """Images found under another path."""
    removed: int
    """Images that no longer exist or can no longer be used."""
    unchanged: int
    """Images that did not change."""
    failed: list[Failure]
    """Path and sentence of each unusable file, ordered by path."""
    seconds: float
    """Duration of the call."""
    total: int
    """Images in the index now."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Files that are no images, or cannot be read here: number by suffix, in lower case. Files
    left out are counted as "hidden" and "excluded"."""
    excluded: list[str] = field(default_factory=list)
    """Paths of folders that were left out."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what else can be done, such as how to read the skipped files."""
    ignored_metadata: list[Failure] = field(default_factory=list)
    """Path and sentence of each image whose JSON is not used; the image itself is indexed."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `failed` and `ignored_metadata` as objects of `path` and `error`."""
        named = {"failed": self.failed, "ignored_metadata": self.ignored_metadata}
        objects = {
            name: [{"path": path, "error": sentence} for path, sentence in some]
            for name, some in named.items()
        }
        return {**asdict(self), **objects}


def skipped_sentence(skipped: Mapping[str, int]) -> str:
    """Return "skipped 4 files: .mov 2, .psd 2", the most frequent first."""
    kinds = sorted(skipped.items(), key=lambda one: (-one[1], one[0]))
    shown = [f"{kind} {count}" for kind, count in kinds[:MAX_KINDS]]
    if rest := sum(count for _, count in kinds[MAX_KINDS:]):
        shown.append(f"others {rest}")
    total = sum(skipped.values())
    return f"skipped {total} {'file' if total == 1 else 'files'}: {', '.join(shown)}"


def excluded_sentence(excluded: Sequence[str]) -> str:
    """Return "left out 3 folders: @eaDir 2, .git 1"."""
    names = Counter(PurePosixPath(path).name for path in excluded)
    shown = [f"{name} {count}" for name, count in names.most_common(MAX_KINDS)]
    if len(names) > MAX_KINDS:
        shown.append("others")
    total = len(excluded)
    return f"left out {total} {'folder' if total == 1 else 'folders'}: {', '.join(shown)}"


def no_image_sentence(source: Source, listing: Listing) -> str:
    """Return why there is nothing to index in a source."""
    name = source_name(source)
    if listing.failed:
        return f"{name} has no usable image; {listing.failed[0][1]}"
    if listing.formats:
        fixes = " ".join(listing.fixes)
        return f"{name} has no image that can be read here: {_skipped(listing)}. {fixes}"
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    hint = ""
    if any(listing.skipped[suffix] for suffix in TAR_SUFFIXES):
        hint = "; to index the tar archives in it, name them"
    what = f" ({_skipped(listing)})" if listing.skipped else ""
    return f"{name} has no image, which is a file that ends in {suffixes}{what}{hint}."


def source_name(source: Source) -> str:
    """Return a source as a sentence names it."""
    if isinstance(source, str | os.PathLike):
        return printable(os.fspath(source))
    return f"{printable(os.fspath(source[0]))} and {len(source) - 1} more"


def _skipped(listing: Listing) -> str:
    return skipped_sentence(listing.skipped)
