"""The tokenizer gives open_clip's ids, and no text can reach the special ids or the placeholder."""

from __future__ import annotations

import csv
import json
import re
import threading
import time
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from train.model.vocabulary import write_clip_tokenizer
from ztcir_sdk.errors import BundleError, UsageError
from ztcir_sdk.names import PLACEHOLDER_ID
from ztcir_sdk.tokenizer import TextTruncatedWarning, Tokenizer, clean

open_clip = pytest.importorskip("open_clip", reason="parity needs the train extra")

TEMPLATE = "a photo of $ that {text}"
SPECIAL_STRINGS = ["<start_of_text>", "<end_of_text>", "<|startoftext|>", "<|endoftext|>"]
# What open_clip's case-insensitive pattern takes for a special token, once a text is cleaned.
SPECIAL_TO_OPEN_CLIP = re.compile("<([s\u017f]tart|end)_of_text>")
CUT = "ignore::ztcir_sdk.tokenizer.TextTruncatedWarning"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_tokenizer(tmp_path_factory.mktemp("bundle") / "tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer.from_file(tokenizer_file)


@pytest.fixture(scope="module")
def reference() -> Any:
    return open_clip.get_tokenizer("ViT-B-32")


def expected_ids(reference: Any, text: str) -> list[int]:
    """open_clip's ids of `text`, without the padding (whose 0 is also the id of "!")."""
    row: list[int] = reference([text])[0].tolist()
    return row[: row.index(reference.eot_token_id) + 1]


# Texts: whole Unicode, and pieces that each stress one step of cleaning or splitting.
FRAGMENTS = st.sampled_from(
    [
        *("red", "DRESS", "it's", "they'RE", "'\u017f", "don\u2019t", "I'll", "''s", "x'd", "'"),
        *("$", "{text}", "<b>", "&", "&amp;", "&amp;lt;3", "&eacute;", "&#x1F600;", "&#xD800;"),
        *("&nbsp;", "&notin", "sÃ£o", "â€œquotedâ€\x9d", "Ã ", "schÃ¶n", "ï»¿", "\ufeff"),
        *("👗", "👩🏽‍🎤", "🇩🇪", "❤️", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "Å", "ﬁ", "ﬅ", "Ⅳ", "½", "٣", "Ⓐ", "ᾳ"),
        *("e\u0301", "\u0301", "a\u0345", "\u0345", "İstanbul", "ΟΔΟΣ", "ẞ", "straße"),
        *("红色的裙子", "ｱｲｳ", "\uff32\uff25\uff24", "ไทย", "हिन्दी", "한국어", "3,5", "2024", "_"),
        *(" ", "  ", "\t", "\n", "\r\n", "\x00", "\x07", "\x1b[31m", "\x1c", "\x85", "\u200b"),
        *("\u2028", "\u00a0", "\u00ad", "!!!", "...", "—", "#1", "<|", "\ufffd", "\U0010ffff"),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=12).map("".join),
    st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=12).map(" ".join),
)


class TestParityWithOpenClip:
    def test_every_caption_and_modification_text(
        self, tokenizer_file: Path, reference: Any, shared_data: Path
    ) -> None:
        texts = list(_collected_texts(shared_data))
        assert len(texts) > 80_000
        distinct = [text for text in dict.fromkeys(texts) if clean(text)]
        tokenizer = Tokenizer.from_file(tokenizer_file, pad_to=77)
        for start in range(0, len(distinct), 4096):
            batch = distinct[start : start + 4096]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TextTruncatedWarning)
                ours = tokenizer.encode_batch(batch)
            # The texts stay out of the message: some belong to a measurement.
            different = np.flatnonzero((ours != reference(batch).numpy()).any(axis=1))
            assert different.size == 0, f"rows {start + different} differ"

    @pytest.mark.filterwarnings(CUT)
    @settings(max_examples=1500, deadline=None)
    @given(text=TEXTS)
    @example(text="\ud800 a lone surrogate")
    @example(text="\u0345")
    @example(text="&lt;b&gt; &amp;amp; caf&eacute;")
    def test_random_unicode(self, tokenizer: Tokenizer, reference: Any, text: str) -> None:
        assume(not SPECIAL_TO_OPEN_CLIP.search(clean(text)))
        expected = expected_ids(reference, text)
        if len(expected) == 2:  # nothing between start and end
            with pytest.raises(UsageError):
                tokenizer.encode(text)
        else:
            assert tokenizer.encode(text) == expected

    def test_every_edge_of_the_character_classes(
        self, tokenizer: Tokenizer, reference: Any
    ) -> None:
        """Letter, digit or other: `tokenizers` and open_clip's `regex` know different Unicodes."""
        regex = pytest.importorskip("regex")
        edges: set[int] = set()
        for character_class in (r"\p{L}", r"\p{N}", r"[^\s\p{L}\p{N}]"):
            runs = regex.finditer(f"{character_class}+", "".join(map(chr, range(0x110000))))
            for run in runs:
                edges |= {run.start() - 1, run.start(), run.end() - 1, run.end()}
        characters = [chr(code) for code in sorted(edges) if 0 < code < 0x110000]
        assert len(characters) > 2000
        texts = [f"a{c}1{c}!{c}{c}b'{c}s" for c in characters]
        wrong = [
            hex(ord(character))
            for character, text in zip(characters, texts, strict=True)
            if tokenizer.encode(text) != expected_ids(reference, text)
        ]
        assert wrong == []

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("red dress with flowers " * 400, id="words"),
            pytest.param("antidisestablishmentarianism" * 40, id="one long word"),
            pytest.param("🎽" * 300, id="emoji"),
            pytest.param("!" * 2000, id="one mark"),
            pytest.param("e" + "\u0301" * 500, id="combining marks"),
            pytest.param("7" * 500, id="digits"),
        ],
    )
    def test_long_texts_are_cut_as_open_clip_cuts_them(
        self, tokenizer: Tokenizer, reference: Any, text: str
    ) -> None:
        with pytest.warns(TextTruncatedWarning) as caught:
            ids = tokenizer.encode(text)
        assert ids == expected_ids(reference, text)
        assert len(ids) == 77
        assert ids[-1] == tokenizer.eot
        dropped = len(reference.encode(text)) - 75
        assert f"last {dropped} tokens" in str(caught[0].message)

    @pytest.mark.filterwarnings(CUT)
    @pytest.mark.parametrize("context_length", [3, 16, 64])
    def test_other_context_lengths(
        self, tokenizer_file: Path, reference: Any, context_length: int
    ) -> None:
        tokenizer = Tokenizer.from_file(
            tokenizer_file, context_length=context_length, pad_to=context_length
        )
        texts = ["red", "the same but " * 9]
        expected = reference(texts, context_length=context_length).numpy()
        np.testing.assert_array_equal(tokenizer.encode_batch(texts), expected)

    def test_special_ids(self, tokenizer: Tokenizer, reference: Any) -> None:
        assert tokenizer.sot == reference.sot_token_id
        assert tokenizer.eot == reference.eot_token_id
        assert tokenizer.vocab_size == reference.vocab_size


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

    @pytest.mark.parametrize("text", SPECIAL_STRINGS)
    def test_special_strings_are_spelt_out(
        self, tokenizer: Tokenizer, reference: Any, text: str
    ) -> None:
        parts = re.findall(r"[a-z]+|[^a-z]+", text)
        spelt = [token for part in parts for token in reference.encode(part)]
        assert tokenizer.encode(text)[1:-1] == spelt


