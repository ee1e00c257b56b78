"""The words of training texts: what a bundle tells its users that its model knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ztcir_sdk.errors import UsageError
from ztcir_sdk.modification import words_of

__all__ = ["MIN_TEXTS", "VOCABULARY_KEY", "training_vocabulary"]

MIN_TEXTS = 20
"""Texts that must have a word; a word of fewer was hardly learned."""


VOCABULARY_KEY = "vocabulary"
"""Entry of "training" in a checkpoint's configuration: its words in lower case."""


def training_vocabulary(texts: Iterable[str], *, at_least: int = MIN_TEXTS) -> list[str]:
    """Return the words that occur in at least `at_least` of some texts, the commonest first.

    Words are in lower case and as `ztcir_sdk.modification.words_of` finds them: without numbers,
    punctuation and single letters, in any language. Leave out texts that are mistyped on purpose:
    their frequent slips would count as words.

    Args:
        texts: captions and modification texts of the training; read once.
        at_least: number of texts, at least 1.

    Raises:
        UsageError: `at_least` is below 1.
    """
    if at_least < 1:
        raise UsageError(f"at_least must be a whole number of at least 1, not {at_least}.")
    counts: Counter[str] = Counter()
    for text, repeated in Counter(texts).items():  # synthetic texts are often the same
        for word in set(words_of(text)):
            counts[word] += repeated
    frequent = [word for word, count in counts.items() if count >= at_least]
    frequent.sort(key=lambda word: (-counts[word], word))
    return [word for word in frequent if words_of(word) == [word]]
