"""What a modification text asks for, read before a model composes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ztcir_sdk.modification.exchange import without_exchanged
from ztcir_sdk.modification.foreign import SMALL_WORDS, Named, foreign_names, is_foreign, is_named
from ztcir_sdk.modification.gist import LONG, english_text, long_gist, without_idle_words
from ztcir_sdk.modification.parts import without_parts
from ztcir_sdk.modification.refused import is_value, names_value, read_refusals
from ztcir_sdk.modification.vocabulary import words_of

__all__ = ["Request", "main_clauses", "plain_letters", "read_request", "shortened"]

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
    is_shortened: bool = False
    """Whether the text is in other words: short English ones of a long or a foreign text."""


def read_request(
    text: str,
    attribute_words: Collection[str],
    detail_words: Collection[str],
    *,
    as_typed: bool = False,
) -> Request:
    """Read what a text asks for.

    Args:
        text: a modification text.
        attribute_words: words for what a model was trained to change, also by their
            `plain_letters`. Without any, all texts ask for something, but those that only refuse.
        detail_words: words for details, such as a material.
        as_typed: whether all is left in the words of the text, but for what is cut out.
    """
    whole, read = text, read_refusals(text)
    text, refused = read.rest, () if read.wants_others else read.values
    if not attribute_words:
        return Request(text, refused, any(word in detail_words for word in words_of(text)))

    def names_something(part: str) -> bool:
        known = any(_is_known(word, attribute_words) for word in words_of(part))
        return known or bool(foreign_names(part))

    if not as_typed:
        text = without_exchanged(without_idle_words(text), names_something)
        short = shortened(text, attribute_words, detail_words)
        if short is not None:
            return replace(short, refused=refused, is_shortened=bool(short.text))
    text = without_parts(text, attribute_words, only_products=True)
    if any(word in detail_words for word in words_of(text)):
        return Request(text, refused, has_detail=True)
    text = without_parts(text, attribute_words)
    if names_value(text) or any(_is_known(word, attribute_words) for word in words_of(text)):
        return Request(text, refused)
    if refused and _INSTEAD.search(text):  # what is wanted has a word that is not known here
        return Request(whole)
    return Request("", refused)


def shortened(
    text: str, attribute_words: Collection[str], detail_words: Collection[str]
) -> Request | None:
    """Return what a long text, or one in another language, asks for, in short English.

    Args:
        text: a modification text, without what it refuses.
        attribute_words: words for what a model was trained to change. A text that names anything
            whose English word is not among them is left as it is.
        detail_words: words for details.

    Returns:
        What it asks for, "" for nothing that is known; None for a text that is best as it is.
    """
    named = foreign_names(text)
    if named is not None:
        known = (word for word in words_of(text) if _is_known(word, attribute_words))
        if not all(word in SMALL_WORDS or is_foreign(word) or is_named(word) for word in known):
            return None
        return _in_english(named, attribute_words, detail_words)
    if len(words_of(text)) <= LONG:
        return None
    short = without_parts(text, attribute_words)
    gist, has_detail = long_gist(short, attribute_words, detail_words)
    return None if gist == short else Request(gist, has_detail=has_detail)


def _in_english(
    named: Sequence[Named], attribute_words: Collection[str], detail_words: Collection[str]
) -> Request | None:
    known = {*attribute_words, *detail_words}
    for one in named:
        if not any(word in known or is_value(word) for word in words_of(one.english)):
            return None
    return Request(
        english_text(named) if named else "", has_detail=any(one.kind == "details" for one in named)
    )


def _is_known(word: str, attribute_words: Collection[str]) -> bool:
    return word in attribute_words or plain_letters(word) in attribute_words or is_value(word)


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
