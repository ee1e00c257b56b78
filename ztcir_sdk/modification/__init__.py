"""The modification text of a query: how much it counts, known words, and what it refuses."""

from __future__ import annotations

from ztcir_sdk.modification.refused import refused_values, split_refused
from ztcir_sdk.modification.strength import check_strength, move_queries
from ztcir_sdk.modification.trail import MAX_FORMER, join_texts, mix_queries
from ztcir_sdk.modification.vocabulary import (
    UnknownWord,
    Vocabulary,
    names_any,
    names_part,
    words_of,
)

__all__ = [
    "MAX_FORMER",
    "UnknownWord",
    "Vocabulary",
    "check_strength",
    "join_texts",
    "mix_queries",
    "move_queries",
    "names_any",
    "names_part",
    "refused_values",
    "split_refused",
    "words_of",
]
