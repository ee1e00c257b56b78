"""The tokenizer: prompts, batches, and texts that cannot reach the special ids or the placeholder.

That its ids equal open_clip's is tested in tests/train/model/test_tokenizer_parity.py.
"""

from __future__ import annotations

import json
import threading
import time
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sample_texts import FRAGMENTS, SPECIAL_STRINGS, TEMPLATE

from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import BundleError, UsageError
from ztcir_sdk.names import PLACEHOLDER_ID
from ztcir_sdk.tokenizer import TextTruncatedWarning, Tokenizer, clean

CUT = "ignore::ztcir_sdk.tokenizer.TextTruncatedWarning"


@pytest.fixture(scope="module")
def tokenizer_file() -> Path:
    """CLIP's vocabulary, inside the package."""
    return Bundle.embedded().tokenizer_path


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer.from_file(tokenizer_file)


class TestNoTextReachesSpecialIds:
    @pytest.mark.filterwarnings(CUT)
    @settings(max_examples=300, deadline=None)
    @given(
        text=st.lists(st.one_of(st.sampled_from(SPECIAL_STRINGS), FRAGMENTS), min_size=1).map(
            "".join
        )
    )
    @example(text="&lt;end_of_text&gt;")
    @example(text="\uff1cend_of_text\uff1e")
    @example(text="<|END_OF_TEXT|> <END_OF_TEXT> <\u017ftart_of_text>")
    def test_inside_a_prompt(self, tokenizer: Tokenizer, text: str) -> None:
        assume(clean(text).strip("\u0345 "))
        ids = tokenizer.encode_prompt(TEMPLATE, text)
        assert ids[0] == tokenizer.sot
        assert ids[-1] == tokenizer.eot
        assert ids.count(PLACEHOLDER_ID) == 1
        text_ids = tokenizer.encode(text)[1:-1]
        assert min(text_ids) >= 0
        assert not {tokenizer.sot, tokenizer.eot} & {*ids[1:-1], *text_ids}


