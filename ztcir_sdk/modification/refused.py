"""What a text refuses: "not red", "anything but striped", "kein Blau"."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from ztcir_sdk.modification.refused_words import (
    AFTER,
    BEFORE,
    BEFORE_AT_ONCE,
    FILLERS,
    PATTERNS,
    SHADES,
    VALUES,
    WANTED,
)

__all__ = [
    "Refusals",
    "is_value",
    "names_value",
    "read_refusals",
    "refused_values",
    "split_refused",
]

_VALUE_OF = {word: value for value, more in VALUES.items() for word in (value, *more.split())}
_VALUE_OF |= {
    f"{shade}{word}": value
    for word, value in _VALUE_OF.items()
    for shade in ("dark", "light", "hell", "dunkel", "mittel")
}
_PAIRS = "|".join(word for word in _VALUE_OF if " " in word)
_WORD = rf"\b(?:{_PAIRS})\b|\w+"
_MARK = "\N{ROMAN NUMERAL TEN THOUSAND}"
"""Stands with a number for a value: a short pattern compiles at once, one of all words does not."""
# Patterns are texts, which `re` compiles at their first use and keeps: a start needs none of them.
_LETTER = r"[\w'\u2019]"
_VALUE = rf"{_MARK}\d+"
_OR = r"(?:or|and|nor|oder|und|noch|ni|o|ou|et|&)"
_LISTED = rf", (?={_VALUE}(?:, {_VALUE}){{0,4}},? {_OR} {_VALUE})"
_VALUES = rf"{_VALUE}(?:(?:,? {_OR} |[ /-]|{_LISTED}){_VALUE}){{0,7}}"
"""Values that are refused together: "red or blue", "red stripes"."""
_SIGN = rf"(?<!{_LETTER})(?:{BEFORE})(?!{_LETTER})"
_FOLLOWING = rf"(?P<between>(?:[ -]+(?!{_VALUE}){_LETTER}+){{0,6}})[ -]+(?P<values>{_VALUES})"
_AT_ONCE = (
    rf"(?:(?<!{_LETTER})(?:{BEFORE_AT_ONCE})[ -]+|(?:^|(?<= ))[-!])"
    rf"(?:(?:{'|'.join(SHADES.split())}) )?(?P<values>{_VALUES})"
)
_NEW_SENTENCE = (
    r"\b(?:this|that|these|those|it|ones?) (?:i|we|you|she|he|show|give|get|make|want|need|do)\b"
)
"""Where a sentence starts without a mark: "i don't like this show me a red one"."""
_AFTER_NO = (
    r"\b(?:an?|the|i|we|it|this|that|in|with|for|please|really|want|need|give|make|prefer|love|"
    r"like)\b"
)
"""Words after which "no" refuses all that was said before: "no, make it red", without the comma."""
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
    another value as well ("blue instead of red") says what is wanted, and refuses nothing here:
    subtracting red would also subtract what the two have in common.
    """
    read = read_refusals(text)
    return () if read.wants_others else read.values


def split_refused(text: str) -> tuple[str, tuple[str, ...]]:
    """Return what a text asks for beside the colours and patterns that it refuses, and these.

    "a dress, not red" -> ("a dress", ("red",)). Other values that it names stay: "a blue dress,
    not red" -> ("a blue dress", ("red",)). Where nothing else is asked for, the rest is "". A text
    that refuses nothing is returned as it is, in NFC.
    """
    read = read_refusals(text)
    return read.rest, read.values


class Refusals(NamedTuple):
    """What a text refuses, and what is left of it."""

    rest: str
    """The text without its refusals; "" where nothing else is asked for."""
    values: tuple[str, ...] = ()
    """The colours and patterns that it refuses, in English, each once, in order."""
    wants_others: bool = False
    """Whether it names other ones as well."""


def read_refusals(text: str) -> Refusals:
    """Read both at once; see `refused_values` and `split_refused`. What is left is in NFC."""
    text = unicodedata.normalize("NFC", text)  # letters with their accents, as all lists have them
    if not names_value(text):
        return Refusals(text)
    whole, text = text, " ".join(text.lower().split())
    words: list[str] = []
    text = re.sub(r"\bno tan (?=\w)", "no muy ", text)  # Spanish: no colour
    text = re.sub(_WORD, lambda match: _mark(match[0], words), text.replace(_MARK, ""))
    named = [_VALUE_OF[word] for word in words]
    # Commas end clauses, so what stands between two of them refuses nothing.
    masked = re.sub(WANTED, lambda match: "," * len(match[0]), text)
    refused: dict[str, int] = {}
    parts, end = [], 0
    for start, found, after in sorted(_refusals(masked), key=lambda one: one[0]):
        places, stop = _refused_together(found, named)
        stop = after if stop == found.end("values") else stop
        refused |= {named[place]: place for place in places}
        parts.append(text[end : max(end, start)])
        end = max(end, stop)
    parts.append(text[end:])
    last = {value: place for place, value in enumerate(named)}  # "not red, oh well, in red"
    values = tuple(value for value, place in refused.items() if last[value] == place)
    if not values:
        return Refusals(whole)
    rest = re.sub(_VALUE, lambda match: words[int(match[0][1:])], " ".join(parts))
    rest = re.sub(r"\s+(?=[,.;!?])", "", " ".join(rest.split())).strip(" ,.;:!?-")
    rest = rest if re.search(r"\w\w", rest) else ""
    return Refusals(rest, values, wants_others=set(named) != set(values))


def _refusals(text: str) -> Iterator[tuple[int, re.Match[str], int]]:
    """Yield start, match of the values, and end of each refusal in a text of marked values."""
    following = re.compile(_FOLLOWING)
    for sign in re.finditer(_SIGN, text):
        found = following.match(text, sign.end())
        if found is None:
            continue
        between = re.findall(rf"{_LETTER}+", found["between"])
        if (
            FILLERS.issuperset(between)
            and not re.search(_NEW_SENTENCE, found["between"])
            and not (sign[0] == "no" and re.search(_AFTER_NO, found["between"]))
        ):
            yield sign.start(), found, found.end()
    for pattern in (_AT_ONCE, _FOLLOWED):
        for found in re.finditer(pattern, text):
            yield found.start(), found, found.end()


def _refused_together(found: re.Match[str], named: list[str]) -> tuple[list[int], int]:
    """Return the places of the values that are refused, and where the last one ends.

    Of two colours with a space between, the second is wanted: "instead of black white".
    """
    marks = list(re.compile(_VALUE).finditer(found.string, *found.span("values")))
    places = [int(mark[0][1:]) for mark in marks]
    for number, (one, two) in enumerate(itertools.pairwise(marks)):
        colours = named[places[number]], named[places[number + 1]]
        if (
            found.string[one.end() : two.start()] == " "
            and PATTERNS.isdisjoint(colours)
            and colours[0] not in colours[1]
            and colours[1] not in colours[0]
        ):
            return places[: number + 1], one.end()
    return places, found.end("values")


def _mark(word: str, words: list[str]) -> str:
    if word not in _VALUE_OF:
        return word
    words.append(word)
    return f"{_MARK}{len(words) - 1}"
