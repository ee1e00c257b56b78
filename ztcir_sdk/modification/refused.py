"""What a text refuses: "not red", "anything but striped", "kein Blau"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ztcir_sdk.modification.refused_words import (
    AFTER,
    BEFORE,
    BEFORE_AT_ONCE,
    FILLERS,
    SHADES,
    VALUES,
    WANTED,
)

__all__ = ["is_value", "names_value", "refused_values", "split_refused"]

_VALUE_OF = {word: value for value, more in VALUES.items() for word in (value, *more.split())}
_PAIRS = "|".join(word for word in _VALUE_OF if " " in word)
_WORD = rf"\b(?:{_PAIRS})\b|\w+"
_MARK = "\N{ROMAN NUMERAL TEN THOUSAND}"
"""Stands with a number for a value: a short pattern compiles at once, one of all words does not."""
# Patterns are texts, which `re` compiles at their first use and keeps: a start needs none of them.
_LETTER = r"[\w'\u2019]"
_VALUE = rf"{_MARK}\d+"
_VALUES = rf"{_VALUE}(?:(?:,? (?:or|and|nor|oder|und|noch|ni|o|ou|et) |[ -]){_VALUE})*"
"""Values that are refused together: "red or blue", "red stripes"."""
_SIGN = rf"(?<!{_LETTER})(?:{BEFORE})(?!{_LETTER})"
_FOLLOWING = rf"(?P<between>(?:[ -]+(?!{_VALUE}){_LETTER}+){{0,6}})[ -]+(?P<values>{_VALUES})"
_AT_ONCE = (
    rf"(?:(?<!{_LETTER})(?:{BEFORE_AT_ONCE})[ -]+|(?:^|(?<= ))[-!])"
    rf"(?:(?:{'|'.join(SHADES.split())}) )?(?P<values>{_VALUES})"
)
_FOLLOWED = rf"(?P<values>{_VALUES})(?:{AFTER})"


def is_value(word: str) -> bool:
    """Return whether a word, in lower case, is a colour or a pattern."""
    return word in _VALUE_OF


def names_value(text: str) -> bool:
    """Return whether a text names a colour or a pattern, in any language that is known here."""
    return any(word in _VALUE_OF for word in re.findall(_WORD, text.lower()))


def refused_values(text: str) -> tuple[str, ...]:
    """Return the colours and patterns that a text refuses, in English, each once, in order.

    It reads signs that refuse ("not", "without", "anything but"; also in German, Spanish and
    French) before a value in the same clause, or after it ("red won't do"). A text that names
    another value as well ("blue instead of red") says what is wanted: it refuses nothing here, and
    the model alone answers it.
    """
    read = _read(text)
    return tuple(read.refused) if set(read.named) == read.refused.keys() else ()


def split_refused(text: str) -> tuple[str, tuple[str, ...]]:
    """Return what a text asks for beside the colours and patterns that it refuses, and these.

    "a dress, not red" -> ("a dress", ("red",)). Other values that it names stay: "a blue dress,
    not red" -> ("a blue dress", ("red",)). Where nothing else is asked for, the rest is "". A text
    that refuses nothing is returned as it is.
    """
    read = _read(text)
    if not read.refused:
        return text, ()
    rest = re.sub(_VALUE, lambda match: read.words[int(match[0][1:])], read.rest)
    rest = re.sub(r"\s+(?=[,.;!?])", "", " ".join(rest.split())).strip(" ,.;:!?-")
    return (rest if re.search(r"\w\w", rest) else ""), tuple(read.refused)


class _Read(NamedTuple):
    """What `_read` finds in a text."""

    words: list[str]
    """Each word for a value, in the order of the text."""
    named: list[str]
    """Its value."""
    refused: dict[str, None]
    """The values that are refused."""
    rest: str
    """The text without what refuses them; a mark and a number stand for each of `words`."""


def _read(text: str) -> _Read:
    text = " ".join(text.lower().split())
    words: list[str] = []
    if names_value(text):
        text = re.sub(r"\bno tan (?=\w)", "no muy ", text)  # Spanish: no colour
        text = re.sub(_WORD, lambda match: _mark(match[0], words), text.replace(_MARK, ""))
    named = [_VALUE_OF[word] for word in words]
    # Commas end clauses, so what stands between two of them refuses nothing.
    masked = re.sub(WANTED, lambda match: "," * len(match[0]), text) if words else text
    refused: dict[str, int] = {}
    rest, end = [], 0
    for start, stop, values in sorted(_refusals(masked)) if words else ():
        places = [int(mark[1:]) for mark in re.findall(_VALUE, values)]
        refused |= {named[place]: place for place in places}
        rest.append(text[end : max(end, start)])
        end = max(end, stop)
    rest.append(text[end:])
    last = {value: place for place, value in enumerate(named)}  # "not red, oh well, in red"
    kept = {value: None for value, place in refused.items() if last[value] == place}
    return _Read(words, named, kept, " ".join(rest))


def _refusals(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and values of each refusal in a text of marked values."""
    following = re.compile(_FOLLOWING)
    for sign in re.finditer(_SIGN, text):
        found = following.match(text, sign.end())
        if found and FILLERS.issuperset(re.findall(rf"{_LETTER}+", found["between"])):
            yield sign.start(), found.end(), found["values"]
    for pattern in (_AT_ONCE, _FOLLOWED):
        for found in re.finditer(pattern, text):
            yield found.start(), found.end(), found["values"]


def _mark(word: str, words: list[str]) -> str:
    if word not in _VALUE_OF:
        return word
    words.append(word)
    return f"{_MARK}{len(words) - 1}"
