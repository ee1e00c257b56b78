"""Which word a mistyped one stands for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources

from ztcir_sdk.modification.refused import is_value
from ztcir_sdk.modification.refused_words import VALUES

__all__ = ["is_common", "is_english_word", "is_foreign", "is_foreign_word", "nearest"]

LONG = 8
"""Letters of a word that may have two slips; a shorter one may have one."""

_KEYS = {
    key: (row, 2 * column + row)
    for row, keys in enumerate(("qwertyuiop", "asdfghjkl", "zxcvbnm"))
    for column, key in enumerate(keys)
}
"""Where the keys of letters lie: row, and half keys from the left."""


@cache
def _known_words() -> dict[str, frozenset[str]]:
    """Read the words of everyday texts, section -> words; only once a text has an unknown word.

    "common": English. "foreign": of German, Spanish and French texts, and of no English one.
    "near_colours": words that a slip of a colour would look like.
    """
    text = resources.files(__package__).joinpath("known_words.txt").read_text(encoding="utf-8")
    sections: dict[str, frozenset[str]] = {}
    for section in text.split("[")[1:]:
        name, _, words = section.partition("]")
        sections[name] = frozenset(words.split())
    return sections


def is_common(word: str) -> bool:
    """Return whether a word, in lower case, is one that every text may have: "and", "das"."""
    known = _known_words()
    return word in known["common"] or word in known["foreign"] or is_value(word)


def is_foreign_word(word: str) -> bool:
    """Return whether a word, in lower case, is common in German, Spanish or French texts alone."""
    known = _known_words()
    return word in known["foreign"] and word not in known["common"]


def is_english_word(word: str) -> bool:
    """Return whether a word, in lower case, is common in English, and in none of these."""
    known = _known_words()
    return word in known["common"] and word not in known["foreign"]


def is_foreign(words: Iterable[str]) -> bool:
    """Return whether some words are of a German, Spanish or French text: one is enough."""
    return not _known_words()["foreign"].isdisjoint(words)


def nearest(word: str, ranks: Mapping[str, int], *, is_word: bool = False) -> str | None:
    """Return the word that another is likely a slip of, or None.

    Words differ by one slip, a letter that is added, lost, another, or swapped with its neighbour
    (long ones by two). The first letter is right, unless it was swapped or the word is long, or a
    colour's or a pattern's first letter was lost or another key hit beside it.

    Args:
        word: a word that is not among `ranks`.
        ranks: the words that it may stand for, and how common they are: of two that are equally
            near, the one with the lower number is meant.
        is_word: whether the word exists. Then it stands for nothing, unless it is near a colour and
            not known to be another word, since short slips are often words somewhere.
    """
    from rapidfuzz import process  # only where a word is unknown
    from rapidfuzz.distance import OSA

    if len(word) < 3 or word in _known_words()["near_colours"]:
        return None
    words: Sequence[str] = [one for one in ranks if one in VALUES] if is_word else list(ranks)
    most = 2 if len(word) >= LONG and not is_word else 1
    near = process.extract(word, words, scorer=OSA.distance, score_cutoff=most, limit=None)
    likely = [
        (
            distance,
            not _same_letters(word, other),
            other[0] != word[0],
            _single(word) != _single(other),
            ranks[other],
            other,
        )
        for other, distance, _ in near
        if _is_likely(word, other, int(distance))
    ]
    return min(likely)[-1] if likely else None


def _same_letters(word: str, other: str) -> bool:
    return sorted(word) == sorted(other)


def _single(word: str) -> str:
    """Return a word with one letter for each run of it: doubling one is the likeliest slip."""
    return "".join(letter for letter, _ in itertools.groupby(word))


def _is_likely(word: str, other: str, slips: int) -> bool:
    if slips == 1 and _same_letters(word, other):
        return True
    if word[0] != other[0]:
        return slips == 1 and (len(word) >= 6 or (other in VALUES and _is_first_slip(word, other)))
    return len(word) >= 4 or other in VALUES


def _is_first_slip(word: str, other: str) -> bool:
    """Return whether a word is one of four letters or more whose first letter alone is wrong."""
    if len(other) < 4:
        return False
    hit_beside = word[1:] in (other, other[1:]) and _are_beside(word[0], other[0])
    return word == other[1:] or hit_beside


def _are_beside(letter: str, other: str) -> bool:
    """Return whether the keys of two letters touch."""
    if letter not in _KEYS or other not in _KEYS:
        return False
    (row, column), (other_row, other_column) = _KEYS[letter], _KEYS[other]
    return abs(row - other_row) <= 1 and abs(column - other_column) <= 2
