"""The modification text of a query: what it asks for and refuses, and how much it counts."""

from __future__ import annotations

from ztcir_sdk.modification.refused import refused_values, split_refused
from ztcir_sdk.modification.request import (
    Request,
    main_clauses,
    plain_letters,
    read_request,
    shortened,
)
from ztcir_sdk.modification.strength import check_strength, move_queries
from ztcir_sdk.modification.trail import MAX_FORMER, join_texts, mix_queries
from ztcir_sdk.modification.unwanted import without_unwanted
from ztcir_sdk.modification.vocabulary import UnknownWord, Vocabulary, words_of

__all__ = [
    "MAX_FORMER",
    "Request",
    "UnknownWord",
    "Vocabulary",
    "check_strength",
    "join_texts",
    "main_clauses",
    "mix_queries",
    "move_queries",
    "plain_letters",
    "read_request",
    "refused_values",
    "shortened",
    "split_refused",
    "without_unwanted",
    "words_of",
]
