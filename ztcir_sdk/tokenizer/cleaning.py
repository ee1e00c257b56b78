"""The cleaning of texts before they are tokenized, as open_clip does it."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["CLEANINGS", "canonicalize", "clean", "is_plain"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_plain(text: str) -> bool:
    """Return whether a text has nothing that `ftfy` or HTML could change: printable ASCII alone."""
    return text.isascii() and text.isprintable() and "&" not in text


def _repair(text: str) -> str:
    """Undo mojibake and HTML entities."""
    if is_plain(text):
        return text
    import html

    import ftfy  # takes as long to import as a query takes, and most texts do not need it

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def clean(text: str) -> str:
    """Clean `text` like open_clip's ``clean="lower"``: mojibake, HTML, white space, case."""
    return " ".join(_repair(text).split()).lower()


def canonicalize(text: str) -> str:
    """Clean `text` like open_clip's ``clean="canonicalize"``, which also removes ASCII punctuation.

    The result has no special token of a SigLIP vocabulary.
    """
    text = _repair(text).replace("_", " ")
    return " ".join(text.translate(_NO_PUNCTUATION).lower().split())


CLEANINGS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {"lower": clean, "canonicalize": canonicalize}
)
"""Name of a cleaning -> its function: CLIP's and SigLIP's."""
