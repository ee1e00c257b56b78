"""The SDK's tokenizer gives open_clip's ids for every text."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sample_texts import SPECIAL_STRINGS, TEMPLATE, TEXTS

from train.model.text_tower import CLIP_TOWER
from train.model.vocabulary import write_tokenizer
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import PLACEHOLDER_ID
from ztcir_sdk.tokenizer import TextTruncatedWarning, Tokenizer, clean

open_clip = pytest.importorskip("open_clip", reason="parity needs the train extra")

# what open_clip's case-insensitive pattern takes for a special token, once a text is cleaned
SPECIAL_TO_OPEN_CLIP = re.compile("<([s\u017f]tart|end)_of_text>")
CUT = "ignore::ztcir_sdk.tokenizer.TextTruncatedWarning"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(CLIP_TOWER, tmp_path_factory.mktemp("bundle") / "tokenizer.json")


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


def test_the_embedded_bundle_has_the_same_vocabulary(tokenizer_file: Path) -> None:
    """So that the tests of the SDK, which use it, need no open_clip."""
    assert Bundle.embedded().tokenizer_path.read_bytes() == tokenizer_file.read_bytes()


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


class TestSpecialStrings:
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
