"""Parts that a text speaks of: "with a belt", "without sleeves"."""

from __future__ import annotations

import re
from collections.abc import Collection

from ztcir_sdk.modification.refused import is_value
from ztcir_sdk.modification.refused_words import SHADES

__all__ = ["without_parts"]

_WITH = frozenset(
    (
        "with",
        "plus",
        "featuring",
        "including",
        "adding",
        "add",
        "w/",
        "mit",
        "samt",
        "con",
        "avec",
        "has",
    )
)
_WITHOUT = frozenset(
    (
        "without",
        "w/o",
        "no",
        "minus",
        "lacking",
        "ohne",
        "kein",
        "keine",
        "keinen",
        "keiner",
        "keines",
        "sin",
        "sans",
    )
)
_SIGNS = _WITH | _WITHOUT
_SHADES = frozenset(SHADES.split())
_NEEDS = re.compile(r"\bit(?:'s| is)? (?:needs?|wants|missing|lacks)\b")
_ARTICLES = frozenset(
    (
        "a",
        "an",
        "some",
        "the",
        "any",
        "more",
        "extra",
        "its",
        "my",
        "his",
        "her",
        "your",
        "our",
        "ein",
        "eine",
        "einen",
        "einem",
        "einer",
        "un",
        "una",
        "uno",
        "unos",
        "unas",
        "une",
        "des",
        "de",
        "du",
        "der",
        "die",
        "das",
        "den",
        "el",
        "la",
        "los",
        "las",
        "le",
        "les",
    )
)
_ENDS = frozenset(
    (
        "this",
        "these",
        "those",
        "me",
        "him",
        "her",
        "them",
        "us",
        "you",
        "in",
        "for",
        "and",
        "or",
        "but",
        "as",
        "please",
        "to",
        "that",
        "which",
        "on",
        "at",
        "from",
        "of",
        "so",
        "if",
        "when",
        "while",
        "instead",
        "it",
        "is",
        "are",
        "für",
        "und",
        "oder",
        "aber",
        "als",
        "bitte",
        "zu",
        "auf",
        "aus",
        "para",
        "y",
        "o",
        "pero",
        "como",
        "en",
        "por",
        "pour",
        "et",
        "ou",
        "mais",
        "comme",
        "with",
        "without",
        "no",
    )
)
"""Words before which a part ends."""
_EXCHANGE = re.compile(r"\b(?:replac|swap|exchang|trad|chang|switch|substitut|instead|rather)\w*")
_TOKEN = re.compile(r"w/o?|[\w'\u2019]+|[^\w\s]")
_NO_PART = re.compile(
    r"\b(?:no (?:longer|more|thanks)|away with|up with|down with|plus[ -]sized?|"
    r"no[ -](?:show|iron|name|brand|frills?|wire|sleeve|collar|heel)"
    r"(?= (?:shirt|dress|shoe|bra|sock|top|tee|bag)))\b"
)
"""Words that name no part."""
_SIZES = frozenset(("big", "small", "long", "short", "wide", "thin", "large", "matching"))
MOST = 3
"""Words of a part, without its article."""


def without_parts(
    text: str, attribute_words: Collection[str], *, only_products: bool = False
) -> str:
    """Return a text without the parts that it wants or refuses, in four languages.

    A shirt "with a belt" stays a shirt, and a picture of it hardly shows a belt: what is left of
    "red with a belt" is "red". Colours and patterns stay ("with stripes"), unless the part is a
    product that has them ("with a red belt"). So does everything, if one thing is to be exchanged
    for another.

    Args:
        text: a modification text.
        attribute_words: words for attributes, among them products.
        only_products: whether wanted parts stay that are no products ("with pockets").
    """
    lowered = " ".join(text.lower().split())
    if _EXCHANGE.search(lowered):
        return text
    lowered = _NO_PART.sub(lambda match: match[0].replace(" ", "_"), lowered)
    lowered = _NEEDS.sub("add", lowered)
    tokens = _TOKEN.findall(lowered)
    left: list[str] = []
    place = 0
    while place < len(tokens):
        end = place
        if tokens[place] in _SIGNS:
            end = _end_of_part(tokens, place + 1, attribute_words)
        is_product = tokens[end - 1] in attribute_words and not is_value(tokens[end - 1])
        if end > place + 1 and (tokens[place] in _WITHOUT or is_product or not only_products):
            place = end
        else:
            left.append(tokens[place])
            place += 1
    if len(left) == len(tokens):
        return text
    return " ".join(left).replace("_", " ").strip(" ,.;:!?")


def _end_of_part(tokens: list[str], start: int, attribute_words: Collection[str]) -> int:
    """Return where the part that starts at a token ends; `start` if there is none."""
    place = start
    while place < len(tokens) and tokens[place] in _ARTICLES:
        place += 1
    first, values = place, 0
    while place < len(tokens) and place - first < MOST:
        token = tokens[place]
        if token in _ENDS or not token[0].isalpha():
            break
        bare = place > first == start and not values
        if bare and is_value(token) and tokens[first] not in _SIZES:
            break  # "no logo black": without an article, what follows is another thing's
        if is_value(token) or (token in _SHADES and is_value((tokens[place + 1 :] or [""])[0])):
            values += 1
        elif values and token not in attribute_words:
            return start if first + values == place else place - values
        place += 1
    found = tokens[first:place]
    if not found:
        return start
    if is_value(found[-1]):  # "with pockets blue", "with stripes"
        while found and (is_value(found[-1]) or found[-1] in _SHADES):
            found.pop()
        return first + len(found) if found else start
    return place
