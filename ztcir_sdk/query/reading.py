"""How the texts of a query are read, where that is not as they were typed."""

from __future__ import annotations

from dataclasses import dataclass

from ztcir_sdk.encoder import Encoder
from ztcir_sdk.modification import Request, UnknownWord, split_refused, words_of
from ztcir_sdk.names import TEXT_METHODS
from ztcir_sdk.query.query import Query

__all__ = ["Reading", "read_alone", "read_query"]


@dataclass(frozen=True)
class Reading:
    """What a user should know about the texts of a query."""

    unknown_words: tuple[UnknownWord, ...]
    """Words that the model was not trained on; some are corrected."""
    refused: tuple[str, ...]
    """Colours and patterns that are taken out of the query, since a text refuses them."""
    read_as: tuple[str, ...] = ()
    """What is searched in place of long texts and of texts in other languages, in short English."""


def read_query(encoder: Encoder, query: Query, method: str, *, as_typed: bool = False) -> Reading:
    """Return how the texts of a query are read with a method.

    Args:
        encoder: of the bundle.
        query: the query.
        method: the search's method; the bundle's own, if it names none.
        as_typed: whether texts stay as they are.

    Raises:
        BundleError: the bundle's vocabulary cannot be read.
    """
    if method not in TEXT_METHODS:
        return Reading((), ())
    texts = list(query.positive_texts)
    refused: dict[str, None] = {}
    short: dict[str, str] = {}
    for text in texts:
        if not query.images:
            alone = read_alone(encoder, text, method, as_typed=as_typed)
            refused |= dict.fromkeys(alone.refused)
            short |= {text: alone.text} if alone.is_shortened else {}
        elif method == "composed":
            refused |= dict.fromkeys(encoder.refused(text, as_typed=as_typed))
            composed = encoder.shortened(text, alone=False, as_typed=as_typed)
            short |= {} if composed is None else {text: composed}
    words = encoder.unknown_words(" ".join([*texts, *query.unwanted_texts]), as_typed=as_typed)
    if short:  # what is left out of a text cannot mislead the model
        kept = set(words_of(" ".join([*(set(texts) - set(short)), *query.unwanted_texts])))
        words = tuple(one for one in words if one.corrected or one.word in kept)
    return Reading(words, tuple(refused), tuple(short.values()))


def read_alone(encoder: Encoder, text: str, method: str, *, as_typed: bool = False) -> Request:
    """Return what a text without an image asks for, and the colours and patterns that it refuses.

    The text encoder was trained on captions, which do not refuse: it would find what the text
    names. They are short, and English. With the method "text" a text stays as it is.
    """
    text = text if as_typed else encoder.as_read(text)
    if method == "text":
        return Request(text)
    rest, refused = split_refused(text)
    short = encoder.shortened(rest or text, alone=True, as_typed=as_typed)
    return Request(short or rest or text, refused, is_shortened=short is not None)
