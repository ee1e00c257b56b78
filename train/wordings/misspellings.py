"""Typing errors inside words: swapped, missing, doubled and neighbouring letters."""

from __future__ import annotations

import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_VOWELS = "aeiou"
_TWO_SLIPS_SHARE = 0.12


def _neighbours() -> dict[str, str]:
    found = {}
    for row, letters in enumerate(_ROWS):
        for place, letter in enumerate(letters):
            near = letters[max(0, place - 1) : place] + letters[place + 1 : place + 2]
            for other in (row - 1, row + 1):
                if 0 <= other < len(_ROWS):
                    near += _ROWS[other][max(0, place - 1) : place + 2]
            found[letter] = near
    return found


_NEAR = _neighbours()


def misspell(text: str, rng: np.random.Generator) -> str:
    """A text with a slip, at times two, in one of its words; never the same text again.

    Args:
        text: words of letters; one of less than three letters stays as it is.
        rng: everything is drawn from it.
    """
    words = text.split(" ")
    able = [place for place, word in enumerate(words) if len(word) > 2 and word.isalpha()]
    if not able:
        return text
    place = able[int(rng.integers(len(able)))]
    right = words[place]
    while words[place] == right:
        word = _slip(right, rng)
        words[place] = _slip(word, rng) if rng.random() < _TWO_SLIPS_SHARE else word
    return " ".join(words)


def _slip(word: str, rng: np.random.Generator) -> str:
    """A word of at least two letters with one slip; rarely in its first letter."""
    first = 0 if rng.random() < 0.1 else 1
    place = first + int(rng.integers(len(word) - first))
    letter = word[place]
    kind = rng.random()
    if kind < 0.3:  # two letters swapped
        start = min(place, len(word) - 2)
        return word[:start] + word[start + 1] + word[start] + word[start + 2 :]
    if kind < 0.5:  # one lost
        return word[:place] + word[place + 1 :]
    if kind < 0.65:  # one struck twice
        return word[:place] + letter + word[place:]
    if kind < 0.8:  # the key beside it
        near = _NEAR.get(letter.lower(), letter)
        return word[:place] + near[int(rng.integers(len(near)))] + word[place + 1 :]
    if kind < 0.87:  # a vowel as it sounds
        if letter.lower() in _VOWELS:
            return word[:place] + _VOWELS[int(rng.integers(len(_VOWELS)))] + word[place + 1 :]
        return word[:place] + word[place + 1 :]
    # any letter in place of it, or before it
    any_letter = "abcdefghijklmnopqrstuvwxyz"[int(rng.integers(26))]
    return word[:place] + any_letter + word[place + (kind < 0.95) :]
