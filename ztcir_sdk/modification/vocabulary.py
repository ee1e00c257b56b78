"""The words that a model was trained on, and the words of a text that are not among them.

A vocabulary has words of two letters and more, in lower case and without apostrophes and hyphens:
"men's V-neck" has the words "men" and "neck". Words with digits count as numbers, and numbers and
single letters are always known. Nothing here depends on a language; words of all languages that the
model was trained on are in one vocabulary.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

from ztcir_sdk.errors import UsageError
from ztcir_sdk.modification.refused import is_value
from ztcir_sdk.modification.slips import is_common, is_foreign, nearest
from ztcir_sdk.tokenizer import clean

__all__ = ["UnknownWord", "Vocabulary", "words_of"]

APOSTROPHES = "'\u2019\u02bc`"
MIN_LETTERS = 2
"""A word of fewer letters is always known."""


@dataclass(frozen=True)
class UnknownWord:
    """A word of a text that is not in a bundle's vocabulary."""

    word: str
    """As the model reads it: in lower case."""
    suggestion: str | None
    """The nearest word of the vocabulary, if the word is likely a slip; else None."""
    corrected: bool = False
    """Whether a query has the suggestion in its place."""

    def to_dict(self) -> dict[str, str | bool | None]:
        """Return JSON values."""
        return asdict(self)


def words_of(text: str) -> list[str]:
    """Return the words of a text that a vocabulary can have, in order."""
    return [part for word in _written_words(text) for part in _parts(word)]


class Vocabulary:
    """The words that a model was trained on. Threads may share one.

    Attributes:
        words: the words, each once, in the order given.
    """

    def __init__(self, words: Iterable[str], attribute_words: Iterable[str] = ()) -> None:
        """Take words as `words_of` returns them, the commonest first where that is known.

        Args:
            words: the words. Of two that are equally near to a mistyped one, the earlier is meant.
            attribute_words: words for what the model was trained to change, which are known as
                well. With them, a mistyped word is only taken for one of these, or for a pattern.
        """
        self.words = tuple(dict.fromkeys(words))
        attributes = frozenset(attribute_words)
        self._known = attributes.union(self.words)
        self._meant = {
            word: rank
            for rank, word in enumerate(self.words)
            if not attributes or word in attributes or is_value(word)
        }

    @classmethod
    def from_bytes(cls, content: bytes, attribute_words: Iterable[str] = ()) -> Vocabulary:
        """Read what `to_bytes` wrote; for the other words see the class.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return cls(content.decode("utf-8").split(), attribute_words)

    def to_bytes(self) -> bytes:
        """Return the file of a bundle: UTF-8, one word in each line.

        Raises:
            UsageError: there are no words, or one that `words_of` cannot return.
        """
        if not self.words:
            raise UsageError("A vocabulary needs a word or more: leave it out instead.")
        for word in self.words:
            if words_of(word) != [word]:
                raise UsageError(
                    f"A vocabulary cannot have {word!r}: use words in lower case, of "
                    f"{MIN_LETTERS} letters or more, without digits and punctuation."
                )
        return "".join(f"{word}\n" for word in self.words).encode()

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        """Return whether the model was trained on a word."""
        return word in self._known

    def _is_known(self, word: str) -> bool:
        return word in self._known or is_common(word)

    def unknown_words(
        self, text: str, is_word: Callable[[str], bool] | None = None
    ) -> tuple[UnknownWord, ...]:
        """Return the words of a text that the model was not trained on, each once, in order.

        Args:
            text: a modification text.
            is_word: whether a word, in lower case, exists, so that it is rarely a slip; with None
                slips are found, and not corrected.
        """
        found: dict[str, UnknownWord] = {}
        words = [
            word for word in _written_words(text) if not all(map(self._is_known, _parts(word)))
        ]
        foreign = bool(words) and is_foreign(words_of(text))  # only English is corrected
        for word in words:
            if word not in found:
                suggestion = None if foreign else self._suggestion(word, is_word)
                found[word] = UnknownWord(word, suggestion, bool(suggestion and is_word))
        return tuple(found.values())

    def corrected(self, text: str, is_word: Callable[[str], bool]) -> str:
        """Return a text with its likely slips corrected; one without any is returned as it is.

        Args: see `unknown_words`.
        """
        slips = [one for one in self.unknown_words(text, is_word) if one.corrected]
        if slips:
            text = _plain(text)
        for one in slips:
            text = re.sub(rf"(?<!\w){re.escape(one.word)}(?!\w)", one.suggestion or "", text)
        return text

    def _suggestion(self, word: str, is_word: Callable[[str], bool] | None) -> str | None:
        """Return a word with each unknown part replaced by the known one that it stands for."""
        corrected = word
        for part in _parts(word):
            if not self._is_known(part):
                exists = is_word is not None and is_word(part)
                meant = nearest(part, self._meant, is_word=exists)
                if meant is None:
                    return None
                corrected = corrected.replace(part, meant, 1)
        return corrected


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", clean(text)).lower()


def _written_words(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case, with their apostrophes; no numbers."""
    for is_word, run in itertools.groupby(_plain(text), _is_of_a_word):
        if is_word:
            characters = [one for one in run if unicodedata.category(one) != "Cf"]
            word = "".join(characters).strip(APOSTROPHES)
            if word and not any(unicodedata.category(one)[0] == "N" for one in word):
                yield word


def _is_of_a_word(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LMN" or category == "Cf" or character in APOSTROPHES


def _parts(word: str) -> list[str]:
    for apostrophe in APOSTROPHES[1:]:
        word = word.replace(apostrophe, APOSTROPHES[0])
    parts = word.split(APOSTROPHES[0])
    return [part for part in parts if sum(map(str.isalpha, part)) >= MIN_LETTERS]
