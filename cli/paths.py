"""Sources as they are typed: a brace pattern or a glob that the shell has left as it is."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

__all__ = ["expand"]

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(patterns: Sequence[str]) -> list[Path]:
    """Return the paths that are named: ``val-{0000..0001}.tar``, ``{a,b}.tar``, ``*.tar``, plain.

    A path that is there is taken as it is, whatever characters are in it.

    Raises:
        click.BadParameter: a glob matches nothing.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for one in [pattern] if Path(pattern).exists() else _expand_braces(pattern):
            if Path(one).exists() or not glob.has_magic(one):
                paths.append(Path(one))  # what is missing is told by whoever opens it
                continue
            found = sorted(map(Path, glob.glob(one, recursive=True)))  # noqa: PTH207  (a whole path)
            if not found:
                raise click.BadParameter(f"Nothing matches {one!r}.")
            paths += found
    return list(dict.fromkeys(paths))


def _expand_braces(pattern: str) -> Iterator[str]:
    """Expand as bash does: every combination, the last braces fastest."""
    parts = _BRACES.split(pattern)  # plain, choices, plain, choices, ..., plain
    choices = [[part] if place % 2 == 0 else _choices(part) for place, part in enumerate(parts)]
    for combination in itertools.product(*choices):
        yield "".join(combination)


def _choices(inside: str) -> list[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = match.groups()
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    if "," in inside:
        return inside.split(",")
    return [f"{{{inside}}}"]  # not a pattern
