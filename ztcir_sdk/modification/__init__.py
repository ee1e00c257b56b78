"""The modification text of a query: how much it counts, and which of its words are known."""

from __future__ import annotations

from ztcir_sdk.modification.strength import check_strength, move_queries
from ztcir_sdk.modification.vocabulary import UnknownWord, Vocabulary, words_of

__all__ = ["UnknownWord", "Vocabulary", "check_strength", "move_queries", "words_of"]
