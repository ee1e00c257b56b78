"""Plain English is encoded without the library `tokenizers`, to the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ftfy
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import BundleError
from ztcir_sdk.tokenizer import Tokenizer, clean
from ztcir_sdk.tokenizer.cleaning import is_plain
from ztcir_sdk.tokenizer.words import AsciiWords

PRINTABLE = "".join(map(chr, range(32, 127)))


@pytest.fixture(scope="module")
def content() -> dict[str, object]:
    values = json.loads(Bundle.embedded().tokenizer_path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


@pytest.fixture(scope="module")
def library() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(Bundle.embedded().tokenizer_path))


@pytest.fixture(scope="module")
def words(content: dict[str, object]) -> AsciiWords:
    found = AsciiWords.of(content)
    assert found is not None
    return found


@given(text=st.text(PRINTABLE, max_size=60))
@example(text="it's they'RE don't I'll we've 'd 's '' !'s")
@example(text="a0b12 x-1 50% (red) <start_of_text> C++ ...!!! ~^`")
@settings(max_examples=400, deadline=None)
def test_ids_of_ascii_are_those_of_the_library(
    words: AsciiWords, library: tokenizers.Tokenizer, text: str
) -> None:
    assert words.ids(text) == library.encode(text, add_special_tokens=False).ids


def test_ids_of_every_word_of_the_vocabulary_are_those_of_the_library(
    words: AsciiWords, library: tokenizers.Tokenizer
) -> None:
    plain = [token.removesuffix("</w>") for token in words.vocabulary]
    plain = [token for token in plain if token and token.isascii() and token.isprintable()][::7]
    expected = library.encode_batch(plain, add_special_tokens=False)
    assert len(plain) > 5000
    assert [words.ids(token) for token in plain] == [one.ids for one in expected]


@pytest.mark.parametrize("text", ["a" * 101, "été", "red\tdress", "rot\u200b", "赤い"])
def test_other_texts_are_left_to_the_library(words: AsciiWords, text: str) -> None:
    assert words.ids(text) is None


@given(text=st.text(PRINTABLE + "\t\n\x1b\x85é“&", max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_plain_text_needs_no_repair(text: str) -> None:
    if is_plain(text):
        assert ftfy.fix_text(text) == text
    assert clean(text) == clean(ftfy.fix_text(text))


CHANGES: dict[str, dict[str, Any]] = {
    "another normalizer": {"normalizer": {"type": "Lowercase"}},
    "added tokens": {"added_tokens": [{"id": 0}]},
    "no end of word": {"model": {"end_of_word_suffix": None}},
    "an unknown token": {"model": {"unk_token": "!"}},
    "whole words first": {"model": {"ignore_merges": True}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_vocabulary_is_left_to_the_library(content: dict[str, Any], change: str) -> None:
    changed = dict(content)
    for part, values in CHANGES[change].items():
        old = changed[part]
        merged = {**old, **values} if isinstance(old, dict) and isinstance(values, dict) else values
        changed[part] = merged
    assert AsciiWords.of(changed) is None


def test_a_vocabulary_without_the_result_of_a_merge_is_refused_when_it_is_needed(
    content: dict[str, object], tmp_path: Path
) -> None:
    model = dict(content["model"])  # type: ignore[call-overload]
    vocabulary = dict(model["vocab"])
    vocabulary["unused"] = vocabulary.pop("red</w>")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**content, "model": {**model, "vocab": vocabulary}}))
    with pytest.raises(BundleError, match="is not a tokenizer"):
        Tokenizer.from_file(path).encode("red")
