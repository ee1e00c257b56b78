"""Captions whose keywords are replaced by a placeholder, for self-masking (LinCIR)."""

from __future__ import annotations

import re

__all__ = ["masked_caption"]

_FUNCTIONS = (
    "a an the and or of to for with from as is are was were be it its this that these those which "
    "who than then there has have not no very so in on at by near under over into up down out off "
    "his her their our your my"
)
_FUNCTION_WORDS = frozenset(_FUNCTIONS.split())
WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
"""A word of a caption; it may have apostrophes and hyphens inside."""


def masked_caption(caption: str) -> list[str | None]:
    """Replace each run of keywords in a caption by one placeholder, None.

    Returns:
        For example ``[None, "for", None]`` for "red dress for women". A caption without keywords
        becomes "a photo of" and the placeholder, as in LinCIR's code.
    """
    pieces: list[str | None] = []
    for word in WORD.findall(caption.lower()):
        piece = word if word in _FUNCTION_WORDS else None
        if piece is not None and pieces and pieces[-1] is not None:
            pieces[-1] += f" {piece}"
        elif piece is not None or not pieces or pieces[-1] is not None:
            pieces.append(piece)
    return pieces if None in pieces else ["a photo of", None]
