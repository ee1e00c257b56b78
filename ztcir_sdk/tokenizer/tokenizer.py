"""Text to ``input_ids``: open_clip's cleaning, then the vocabulary of a ``tokenizer.json``.

The vocabulary is CLIP's BPE or SigLIP's sentencepiece, which has no start-of-text and its own
padding. All ids equal those of ``open_clip.get_tokenizer(...)``, with two intended exceptions:

* ``<start_of_text>`` and ``<end_of_text>`` inside a text are plain words. open_clip encodes them as
  the special ids, with which a text could end its prompt early.
* A text without a word is refused. open_clip encodes it as start and end.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import BundleError, UsageError, first_line
from ztcir_sdk.names import PLACEHOLDER_ID, PLACEHOLDER_MARK, TEXT_SLOT
from ztcir_sdk.tokenizer.cleaning import CLEANINGS
from ztcir_sdk.tokenizer.file import TokenizerFile, is_of_library

if TYPE_CHECKING:
    import tokenizers

__all__ = ["END_OF_TEXT", "START_OF_TEXT", "TextTruncatedWarning", "Tokenizer"]

START_OF_TEXT = "<start_of_text>"
END_OF_TEXT = "<end_of_text>"
UNKNOWN_TOKENS = ("<unk>", "[UNK]")
"""What vocabularies have for characters that they lack."""

_SLOTS = re.compile(rf"({re.escape(PLACEHOLDER_MARK)}|{re.escape(TEXT_SLOT)})")


class TextTruncatedWarning(UserWarning):
    """A text was longer than the context and lost its last tokens."""


class Tokenizer:
    """A backbone's tokenizer. Threads may share one.

    Attributes:
        context_length: most tokens of one text, including start and end.
        pad_to: length of every batch in tokens; None for the longest text of the batch.
        pad_id: id that a batch is padded with.
        sot: id of start-of-text; None if texts have none.
        eot: id of end-of-text.
        vocab_size: number of ids, which start at 0.
    """

    def __init__(
        self,
        bpe: tokenizers.Tokenizer | TokenizerFile,
        *,
        context_length: int = 77,
        pad_to: int | None = None,
        pad_id: int = 0,
        clean: str = "lower",
        start: str | None = START_OF_TEXT,
        end: str = END_OF_TEXT,
    ) -> None:
        """Wrap `bpe`, whose vocabulary must have the tokens `start` and `end`; see `from_file`."""
        if context_length < 3:
            raise UsageError(f"context_length must be at least 3, not {context_length}.")
        if pad_to is not None and pad_to < context_length:
            raise UsageError(
                f"pad_to must be at least the context length {context_length}, not {pad_to}."
            )
        sot, eot = None if start is None else bpe.token_to_id(start), bpe.token_to_id(end)
        if eot is None or (start is not None and sot is None):
            lacking = end if start is None else f"{start} or {end}"
            raise BundleError(
                f"The tokenizer's vocabulary lacks {lacking}: export the bundle again."
            )
        if clean not in CLEANINGS:
            raise UsageError(f"There is no cleaning {clean!r}: use {' or '.join(CLEANINGS)}.")
        self._bpe = bpe
        self._clean = CLEANINGS[clean]
        self.context_length = context_length
        self.pad_to = pad_to
        self.pad_id = pad_id
        self.sot: int | None = sot
        self.eot: int = eot
        self.vocab_size: int = bpe.size if isinstance(bpe, TokenizerFile) else bpe.get_vocab_size()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Tokenizer:
        """Load a bundle's ``tokenizer.json``.

        Args:
            path: the file.
            options: `context_length` and `pad_to`; for another vocabulary than CLIP's also
                `pad_id`, `clean` (of `CLEANINGS`), and the tokens `start` and `end`.

        Raises:
            BundleError: the file is missing, unreadable or not a tokenizer.
            UsageError: the lengths contradict each other.
        """
        return cls(TokenizerFile(path), **options)

    def encode(self, text: str) -> list[int]:
        """Encode one text: start-of-text, its words' ids, end-of-text.

        A text that is too long is cut before end-of-text, with a `TextTruncatedWarning`.

        Raises:
            UsageError: `text` is empty before or after cleaning.
        """
        return self.encode_prompt(TEXT_SLOT, text)

    def holds(self, text: str) -> bool:
        """Return whether a text fits: something is left of it, nothing is unknown or cut."""
        ids = self._encode_words(text, first=True)
        unknown = {self._bpe.token_to_id(name) for name in UNKNOWN_TOKENS}
        return 0 < len(ids) <= self.context_length - 2 and unknown.isdisjoint(ids)

    def encode_batch(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Encode texts into one padded array, (B, T) int64; see `encode` and `pad`.

        Raises:
            UsageError: a text is empty, or `texts` is a single string.
        """
        if isinstance(texts, str):
            raise UsageError("encode_batch takes a list of texts: call encode for a single one.")
        return self.pad([self.encode(text) for text in texts])

    def encode_prompt(
        self, template: str, text: str | None = None, *, n_tokens: int = 1
    ) -> list[int]:
        """Encode a template such as ``"a photo of $ that {text}"`` with `text` in its slot.

        Only the template's own ``$`` becomes the placeholder, `n_tokens` times `PLACEHOLDER_ID`;
        in `text`, ``$`` and ``{text}`` are plain characters. Template and text are cleaned
        separately, so the ids of a text do not depend on its template. In a prompt that is too long
        the text is cut, with a `TextTruncatedWarning`.

        Args:
            template: at most one ``$``, touching no letter or digit, and at most one ``{text}``
                between spaces; at least one of the two.
            text: the text for ``{text}``; None for a template without it.
            n_tokens: number of pseudo-words of a placeholder.

        Raises:
            UsageError: the template is malformed or leaves no room for the text, or the text is
                missing, superfluous or empty.
        """
        pieces = _split_template(template)
        if (text is not None) != (TEXT_SLOT in pieces):
            needs = "needs a text" if text is None else f"has no {TEXT_SLOT} for a text"
            raise UsageError(f"The template {template!r} {needs}.")
        if n_tokens < 1:
            raise UsageError(f"n_tokens must be at least 1, not {n_tokens}.")

        encoded: list[list[int]] = []
        for piece in pieces:
            if piece == PLACEHOLDER_MARK:
                encoded.append([PLACEHOLDER_ID] * n_tokens)
            elif piece == TEXT_SLOT and text is not None:
                encoded.append(self._encode_text(text, first=not any(encoded)))
            else:
                encoded.append(self._encode_words(piece, first=not any(encoded)))

        special = 1 if self.sot is None else 2
        excess = special + sum(map(len, encoded)) - self.context_length
        if excess > 0:
            words = encoded[pieces.index(TEXT_SLOT)] if text is not None else []
            if excess >= len(words):
                raise UsageError(
                    f"The template {template!r} fills the context of {self.context_length} tokens: "
                    "use a shorter one."
                )
            warnings.warn(
                f"A text of {len(words)} tokens is too long: the context of {self.context_length} "
                f"leaves {len(words) - excess} for it, so its last {excess} tokens are dropped.",
                TextTruncatedWarning,
                stacklevel=2,
            )
            del words[-excess:]
        start = [] if self.sot is None else [self.sot]
        return [*start, *(token for ids in encoded for token in ids), self.eot]

    def fits(self, template: str, text: str, *, n_tokens: int = 1) -> bool:
        """Return whether a prompt fits into the context, so that its text is not cut.

        Args:
            template: see `encode_prompt`.
            text: the text for ``{text}``.
            n_tokens: number of pseudo-words of a placeholder.
        """
        tokens = 1 if self.sot is None else 2
        for piece in _split_template(template):
            if piece == PLACEHOLDER_MARK:
                tokens += n_tokens
            else:
                words = text if piece == TEXT_SLOT else piece
                tokens += len(self._encode_words(words, first=False))
        return tokens <= self.context_length

    def is_word(self, word: str) -> bool:
        """Return whether a word is one token: common enough to be no slip, in some language."""
        return len(self._encode_words(word, first=False)) == 1

    def pad(self, sequences: Iterable[Sequence[int]]) -> NDArray[np.int64]:
        """Stack encoded texts or prompts into (B, T) int64, padded with `pad_id`.

        T is `pad_to`, or else the longest of the batch. CLIP's padding, 0, is also the id of "!",
        so the length of a text is read from its end-of-text.
        """
        rows = list(sequences)
        length = max(map(len, rows), default=0) if self.pad_to is None else self.pad_to
        input_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        for row, sequence in zip(input_ids, rows, strict=True):
            row[: len(sequence)] = sequence
        return input_ids

    def _encode_text(self, text: str, *, first: bool) -> list[int]:
        if not isinstance(text, str):
            raise UsageError(f"A text must be a string, not {type(text).__name__}.")
        ids = self._encode_words(text, first=first)
        if not ids:
            raise UsageError(
                f"The text {text[:40]!r} is empty: describe what should change, or use the method "
                "image to find similar images."
            )
        return ids

    def _encode_words(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of words, which may be the `first` ones of a prompt.

        A sentencepiece vocabulary marks a word by the space before it; CLIP's BPE drops spaces.
        """
        words = self._clean(text)
        if not words:
            return []
        spaced = words if first else f" {words}"
        try:
            if isinstance(self._bpe, TokenizerFile):
                return self._bpe.ids(spaced)
            ids: list[int] = self._bpe.encode(spaced, add_special_tokens=False).ids
        except BundleError:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            if not is_of_library(error):
                raise
            raise BundleError(
                f"The tokenizer failed at the text {text[:40]!r} ({first_line(error)}): export the "
                "bundle again."
            ) from error
        return ids


def _split_template(template: str) -> list[str]:
    """Split a template at its slots, which become pieces of their own.

    BPE encodes each word separately, so pieces of whole words have the ids of the whole template.
    """
    for slot in (PLACEHOLDER_MARK, TEXT_SLOT):
        if template.count(slot) > 1:
            raise UsageError(f"The template {template!r} has more than one {slot}.")
    matches = list(_SLOTS.finditer(template))
    if not matches:
        raise UsageError(
            f"The template {template!r} has neither {PLACEHOLDER_MARK} nor {TEXT_SLOT}: add one."
        )
    for match in matches:
        neighbours = template[: match.start()][-1:] + template[match.end() :][:1]
        if match[0] == TEXT_SLOT and neighbours.strip():
            raise UsageError(f"The template {template!r} needs spaces around {TEXT_SLOT}.")
        if match[0] == PLACEHOLDER_MARK and any(map(str.isalnum, neighbours)):
            raise UsageError(
                f"The template {template!r} has {PLACEHOLDER_MARK} next to a letter or digit: "
                "separate them with a space."
            )
    return _SLOTS.split(template)
