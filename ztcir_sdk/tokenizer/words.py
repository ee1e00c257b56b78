"""CLIP's byte-pair encoding of plain English, without the library that encodes everything.

The vocabulary of CLIP splits a text into runs of letters, single digits and runs of other
characters, and each of these words is encoded by itself. In printable ASCII a byte is a character,
so a word is encoded by merging neighbours, the earliest merge of the list first. Everything else is
left to the library `tokenizers`, whose ids these equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["AsciiWords"]

_END_OF_WORD = "</w>"
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[A-Za-z]+|[0-9]|[^ A-Za-z0-9]+")
_PATTERN = re.compile(
    r"'\[s\\x\{17f\}\]\|'t\|'re\|'ve\|'m\|'ll\|'d"
    r"\|\[\\x\{41\}-\\x\{5a\}\\x\{61\}-\\x\{7a\}\\x\{aa\}-[^\]]*\]\+"  # letters
    r"\|\[\\x\{30\}-\\x\{39\}\\x\{b2\}-[^\]]*\]"  # digits
    r"\|\[(?:\\x\{0\}-\\x\{8\}\\x\{e\}-\\x\{1f\})?"
    r"\\x\{21\}-\\x\{2f\}\\x\{3a\}-\\x\{40\}\\x\{5b\}-\\x\{60\}\\x\{7b\}-[^\]]*\]\+"
)
"""A pattern of words whose printable ASCII characters are those of `_WORDS`."""
_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_SPLIT = {"type": "Split", "behavior": "Removed", "invert": True}
_NEUTRAL_MODEL = ("dropout", "unk_token", "continuing_subword_prefix", "fuse_unk", "byte_fallback")
"""Entries of a BPE model that must be off."""
_REMEMBERED = 10_000
"""Words whose ids are remembered."""
_LONGEST = 100
"""Letters of a word that is merged here; the library encodes longer ones."""


class AsciiWords:
    """The ids of words of printable ASCII. Threads may share one.

    Attributes:
        vocabulary: token -> id.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: list[Any]) -> None:
        """Take a vocabulary and its merges, each "a b" or ["a", "b"], the most frequent first."""
        self.vocabulary = vocabulary
        self._merges = merges
        self._ranks: Mapping[str, int] | None = None
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> AsciiWords | None:
        """Return the words of the content of a ``tokenizer.json``; None unless it is CLIP's."""
        model, steps = content.get("model"), content.get("pre_tokenizer")
        if content.get("normalizer") or content.get("added_tokens"):
            return None
        if not (isinstance(steps, dict) and isinstance(model, dict)):
            return None
        parts = steps.get("pretokenizers")
        if steps.get("type") != "Sequence" or not isinstance(parts, list) or len(parts) != 2:
            return None
        split, byte_level = parts
        if not (_has(split, _SPLIT) and _has(byte_level, _PRE_TOKENIZER)):
            return None
        pattern = split.get("pattern")
        expression = pattern.get("Regex") if isinstance(pattern, dict) else None
        if not isinstance(expression, str) or not _PATTERN.fullmatch(expression):
            return None
        vocabulary, merges = model.get("vocab"), model.get("merges")
        if not isinstance(vocabulary, dict) or not isinstance(merges, list) or not merges:
            return None
        plain = model.get("type") == "BPE" and model.get("end_of_word_suffix") == _END_OF_WORD
        if not plain or model.get("ignore_merges") or any(map(model.get, _NEUTRAL_MODEL)):
            return None
        if not (_are_ids(vocabulary) and _are_merges(merges)):
            return None  # the library says what is wrong
        return cls(vocabulary, merges)

    def ids(self, text: str) -> list[int] | None:
        """Return the ids of a cleaned text; None if only the library can encode it."""
        if not (text.isascii() and text.isprintable()):
            return None
        ids: list[int] = []
        for word in _WORDS.findall(text):
            known = self._known.get(word)
            if known is None:
                if len(word) > _LONGEST:  # merging takes the square of its length here
                    return None
                try:
                    known = self._word_ids(word)
                except KeyError:  # the vocabulary lacks a character or the result of a merge
                    return None
                if len(self._known) < _REMEMBERED:
                    self._known[word] = known
            ids += known
        return ids

    def _word_ids(self, word: str) -> list[int]:
        if self._ranks is None:
            merges = self._merges
            pairs = merges if isinstance(merges[0], str) else map(" ".join, merges)
            self._ranks = dict(zip(pairs, range(len(merges)), strict=True))
        parts = [*word[:-1], word[-1] + _END_OF_WORD]
        ids = [self.vocabulary[part] for part in parts]
        while len(parts) > 1:
            ranked = [
                (rank, at)
                for at in range(len(parts) - 1)
                if (rank := self._ranks.get(f"{parts[at]} {parts[at + 1]}")) is not None
            ]
            if not ranked:
                break
            _, at = min(ranked)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            ids[at : at + 2] = [self.vocabulary[parts[at]]]
        return ids


def _has(step: Any, entries: Mapping[str, Any]) -> bool:
    return isinstance(step, dict) and all(step.get(key) == entries[key] for key in entries)


def _are_ids(vocabulary: Mapping[Any, Any]) -> bool:
    """Return whether a vocabulary's ids are whole numbers from 0 to n - 1."""
    ids = vocabulary.values()
    return set(map(type, ids)) == {int} and min(ids) == 0 and max(ids) == len(ids) - 1


def _are_merges(merges: list[Any]) -> bool:
    kinds = set(map(type, merges))
    return kinds == {str} or (kinds == {list} and all(map(_is_pair, merges)))


def _is_pair(merge: list[Any]) -> bool:
    return len(merge) == 2 and set(map(type, merge)) == {str}
