"""Captions that differ in one phrase alone: found by hashing what is left when it is cut out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CaptionPairs", "Edit", "Tokens", "tokens"]

Tokens = tuple[str, ...]

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_FEWEST, _MOST = 3, 25  # words of a caption that takes part
_LONGEST_PHRASE = 3
_TEMPER = 0.5  # exponent on how many captions share a frame, so that no common one rules
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2**64
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def tokens(caption: str) -> Tokens:
    """A caption's words in lower case, without punctuation."""
    return tuple(_WORD.findall(caption.lower()))


@dataclass(frozen=True)
class Edit:
    """Two captions that are equal but for one phrase; either phrase may be empty, not both."""

    before: Tokens
    after: Tokens
    start: int
    """Words that both begin with."""
    old: Tokens
    new: Tokens

    @property
    def shared(self) -> Tokens:
        """The words that stay."""
        return self.before[: self.start] + self.before[self.start + len(self.old) :]


class CaptionPairs:
    """Draws pairs among distinct captions that differ in a phrase of at most three words.

    Every way of cutting one phrase, or nothing, out of a caption gives a frame; captions with one
    frame are candidates. Frames are told apart by a 64-bit hash, and each pair that is drawn is
    compared word by word, so that a collision costs a draw and no more.

    Args:
        captions: distinct captions as words; those with fewer than 3 or more than 25 take no part.
    """

    def __init__(self, captions: Sequence[Tokens]) -> None:
        self.captions = captions
        keys, owners, starts, lengths = _frames(captions)
        order = np.lexsort((lengths, starts, owners, keys))
        keys = keys[order]
        edges = np.flatnonzero(
            np.diff(keys, prepend=keys[:1] + np.uint64(1), append=keys[-1:] + np.uint64(1))
        )
        sizes = np.diff(edges)
        several = sizes > 1
        self._first, self._size = edges[:-1][several], sizes[several]
        self._owners, self._starts, self._lengths = owners[order], starts[order], lengths[order]
        shares = np.cumsum(self._size.astype(np.float64) ** _TEMPER)
        self._edges = shares / shares[-1] if len(shares) else shares

    def __bool__(self) -> bool:
        return bool(len(self._first))

    def draw(self, rng: np.random.Generator) -> tuple[int, int, Edit] | None:
        """The numbers of two captions, and their edit; None if the two are no such pair."""
        frame = min(
            int(np.searchsorted(self._edges, rng.random(), side="right")), len(self._edges) - 1
        )
        first, second = rng.choice(self._size[frame], 2, replace=False) + self._first[frame]
        before, after = int(self._owners[first]), int(self._owners[second])
        start = int(self._starts[first])
        old, new = int(self._lengths[first]), int(self._lengths[second])
        a, b = self.captions[before], self.captions[after]
        if before == after or start != self._starts[second] or not old + new:
            return None
        if a[:start] != b[:start] or a[start + old :] != b[start + new :]:
            return None
        edit = Edit(a, b, start, a[start : start + old], b[start : start + new])
        if edit.old and edit.new and (edit.old[0] == edit.new[0] or edit.old[-1] == edit.new[-1]):
            return None  # a shorter phrase says it too
        return before, after, edit


def _frames(
    captions: Sequence[Tokens],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Hash, caption, start and length of every phrase that can be cut out."""
    numbers: dict[str, int] = {}
    by_length: Mapping[int, list[int]] = defaultdict(list)
    for place, caption in enumerate(captions):
        if _FEWEST <= len(caption) <= _MOST:
            by_length[len(caption)].append(place)
    parts: list[tuple[NDArray[Any], ...]] = []
    with np.errstate(over="ignore"):  # modulo 2**64 is meant
        for length, places in sorted(by_length.items()):
            words = np.array(
                [[numbers.setdefault(w, len(numbers) + 1) for w in captions[p]] for p in places],
                np.uint64,
            )
            heads = _running_hash(words)
            tails = _running_hash(words[:, ::-1])[:, ::-1]
            owners = np.array(places)
            for start in range(length + 1):
                for cut in range(min(_LONGEST_PHRASE, length - start, length - 1) + 1):
                    key = heads[:, start] * _MIX ^ (tails[:, start + cut] + _BASE)
                    full = np.full(len(places), 1)
                    parts.append((key, owners, start * full, cut * full))
    if not parts:
        return np.empty(0, np.uint64), *(np.empty(0, np.int64) for _ in range(3))  # type: ignore[return-value]
    keys, owners, starts, lengths = (np.concatenate(part) for part in zip(*parts, strict=True))
    return keys, owners, starts, lengths


def _running_hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes (captions, L + 1) of the first 0, 1, ..., L words of captions (captions, L)."""
    hashes = np.empty((words.shape[0], words.shape[1] + 1), np.uint64)
    hashes[:, 0] = 1
    for place in range(words.shape[1]):
        mixed = (hashes[:, place] ^ (words[:, place] * _MIX)) * _BASE
        hashes[:, place + 1] = mixed ^ (mixed >> np.uint64(29))
    return hashes
