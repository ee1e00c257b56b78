"""Texts as people type and speak them: other spellings, slips, fillers, small words left out."""

from __future__ import annotations

import re

import numpy as np

from train.wordings.frames import FILLERS, RAMBLING
from train.wordings.templates import SLIPS

__all__ = ["pick", "respell", "roughen"]

_AMERICAN = (("colour", "color"), ("favourite", "favorite"))
_AMERICAN_SHARE = 0.4
_NO_APOSTROPHE_SHARE = 0.15
_SLIP_SHARE = 0.02
_TYPO_SHARE = 0.03
_NO_PUNCTUATION_SHARE = 0.15
_TELEGRAPHIC_SHARE = 0.04
_FILLER_SHARE = 0.03
_RAMBLING_SHARE = 0.04

_LEFT_OUT = frozenset(
    ("the", "a", "an", "it", "this", "i", "i'd", "i'm", "is", "to", "me", "of", "do", "you", "that")
)

_PUNCTUATION = re.compile(r"[,;:!?.]")


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of some options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def _own(words: list[str]) -> list[int]:
    """Places of the words that are no slot."""
    return [place for place, spelt in enumerate(words) if "{" not in spelt]


def respell(sentence: str, rng: np.random.Generator) -> str:
    """American spelling, a left-out apostrophe, a slip of the fingers; never inside a slot."""
    american = rng.random() < _AMERICAN_SHARE
    dropped = rng.random() < _NO_APOSTROPHE_SHARE
    slipped = rng.random() < _SLIP_SHARE
    words = sentence.split(" ")
    own = _own(words)
    for place in own:
        if american:
            for british, spelling in _AMERICAN:
                words[place] = words[place].replace(british, spelling)
        if dropped:
            words[place] = words[place].replace("'", "")
    able = [place for place in own if words[place] in SLIPS]
    if slipped and able:
        place = able[int(rng.integers(len(able)))]
        words[place] = pick(SLIPS[words[place]], rng)
    return " ".join(words)


def roughen(sentence: str, rng: np.random.Generator) -> str:
    """Now and then as people type and speak: small words left out, fillers, typos, no commas."""
    telegraphic, filled, wandering, mistyped, bare = (
        rng.random() < share
        for share in (
            _TELEGRAPHIC_SHARE,
            _FILLER_SHARE,
            _RAMBLING_SHARE,
            _TYPO_SHARE,
            _NO_PUNCTUATION_SHARE,
        )
    )
    words = sentence.split(" ")
    if telegraphic:
        words = [spelt for spelt in words if spelt not in _LEFT_OUT or rng.random() < 0.2]
    if filled:
        words.insert(int(rng.integers(len(words))), pick(FILLERS, rng))
    if wandering:
        strays = [pick(RAMBLING, rng) for _ in range(1 + int(rng.integers(3)))]
        place = int(rng.integers(len(words) + 1))
        words[place:place] = strays
    able = [place for place in _own(words) if len(words[place]) > 3 and words[place].isalpha()]
    if mistyped and able:
        place = able[int(rng.integers(len(able)))]
        words[place] = _mistype(words[place], rng)
    sentence = " ".join(words)
    return " ".join(_PUNCTUATION.sub("", sentence).split()) if bare else sentence


def _mistype(spelt: str, rng: np.random.Generator) -> str:
    """A word with two letters swapped, one left out, or one struck twice; the first stays."""
    place = 1 + int(rng.integers(len(spelt) - 2))
    slips = (
        spelt[:place] + spelt[place + 1] + spelt[place] + spelt[place + 2 :],
        spelt[:place] + spelt[place + 1 :],
        spelt[:place] + spelt[place] + spelt[place:],
    )
    return pick(slips, rng)