class TestPrompts:
    @pytest.mark.filterwarnings(CUT)
    @settings(max_examples=800, deadline=None)
    @given(
        text=TEXTS,
        template=st.sampled_from(
            [
                TEMPLATE,
                "{text}",
                "$ {text}",
                "{text} is what I want $ to be",
                "A photo of $, {text}",
                'the "$", but   {text} \n please!',
            ]
        ),
        word=st.sampled_from(["dog", "dress", "x"]),
    )
    def test_equal_open_clip_with_a_word_in_the_slot(
        self, tokenizer: Tokenizer, reference: Any, text: str, template: str, word: str
    ) -> None:
        """For texts that the context cannot change: open_clip repairs mojibake over the whole."""
        text = clean(text)
        assume(clean(text) == text and text.strip("\u0345 "))
        assume(not SPECIAL_TO_OPEN_CLIP.search(text))
        (word_id,) = reference.encode(word)
        whole = template.replace("$", word).replace("{text}", text)
        assume(clean(whole) == clean(template.replace("$", word)).replace("{text}", text))
        expected = [49406, *reference.encode(whole), 49407]
        assume(len(expected) <= 77)
        ids = tokenizer.encode_prompt(template, text)
        assert [word_id if token == PLACEHOLDER_ID else token for token in ids] == expected

    def test_placeholder_alone(self, tokenizer: Tokenizer, reference: Any) -> None:
        ids = tokenizer.encode_prompt("a photo of $")
        assert ids == [49406, *reference.encode("a photo of"), PLACEHOLDER_ID, 49407]

    def test_several_pseudo_words(self, tokenizer: Tokenizer) -> None:
        one, three = (tokenizer.encode_prompt(TEMPLATE, "is red", n_tokens=n) for n in (1, 3))
        at = one.index(PLACEHOLDER_ID)
        assert three == one[:at] + [PLACEHOLDER_ID] * 3 + one[at + 1 :]

    def test_marks_in_a_text_are_characters(self, tokenizer: Tokenizer, reference: Any) -> None:
        text = "costs $ 20, not {text} {} or $"
        ids = tokenizer.encode_prompt(TEMPLATE, text)
        assert ids[ids.index(PLACEHOLDER_ID) + 2 : -1] == reference.encode(text)

    def test_text_alone_equals_encode(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.encode_prompt("{text}", "make it red") == tokenizer.encode("make it red")

    @pytest.mark.parametrize("template", [TEMPLATE, "{text} , like $ but new"])
    def test_too_long_cuts_the_text_alone(self, tokenizer: Tokenizer, template: str) -> None:
        with pytest.warns(TextTruncatedWarning, match=r"300 tokens .* 77: its last \d+ tokens"):
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


def _collected_texts(data: Path) -> Iterator[str]:
    """Every caption and modification text of the catalogue and of the public benchmarks."""
    with (data / "fashion-products" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        yield from (row["caption"] for row in csv.DictReader(file))
    with (data / "fashion-products" / "val-triplets.jsonl").open(encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)
    annotations = data / "cir-annotations"
    for path in sorted(annotations.glob("fashion-iq/captions/*.json")):
        for query in json.loads(path.read_text(encoding="utf-8")):
            yield from query["captions"]
    for path in sorted(annotations.glob("cirr/captions/*.json")):
        yield from (query["caption"] for query in json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(annotations.glob("circo/annotations/*.json")):
        for query in json.loads(path.read_text(encoding="utf-8")):
            yield from (query["relative_caption"], query["shared_concept"])
    for path in sorted(annotations.glob("genecis/*.json")):
        yield from (query["condition"] for query in json.loads(path.read_text(encoding="utf-8")))
