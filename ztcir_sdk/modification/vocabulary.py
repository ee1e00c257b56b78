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
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass

from ztcir_sdk.errors import UsageError
from ztcir_sdk.modification.refused import names_value
from ztcir_sdk.tokenizer import clean

__all__ = ["UnknownWord", "Vocabulary", "names_any", "words_of"]

APOSTROPHES = "'\u2019\u02bc`"
MIN_LETTERS = 2
"""A word of fewer letters is always known."""
MOSTLY = 0.5
"""Share of unknown words."""


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


_PART = (
    r"\b(?:with|has|having|mit|con|avec) "
    r"(?:(?:an?|some|the|ein(?:e|en|em|er)?|un[ae]?|une) )?(?:\w+ )?\w+"
)
_EXCHANGE = r"\b(?:replace|swap|exchange|trade|change|switch|substitute)"


def names_any(text: str, words: Collection[str]) -> bool:
    """Return whether a text asks for one of some words, or names a colour or a pattern.

    What stands after "with" is a part, in four languages: a shirt "with a belt" stays a shirt,
    unless one is to be replaced with the other.
    """
    text = " ".join(text.lower().split())
    if names_value(text):
        return True
    if not re.search(_EXCHANGE, text):
        text = re.sub(_PART, " ", text)
    return any(word in words for word in words_of(text))


def names_part(text: str, words: Collection[str]) -> bool:
    """Return whether a text names one of some words as a part: "laces" in "with laces"."""
    parts = re.findall(_PART, " ".join(text.lower().split()))
    return any(word in words for part in parts for word in words_of(part))


class Vocabulary:
    """The words that a model was trained on. Threads may share one.

    Attributes:
        words: the words, each once, in the order given.
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Take words as `words_of` returns them, the commonest first where that is known.

        Of two words that are equally near to a mistyped one, the earlier is suggested.
        """
        self.words = tuple(dict.fromkeys(words))
        self._known = frozenset(self.words)

    @classmethod
    def from_bytes(cls, content: bytes) -> Vocabulary:
        """Read what `to_bytes` wrote.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return cls(content.decode("utf-8").split())

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

    def unknown_words(
        self, text: str, is_word: Callable[[str], bool] | None = None
    ) -> tuple[UnknownWord, ...]:
        """Return the words of a text that the model was not trained on, each once, in order.

        Args:
            text: a modification text.
            is_word: whether a word, in lower case, is one of a language, which is not corrected;
                None corrects none.
        """
        found = {}
        for word in _written_words(text):
            if word not in found and any(part not in self._known for part in _parts(word)):
                suggestion = self._suggestion(word)
                corrected = suggestion is not None and is_word is not None and not is_word(word)
                found[word] = UnknownWord(word, suggestion, corrected)
        return tuple(found.values())

    def mostly_unknown(self, text: str) -> bool:
        """Return whether the model was trained on less than half of a text's words, or on half."""
        words = words_of(text)
        return sum(word not in self._known for word in words) >= MOSTLY * max(1, len(words))

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

    def _suggestion(self, word: str) -> str | None:
        """Return a word with each unknown part replaced by its nearest known one."""
        corrected = word
        for part in _parts(word):
            if part not in self._known:
                nearest = self._nearest(part)
                if nearest is None:
                    return None
                corrected = corrected.replace(part, nearest, 1)
        return corrected

    def _nearest(self, word: str) -> str | None:
        """Return the known word that a word is likely a slip of."""
        from rapidfuzz import process  # only where a word is unknown
        from rapidfuzz.distance import OSA

        near = process.extract(
            word, self.words, scorer=OSA.distance, score_cutoff=_slips(word), limit=None
        )
        likely = [
            (distance, _letters_differ(word, other), other[0] != word[0], rank, other)
            for other, distance, rank in near
            if _is_likely(word, other, int(distance))
        ]
        return min(likely)[-1] if likely else None


def _slips(word: str) -> int:
    """Return how many slips a word of this length may have."""
    return 1 if len(word) < 6 else 2


def _letters_differ(word: str, other: str) -> bool:
    return sorted(word) != sorted(other)


def _is_likely(word: str, other: str, slips: int) -> bool:
    """Return whether a word is rather a mistyped `other` than a word of its own.

    Two swapped letters are a slip in a word of any length. Short words are near to many others, and
    a first letter is rarely wrong.
    """
    if slips == 1 and not _letters_differ(word, other):
        return True
    if word[0] != other[0]:
        return slips == 1 and len(word) >= 6
    return len(word) >= 4


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
