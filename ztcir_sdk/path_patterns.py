"""Path patterns as a shell expands them, for arguments that the shell has left as they are."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from ztcir_sdk.errors import UsageError

__all__ = ["expand_paths"]


def expand_paths(patterns: Sequence[str]) -> list[Path]:
    """Return the paths that patterns such as ``val-{0000..0007}.tar`` and ``*.tar`` stand for.

    A path that exists is taken as it is, whatever characters it has. A path without wildcards is
    returned even if it does not exist: whoever opens it reports that.

    Args:
        patterns: paths, brace patterns, and patterns with ``*``, ``?``, ``[...]`` or ``**``.

    Raises:
        UsageError: wildcards match nothing.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for name in [pattern] if Path(pattern).exists() else _expand_braces(pattern):
            if Path(name).exists() or not glob.has_magic(name):
                paths.append(Path(name))
                continue
            found = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207  (a whole path)
            if not found:
                raise UsageError(f"Nothing matches {name!r}; check the path.")
            paths += found
    return list(dict.fromkeys(paths))


def _expand_braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern, escape=False))  # on Windows a backslash divides folders
    except ValueError:  # unbalanced braces
        return [pattern]