class TestPrompts:
    def test_placeholder_alone(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode_prompt("a photo of $")
        assert ids == [*tokenizer.encode("a photo of")[:-1], PLACEHOLDER_ID, tokenizer.eot]

    def test_several_pseudo_words(self, tokenizer: Tokenizer) -> None:
        one, three = (tokenizer.encode_prompt(TEMPLATE, "is red", n_tokens=n) for n in (1, 3))
        at = one.index(PLACEHOLDER_ID)
        assert three == one[:at] + [PLACEHOLDER_ID] * 3 + one[at + 1 :]

    def test_marks_in_a_text_are_characters(self, tokenizer: Tokenizer) -> None:
        text = "costs $ 20, not {text} {} or $"
        ids = tokenizer.encode_prompt(TEMPLATE, text)
        assert ids[ids.index(PLACEHOLDER_ID) + 2 :] == tokenizer.encode(text)[1:]

    def test_text_alone_equals_encode(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.encode_prompt("{text}", "make it red") == tokenizer.encode("make it red")

    @pytest.mark.parametrize("template", [TEMPLATE, "{text} , like $ but new"])
    def test_too_long_cuts_the_text_alone(self, tokenizer: Tokenizer, template: str) -> None:
        with pytest.warns(
            TextTruncatedWarning,
            match=r"300 tokens .* 77 leaves \d+ for it, so its last \d+ tokens are dropped",
        ):
            cut = tokenizer.encode_prompt(template, "red blue green " * 100, n_tokens=4)
        assert len(cut) == 77
        assert cut.count(PLACEHOLDER_ID) == 4
        assert cut[-1] == tokenizer.eot
        whole = tokenizer.encode_prompt(template, "red", n_tokens=4)
        assert [token for token in whole if token not in tokenizer.encode("red")[1:-1]] == [
            token for token in cut if token not in tokenizer.encode("red blue green")[1:-1]
        ]

    def test_exactly_full_is_not_cut(self, tokenizer: Tokenizer) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(tokenizer.encode("red " * 75)) == 77
            assert len(tokenizer.encode_prompt(TEMPLATE, "red " * 70)) == 77

    @pytest.mark.parametrize(
        ("template", "text", "message"),
        [
            ("a photo", None, "neither"),
            ("$ and $", None, "more than one"),
            ("{text} {text}", "red", "more than one"),
            ("a photo of $s", None, "next to a letter or digit"),
            ("a photo of 2$", None, "next to a letter or digit"),
            ("$ that is ({text})", "red", "needs spaces around"),
            ("${text}", "red", "needs spaces around"),
            (TEMPLATE, None, "needs a text"),
            ("a photo of $", "red", "has no"),
            ("word " * 75 + "{text}", "red", "shorter"),
            ("word " * 80 + "$", None, "shorter"),
        ],
    )
    def test_wrong_templates(
        self, tokenizer: Tokenizer, template: str, text: str | None, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            tokenizer.encode_prompt(template, text)

    def test_no_pseudo_word_is_wrong(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(UsageError, match="n_tokens"):
            tokenizer.encode_prompt(TEMPLATE, "red", n_tokens=0)


class TestEmptyTexts:
    @pytest.mark.parametrize(
        "text", ["", " ", "\n\t ", "\u00a0\u3000", "&nbsp; &#32;", "\x00\x07", "\ufeff", "\u0345"]
    )
    def test_are_refused(self, tokenizer: Tokenizer, text: str) -> None:
        with pytest.raises(UsageError, match="is empty"):
            tokenizer.encode(text)
        with pytest.raises(UsageError, match="is empty"):
            tokenizer.encode_prompt(TEMPLATE, text)
        with pytest.raises(UsageError, match="is empty"):
            tokenizer.encode_batch(["red", text])

    def test_not_a_string(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(UsageError, match="not int"):
            tokenizer.encode(3)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="list of texts"):
            tokenizer.encode_batch("red")


class TestBatches:
    def test_pad_to_the_longest(self, tokenizer: Tokenizer) -> None:
        batch = tokenizer.encode_batch(["red", "make it red!"])
        assert batch.dtype == np.int64
        assert batch.tolist() == [
            [*tokenizer.encode("red"), 0, 0, 0],
            tokenizer.encode("make it red!"),
        ]

    def test_pad_to_a_length(self, tokenizer_file: Path) -> None:
        tokenizer = Tokenizer.from_file(tokenizer_file, context_length=64, pad_to=64)
        prompts = [tokenizer.encode_prompt(TEMPLATE, text) for text in ("is red", "is longer")]
        batch = tokenizer.pad(prompts)
        assert batch.shape == (2, 64)
        assert (batch == PLACEHOLDER_ID).sum(axis=1).tolist() == [1, 1]

    def test_no_texts(self, tokenizer: Tokenizer, tokenizer_file: Path) -> None:
        assert tokenizer.encode_batch([]).shape == (0, 0)
        assert Tokenizer.from_file(tokenizer_file, pad_to=77).encode_batch([]).shape == (0, 77)

    def test_a_thousand_texts_are_fast(self, tokenizer: Tokenizer) -> None:
        texts = [f"a long sleeved red dress number {i} with a floral print" for i in range(1000)]
        tokenizer.encode_batch(texts[:10])
        start = time.process_time()
        tokenizer.encode_batch(texts)
        assert time.process_time() - start < 1.0  # about 0.03 s on one core

    def test_threads_share_one(self, tokenizer: Tokenizer) -> None:
        texts = [f"{unicodedata.name(chr(0x1F300 + i), 'none')} {i}" for i in range(250)]
        expected = [tokenizer.encode(text) for text in texts]
        results: list[list[list[int]]] = []

        def work() -> None:
            results.append([tokenizer.encode(text) for text in texts])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [expected] * 4


class TestLoading:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="cannot be read"):
            Tokenizer.from_file(tmp_path / "tokenizer.json")

    @pytest.mark.parametrize("content", ["", "{}", "not json", '{"version":"1.0","model":3}'])
    def test_malformed_file(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "tokenizer.json"
        path.write_text(content)
        with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
            Tokenizer.from_file(path)

    def test_vocabulary_without_special_tokens(self, tokenizer_file: Path, tmp_path: Path) -> None:
        content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        del content["model"]["vocab"]["<end_of_text>"]
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(BundleError, match="lacks"):
            Tokenizer.from_file(path)

    def test_contradicting_lengths(self, tokenizer_file: Path) -> None:
        with pytest.raises(UsageError, match="pad_to"):
            Tokenizer.from_file(tokenizer_file, context_length=77, pad_to=64)
        with pytest.raises(UsageError, match="context_length"):
            Tokenizer.from_file(tokenizer_file, context_length=2)


@given(
    text=st.lists(st.sampled_from(["red", "extraordinarily", "$", "été", "x1"]), max_size=90).map(
        " ".join
    ),
    n_tokens=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_text_fits_if_it_is_not_cut(tokenizer: Tokenizer, text: str, n_tokens: int) -> None:
    assume(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer.encode_prompt(TEMPLATE, text, n_tokens=n_tokens)
    assert tokenizer.fits(TEMPLATE, text, n_tokens=n_tokens) == (not caught)
