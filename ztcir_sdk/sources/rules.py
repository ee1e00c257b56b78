"""What a collection leaves out: patterns of the user, and folders that never hold its images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from ztcir_sdk.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["DEFAULT_EXCLUDES", "CollectionRules", "check_pattern"]

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

    def leaves_out_metadata(self, below: str, path: str) -> bool:
        """Return whether JSON beside images is not read; `include` is about images alone."""
        if self.default_excludes and below.rpartition("/")[2].startswith("."):
            return True
        return _matches(self.exclude, below, path)

    def within(self, folder: str) -> CollectionRules:
        """Return the rules for a collection whose root is now called `folder` in a larger one."""

        def changed(pattern: str) -> str:
            if "/" not in pattern.rstrip("/"):
                return pattern
            return f"/{_escaped(folder)}/{pattern.lstrip('/')}"

        return self._with(changed)

    def moved(self, old: str, new: str) -> CollectionRules:
        """Return the rules for a collection in which the folder `old` is now `new`."""

        def changed(pattern: str) -> str:
            inside = f"{_escaped(old)}/"
            if not pattern.lstrip("/").startswith(inside):
                return pattern
            return f"/{_escaped(new)}/{pattern.lstrip('/')[len(inside) :]}"

        return self._with(changed)

    def _with(self, changed: Callable[[str], str]) -> CollectionRules:
        return CollectionRules(
            tuple(map(changed, self.exclude)),
            tuple(map(changed, self.include)),
            self.default_excludes,
            self.video_every,
        )


def check_pattern(pattern: str) -> None:
    """Raise unless a pattern is one of ``.gitignore``.

    Raises:
        UsageError: it can match nothing, for example because a bracket is not closed.
    """
    try:
        compiled = [one.regex for spec in _compiled((pattern,)) for one in spec.patterns]
    except ValueError:  # pathspec's own error is one
        compiled = [None]
    except re.error:
        compiled = [None]
    if None in compiled:
        raise UsageError(
            f"{pattern!r} is not a pattern of --exclude or --include: close its brackets, or write "
            "\\[ for the character itself."
        )


def _escaped(folder: str) -> str:
    return re.sub(r"([\\*?\[\]! ])", r"\\\1", folder)


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
