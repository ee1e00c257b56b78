"""What a modification text asks for, read before a model composes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from ztcir_sdk.modification.parts import without_parts
from ztcir_sdk.modification.refused import names_value, read_refusals
from ztcir_sdk.modification.vocabulary import words_of

__all__ = ["Request", "main_clauses", "plain_letters", "read_request"]

_INSTEAD = re.compile(r"\b(?:sondern|sino|mais) \w")


@dataclass(frozen=True)
class Request:
    """What a text asks for."""

    text: str
    """What is left to compose: "red" of "red with a belt". Empty if nothing known is asked for."""
    refused: tuple[str, ...] = ()
    """The colours and patterns that it refuses, if it names no other ones."""
    has_detail: bool = False
    """Whether a word for a detail is left."""


def read_request(
    text: str, attribute_words: Collection[str], detail_words: Collection[str]
) -> Request:
    """Read what a text asks for.

    Args:
        text: a modification text.
        attribute_words: words for what a model was trained to change, also by their
            `plain_letters`. Without any, all texts ask for something, but those that only refuse.
        detail_words: words for details, such as a material.
    """
    whole, read = text, read_refusals(text)
    text, refused = read.rest, () if read.wants_others else read.values
    if attribute_words:
        text = without_parts(text, attribute_words, only_products=True)
    has_detail = any(word in detail_words for word in words_of(text))
    if has_detail or not attribute_words:
        return Request(text, refused, has_detail)
    text = without_parts(text, attribute_words)
    if names_value(text) or any(
        word in attribute_words or plain_letters(word) in attribute_words for word in words_of(text)
    ):
        return Request(text, refused)
    if refused and _INSTEAD.search(text):  # what is wanted has a word that is not known here
        return Request(whole)
    return Request("", refused)


def main_clauses(text: str, words: Collection[str]) -> str:
    """Return the parts of a text, between marks, that name one of some words, or all if none does.

    For texts that are too long for a model, which would not see their end.
    """
    clauses = re.split(r"(?<=[.,;:!?\n])\s", text)
    kept = [
        clause
        for clause in clauses
        if names_value(clause) or any(word in words for word in words_of(clause))
    ]
    return " ".join(kept) if kept else text


def plain_letters(word: str) -> str:
    """Return a word without accents, as many type it: "café" -> "cafe"."""
    parts = unicodedata.normalize("NFD", word)
    return "".join(one for one in parts if unicodedata.category(one) != "Mn")
