"""Arguments of a command line: which of them are pictures, and which are words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ztcir_sdk.errors import ImageError, UsageError
from ztcir_sdk.picture_formats import is_image
from ztcir_sdk.sources import image_exists

__all__ = ["split_arguments"]

_ADDRESS = re.compile(r"(?:file|https?)://", re.IGNORECASE)
_PLAIN_PATH = re.compile(r"[\w.~/\\-]+")
_PATH_START = re.compile(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide arguments into pictures and words.

    An existing file, ``-`` and an address are pictures. What is no file and does not look like a
    path is words.

    Raises:
        ImageError: an argument is clearly a path, and there is no such file.
        UsageError: an argument may be either.
    """
    pictures: list[str] = []
    words: list[str] = []
    for argument in arguments:
        (pictures if _is_picture(argument) else words).append(argument)
    return pictures, words


def _is_picture(argument: str) -> bool:
    if argument == "-" or _ADDRESS.match(argument):
        return True
    path = Path(argument)
    has_separator = os.sep in argument or "/" in argument
    if _exists(path):
        if not has_separator and not path.suffix:
            raise UsageError(
                f"{argument!r} is a file here, and may be words too: write --image {argument!r} "
                f"for the picture, or --text {argument!r} for the words."
            )
        return True
    if _PATH_START.match(argument) or (is_image(argument) and not re.search(r"\s\S*\s", argument)):
        raise ImageError(f"{argument} does not exist: check the path.")
    if has_separator and _PLAIN_PATH.fullmatch(argument):
        raise UsageError(
            f"{argument!r} is no file here, and may be a path or words: write --image "
            f"{argument!r} for a picture, or --text {argument!r} for words."
        )
    return False


def _exists(path: Path) -> bool:
    try:
        return path.exists() or image_exists(path)
    except (OSError, ValueError):  # too long, or with a null character: words
        return False
