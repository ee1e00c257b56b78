"""Typing noise in texts: other spellings, typing errors, fillers, small words left out."""

from __future__ import annotations

import re

import numpy as np

from train.wordings.frames import FILLERS, STRAY_WORDS
from train.wordings.templates import MISSPELLINGS

_AMERICAN = (("colour", "color"), ("favourite", "favorite"))
_AMERICAN_SHARE = 0.4
_NO_APOSTROPHE_SHARE = 0.15
_MISSPELLING_SHARE = 0.02
_TYPO_SHARE = 0.03
_NO_PUNCTUATION_SHARE = 0.15
_TELEGRAPHIC_SHARE = 0.04
_FILLER_SHARE = 0.03
_STRAY_WORDS_SHARE = 0.04

_LEFT_OUT = frozenset(
    ("the", "a", "an", "it", "this", "i", "i'd", "i'm", "is", "to", "me", "of", "do", "you", "that")
)

_PUNCTUATION = re.compile(r"[,;:!?.]")


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """Return one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def _plain_words(words: list[str]) -> list[int]:
    """Return the positions of the words that are not slots."""
    return [place for place, word in enumerate(words) if "{" not in word]


def vary_spelling(sentence: str, rng: np.random.Generator) -> str:
    """Sometimes use American spelling, leave out apostrophes, or misspell a word; never a slot."""
    american = rng.random() < _AMERICAN_SHARE
    dropped = rng.random() < _NO_APOSTROPHE_SHARE
    misspelt = rng.random() < _MISSPELLING_SHARE
    words = sentence.split(" ")
    plain = _plain_words(words)
    for place in plain:
        if american:
            for british, spelling in _AMERICAN:
                words[place] = words[place].replace(british, spelling)
        if dropped:
            words[place] = words[place].replace("'", "")
    possible = [place for place in plain if words[place] in MISSPELLINGS]
    if misspelt and possible:
        place = possible[int(rng.integers(len(possible)))]
        words[place] = pick(MISSPELLINGS[words[place]], rng)
    return " ".join(words)


def add_typing_noise(sentence: str, rng: np.random.Generator) -> str:
    """Sometimes leave out small words or punctuation, or add fillers, stray words or a typo."""
    telegraphic, filled, wandering, mistyped, bare = (
        rng.random() < share
        for share in (
            _TELEGRAPHIC_SHARE,
            _FILLER_SHARE,
            _STRAY_WORDS_SHARE,
            _TYPO_SHARE,
            _NO_PUNCTUATION_SHARE,
        )
    )
    words = sentence.split(" ")
    if telegraphic:
        words = [word for word in words if word not in _LEFT_OUT or rng.random() < 0.2]
    if filled:
        words.insert(int(rng.integers(len(words))), pick(FILLERS, rng))
    if wandering:
        strays = [pick(STRAY_WORDS, rng) for _ in range(1 + int(rng.integers(3)))]
        place = int(rng.integers(len(words) + 1))
        words[place:place] = strays
    possible = [
        place for place in _plain_words(words) if len(words[place]) > 3 and words[place].isalpha()
    ]
    if mistyped and possible:
        place = possible[int(rng.integers(len(possible)))]
        words[place] = _mistype(words[place], rng)
    sentence = " ".join(words)
    return " ".join(_PUNCTUATION.sub("", sentence).split()) if bare else sentence


def _mistype(word: str, rng: np.random.Generator) -> str:
    """Swap two letters, leave one out, or double one; the first letter stays."""
    place = 1 + int(rng.integers(len(word) - 2))
    typos = (
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
    )
    return pick(typos, rng)
