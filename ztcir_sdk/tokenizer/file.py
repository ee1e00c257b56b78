"""A bundle's ``tokenizer.json``: which files are accepted, and what they become.

The library `tokenizers` runs what a file describes: regular expressions that take for ever,
replacements that multiply a text, padding of any length. Only the steps that an export writes are
accepted.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ztcir_sdk.errors import BundleError, first_line
from ztcir_sdk.files import read_bounded
from ztcir_sdk.tokenizer.words import AsciiWords

if TYPE_CHECKING:
    import tokenizers

__all__ = ["TokenizerFile", "is_of_library"]

MAX_BYTES = 100_000_000
MAX_STEPS = 16
MAX_ADDED_TOKENS = 10_000
MAX_CONTENT = 3
"""Characters that a step may put in place of others: "▁" for a space, for example."""

_STEPS = {
    "normalizer": {"Sequence", "Replace", "Prepend", "Precompiled", "Lowercase", "NFC", "NFKC"}
    | {"Strip", "StripAccents", "NFD", "NFKD"},
    "pre_tokenizer": {"Sequence", "Split", "ByteLevel", "Metaspace", "WhitespaceSplit"},
    "model": {"BPE", "Unigram"},
}
"""Part of the file -> the kinds of steps that it may have."""
_UNUSED = ("post_processor", "decoder", "padding", "truncation")
"""Parts that have no effect on a text's ids here, and are not loaded."""

_RANGES = r"\[(?:\\x\{[0-9a-f]{1,6}\}-\\x\{[0-9a-f]{1,6}\})+\]"
_CLIP_PATTERN = re.compile(
    rf"'\[s\\x\{{17f\}}\]\|'t\|'re\|'ve\|'m\|'ll\|'d\|{_RANGES}\+\|{_RANGES}\|{_RANGES}\+"
)
"""The words of CLIP, as `train.model.vocabulary` writes them."""
_SIMPLE_PATTERN = re.compile(r"[^()|+*?{}]{0,10}(?:[+*?]|\{[0-9]{1,2},?[0-9]{0,2}\})?")
"""One character or class, repeated, such as ``\\S+`` or `` {2,}``."""


class TokenizerFile:
    """The vocabulary of a ``tokenizer.json``. Threads may share one.

    `AsciiWords` encodes plain English with CLIP's vocabulary. Other texts and other vocabularies
    need the library `tokenizers`, which takes longer to load than a query takes.

    Attributes:
        size: number of ids.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file.

        Raises:
            BundleError: the file is missing, unreadable, not a tokenizer, or has other steps than
                an export writes.
        """
        self._path = path
        self._lock = threading.Lock()
        self._library: tokenizers.Tokenizer | None = None
        content = _read(path)
        self._words = words = AsciiWords.of(content)
        if words is None:
            self._library = _loaded(path, content)
            self.size = self._library.get_vocab_size()
        else:
            self.size = len(words.vocabulary)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, or None."""
        if self._words is not None:
            return self._words.vocabulary.get(token)
        return self._loaded_library().token_to_id(token)

    def ids(self, text: str) -> list[int]:
        """Return the ids of cleaned words, without start and end."""
        known = None if self._words is None else self._words.ids(text)
        if known is not None:
            return known
        found: list[int] = self._loaded_library().encode(text, add_special_tokens=False).ids
        return found

    def _loaded_library(self) -> tokenizers.Tokenizer:
        with self._lock:
            if self._library is None:
                self._library = _loaded(self._path, _read(self._path))
            return self._library


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` whose steps are known."""
    try:
        data = read_bounded(Path(path), MAX_BYTES)
    except OSError as error:
        raise BundleError(
            f"The tokenizer {path} cannot be read ({error}): export the bundle again."
        ) from error
    try:
        content = msgspec.json.decode(data)
        problem = _problem(content)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise _no_tokenizer(path, first_line(error)) from error
    if problem is not None:
        raise _no_tokenizer(path, problem)
    assert isinstance(content, dict)
    return content


def _loaded(path: str | os.PathLike[str], content: Mapping[str, Any]) -> tokenizers.Tokenizer:
    import tokenizers

    known = {name: value for name, value in content.items() if name not in _UNUSED}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps({**known, **dict.fromkeys(_UNUSED)}))
    except BaseException as error:  # a panic of Rust is no Exception
        if not is_of_library(error):
            raise
        raise _no_tokenizer(path, first_line(error)) from error


def is_of_library(error: BaseException) -> bool:
    """Return whether the library raised an error: bare exceptions, and panics of Rust."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _no_tokenizer(path: str | os.PathLike[str], why: str) -> BundleError:
    return BundleError(f"{path} is not a tokenizer ({why}): export the bundle again.")


def _problem(content: Any) -> str | None:
    """Return what a file has that an export does not write; None if there is nothing."""
    if not isinstance(content, dict):
        return "it is not an object"
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        return "its added tokens are not a list, or too many"
    for part, kinds in _STEPS.items():
        steps = list(_steps(content.get(part)))
        if len(steps) > MAX_STEPS:
            return f"its {part} has over {MAX_STEPS} steps"
        for step in steps:
            kind = step.get("type", "BPE" if part == "model" else None)
            if not isinstance(kind, str) or kind not in kinds:
                return f"its {part} has a step {step.get('type')!r}, which no export writes"
            if (problem := _step_problem(step)) is not None:
                return f"its {part} has {problem}"
    model = content.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        return "its model drops merges at random"
    return None


def _steps(step: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(step, dict):
        yield step
        for name in ("normalizers", "pretokenizers"):
            inner = step.get(name)
            if isinstance(inner, list):
                for one in inner[: MAX_STEPS + 1]:
                    yield from _steps(one)


def _step_problem(step: Mapping[str, Any]) -> str | None:
    for name in ("content", "prepend", "replacement"):
        content = step.get(name)
        if isinstance(content, str) and len(content) > MAX_CONTENT:
            return f"a replacement of {len(content)} characters"
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(expression, str) and not (
        _CLIP_PATTERN.fullmatch(expression) or _SIMPLE_PATTERN.fullmatch(expression)
    ):
        return "a regular expression that no export writes"
    return None
