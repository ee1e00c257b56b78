"""Pairs of captions that differ in one phrase, found by hashing each caption without a phrase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.triplets.tempered_draw import draw_index, tempered_edges
from train.wordings.masked_captions import WORD

Tokens = tuple[str, ...]

_MIN_WORDS, _MAX_WORDS = 3, 25  # shorter and longer captions are left out
_MAX_PHRASE = 3
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is invertible modulo 2**64
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def tokens(caption: str) -> Tokens:
    """Return a caption's words in lower case, without punctuation."""
    return tuple(WORD.findall(caption.lower()))


@dataclass(frozen=True)
class Edit:
    """Two captions that differ in one phrase; one of the two phrases may be empty."""

    before: Tokens
    after: Tokens
    start: int
    """Number of words before the phrase."""
    old: Tokens
    new: Tokens

    @property
    def shared(self) -> Tokens:
        """Words that both captions have."""
        return self.before[: self.start] + self.before[self.start + len(self.old) :]


class CaptionPairs:
    """Draws pairs of captions that differ in a phrase of at most three words.

    A *frame* is a caption without one phrase, which may be empty; captions with the same frame are
    candidates. Frames are compared by a 64-bit hash. A pair that is drawn is compared word by word,
    so that a hash collision costs only a draw.

    Args:
        captions: distinct captions as words; those with fewer than 3 or more than 25 words are not
            drawn.
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
        self._edges = tempered_edges(self._size)

    def __bool__(self) -> bool:
        return bool(len(self._first))

    def draw(self, rng: np.random.Generator) -> tuple[int, int, Edit] | None:
        """Return the positions of two captions and their edit; None if they are not such a pair."""
        frame = draw_index(self._edges, rng)
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
            return None  # a shorter phrase describes the same edit
        return before, after, edit


def _frames(
    captions: Sequence[Tokens],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the hash of each frame; the caption, start and length of its phrase."""
    numbers: dict[str, int] = {}
    by_length: Mapping[int, list[int]] = defaultdict(list)
    for number, caption in enumerate(captions):
        if _MIN_WORDS <= len(caption) <= _MAX_WORDS:
            by_length[len(caption)].append(number)
    parts: list[tuple[NDArray[Any], ...]] = []
    with np.errstate(over="ignore"):  # hashes are modulo 2**64
        for length, members in sorted(by_length.items()):
            words = np.array(
                [[numbers.setdefault(w, len(numbers) + 1) for w in captions[p]] for p in members],
                np.uint64,
            )
            heads = _running_hash(words)
            tails = _running_hash(words[:, ::-1])[:, ::-1]
            owners = np.array(members)
            for start in range(length + 1):
                for cut in range(min(_MAX_PHRASE, length - start, length - 1) + 1):
                    key = heads[:, start] * _MIX ^ (tails[:, start + cut] + _BASE)
                    full = np.full(len(members), 1)
                    parts.append((key, owners, start * full, cut * full))
    if not parts:
        return np.empty(0, np.uint64), *(np.empty(0, np.int64) for _ in range(3))  # type: ignore[return-value]
    keys, owners, starts, lengths = (np.concatenate(part) for part in zip(*parts, strict=True))
    return keys, owners, starts, lengths


def _running_hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return hashes (N, L + 1) of the first 0, 1, ..., L words of captions (N, L)."""
    hashes = np.empty((words.shape[0], words.shape[1] + 1), np.uint64)
    hashes[:, 0] = 1
    for place in range(words.shape[1]):
        mixed = (hashes[:, place] ^ (words[:, place] * _MIX)) * _BASE
        hashes[:, place + 1] = mixed ^ (mixed >> np.uint64(29))
    return hashes
