"""The vocabulary of training texts: words of enough texts, as a search will find them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.word_counts import training_vocabulary
from ztcir_sdk.errors import UsageError
from ztcir_sdk.modification import Vocabulary


def test_a_word_counts_once_for_each_text_that_has_it() -> None:
    texts = ["Red red RED shirt", "in red", "a men's shirt, size 42", "in Rot"]
    assert training_vocabulary(texts, at_least=1) == ["in", "red", "shirt", "men", "rot", "size"]
    assert training_vocabulary(texts, at_least=2) == ["in", "red", "shirt"]
    assert training_vocabulary(iter(texts), at_least=3) == []
    assert training_vocabulary([]) == []


def test_equal_texts_count_each() -> None:
    assert training_vocabulary(["make it red"] * 20) == ["it", "make", "red"]
    assert training_vocabulary(["make it red"] * 19) == []


def test_a_number_below_1_is_refused() -> None:
    with pytest.raises(UsageError, match=r"at_least must be .* at least 1, not 0"):
        training_vocabulary(["red"], at_least=0)


@given(st.lists(st.text(max_size=20), max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_collected_can_be_written_to_a_bundle(texts: list[str]) -> None:
    words = training_vocabulary(texts, at_least=1)
    assert len(words) == len(set(words))
    if words:
        assert Vocabulary.from_bytes(Vocabulary(words).to_bytes()).words == tuple(words)
