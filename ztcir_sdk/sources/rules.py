"""What a collection leaves out: patterns of the user, and folders that never hold its images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["DEFAULT_EXCLUDES", "CollectionRules"]

DEFAULT_EXCLUDES = (
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "@eaDir",
    "@Recently-Snapshot",
    "@Recycle",
    "__MACOSX",
    "lost+found",
    "node_modules",
    "RECYCLER",
    "System Volume Information",
    "Thumbs",
)
"""Folders that are left out, in upper or lower case, beside hidden ones: bins, snapshots, and
thumbnails of file servers and systems."""

_BY_NAME = frozenset(name.casefold() for name in DEFAULT_EXCLUDES)


class CollectionRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Which files of a collection are indexed. An index remembers them.

    A pattern is one of ``.gitignore``: without a slash it is compared with every file and folder
    name, with a slash it is a path from the collection's root; ``**`` stands for any folders. Upper
    and lower case differ.
    """

    exclude: tuple[str, ...] = ()
    """Patterns of what is left out."""
    include: tuple[str, ...] = ()
    """Patterns of what is indexed, and nothing else; all images if there are none."""
    default_excludes: bool = True
    """Whether `DEFAULT_EXCLUDES` and hidden names are left out."""
    video_every: float = 0.0
    """Seconds between the frames of a video that are indexed; 0: no videos."""

    def leaves_out_folder(self, below: str, path: str) -> bool:
        """Return whether a folder is not entered.

        Args:
            below: path relative to the source that is listed.
            path: path relative to the collection's root.
        """
        name = below.rpartition("/")[2]
        if self.default_excludes and (name.startswith(".") or name.casefold() in _BY_NAME):
            return True
        return _matches(self.exclude, f"{below}/", f"{path}/")

    def leaves_out_file(self, below: str, path: str) -> str | None:
        """Return "hidden" or "excluded" for a file that is left out, else None."""
        if self.default_excludes and below.rpartition("/")[2].startswith("."):
            return "hidden"
        if _matches(self.exclude, below, path):
            return "excluded"
        if self.include and not _matches(self.include, below, path):
            return "excluded"
        return None

    def within(self, folder: str) -> CollectionRules:
        """Return the rules for a collection whose root is now called `folder` in a larger one."""
        escaped = re.sub(r"([\\*?\[\]! ])", r"\\\1", folder)

        def moved(pattern: str) -> str:
            if "/" not in pattern.rstrip("/"):
                return pattern
            return f"/{escaped}/{pattern.lstrip('/')}"

        return CollectionRules(
            tuple(map(moved, self.exclude)),
            tuple(map(moved, self.include)),
            self.default_excludes,
            self.video_every,
        )


def _matches(patterns: Sequence[str], below: str, path: str) -> bool:
    if not patterns:
        return False
    names, paths = _compiled(tuple(patterns))
    return names.match_file(below) or paths.match_file(path)


@lru_cache(maxsize=16)
def _compiled(patterns: tuple[str, ...]) -> tuple[GitIgnoreSpec, GitIgnoreSpec]:
    """Return the patterns without a slash, and those with one."""
    from pathspec import GitIgnoreSpec  # a search needs none

    # "#recycle" is a name here, and "!x" too: neither a comment nor an exception.
    escaped = [f"\\{one}" if one.startswith(("#", "!")) else one for one in patterns]
    paths = [one for one in escaped if "/" in one.rstrip("/")]
    names = [one for one in escaped if "/" not in one.rstrip("/")]
    return GitIgnoreSpec.from_lines(names), GitIgnoreSpec.from_lines(paths)
