"""How the texts of a query are read, where that is not as they were typed."""

from __future__ import annotations

from dataclasses import dataclass

from ztcir_sdk.encoder import Encoder
from ztcir_sdk.modification import UnknownWord, split_refused
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


def read_query(encoder: Encoder, query: Query, method: str, *, as_typed: bool = False) -> Reading:
    """Return how the texts of a query are read with a method.

    Args:
        encoder: of the bundle.
        query: the query.
        method: the search's method; the bundle's own, if it names none.
        as_typed: whether likely typing errors stay.

    Raises:
        BundleError: the bundle's vocabulary cannot be read.
    """
    if method not in TEXT_METHODS:
        return Reading((), ())
    texts = list(query.positive_texts)
    refused: dict[str, None] = {}
    for text in texts:
        if not query.images:
            refused |= dict.fromkeys(read_alone(encoder, text, method, as_typed=as_typed)[1])
        elif method == "composed":
            refused |= dict.fromkeys(encoder.refused(text, as_typed=as_typed))
    words = encoder.unknown_words(" ".join([*texts, *query.unwanted_texts]), as_typed=as_typed)
    return Reading(words, tuple(refused))


def read_alone(
    encoder: Encoder, text: str, method: str, *, as_typed: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Return what a text without an image asks for, and the colours and patterns that it refuses.

    The text encoder was trained on captions, which do not refuse: it would find what the text
    names. They are short, and English. With the method "text" a text stays as it is.
    """
    text = text if as_typed else encoder.as_read(text)
    if method == "text":
        return text, ()
    rest, refused = split_refused(text)
    return encoder.shortened(rest or text), refused
