"""Text to ``input_ids``: open_clip's cleaning, then the vocabulary of a ``tokenizer.json``."""

from __future__ import annotations

from ztcir_sdk.tokenizer.cleaning import CLEANINGS, canonicalize, clean
from ztcir_sdk.tokenizer.tokenizer import (
    END_OF_TEXT,
    START_OF_TEXT,
    TextTruncatedWarning,
    Tokenizer,
)

__all__ = [
    "CLEANINGS",
    "END_OF_TEXT",
    "START_OF_TEXT",
    "TextTruncatedWarning",
    "Tokenizer",
    "canonicalize",
    "clean",
]
