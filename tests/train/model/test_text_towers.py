"""Text towers unlike CLIP's: without a causal mask, with another pooling and vocabulary."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import msgspec
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import PARTS, write_configuration
from tiny_siglip import LENGTH, SIGLIP, WORDS, write_siglip

from train.model import (
    Backbone,
    BackboneConfig,
    ComposedModel,
    TextTower,
    UnsupportedBackboneError,
    create_backbone,
    mapped_ids,
    prompt_ids,
    text_ids,
    text_layout,
    tower_tokenizer,
)
from train.model.text_tower import read_text_tower
from train.model.vocabulary import VocabularyError
from ztcir_sdk.bundle import TextLayout
from ztcir_sdk.errors import UsageError
from ztcir_sdk.tokenizer import TextTruncatedWarning
from ztcir_sdk.tokenizer import Tokenizer as SDKTokenizer


@pytest.fixture(scope="module", params=["t5", "gemma"])
def siglip_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def siglip(siglip_folder: Path) -> Backbone:
    return random_backbone(siglip_folder)


def random_backbone(folder: Path) -> Backbone:
    torch.manual_seed(0)
    backbone = create_backbone(BackboneConfig(str(folder)))
    with torch.no_grad():  # biases and gains too, which start at zero and one
        for parameter in backbone.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return backbone


def frozen_embeddings(backbone: Backbone, ids: torch.Tensor) -> torch.Tensor:
    """Embeddings of bare texts through the model's own text encoder, adapters off."""
    model = ComposedModel(backbone, PARTS).eval()
    v, patches = model.encode_image(torch.zeros(1, 3, *backbone.image_size))
    zeros = torch.zeros(len(ids))
    return model.encode_query(ids, zeros.long(), zeros, *model.learn_token(v, patches))


TEXTS = ["make it red", "the same but longer sleeves", "blue"]


@torch.no_grad()
def test_texts_are_embedded_as_open_clip_does(siglip: Backbone, siglip_folder: Path) -> None:
    _, reference = both_tokenizers(siglip_folder)
    expected = siglip.clip.encode_text(reference(TEXTS), normalize=True)
    got = frozen_embeddings(siglip, text_ids(TEXTS, tower=siglip.tower))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert float((got[0] - got[2]).abs().max()) > 1e-2  # the texts do matter


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_a_prompt_may_be_cut_after_its_end_only_where_the_tower_is_causal(
    tmp_path: Path, causal: bool
) -> None:
    text = {"context_length": LENGTH, "no_causal_mask": not causal}
    backbone = random_backbone(write_configuration(tmp_path, text=text, custom_text=True))
    ids = text_ids(TEXTS, tower=backbone.tower)
    whole = torch.zeros(len(TEXTS), LENGTH, dtype=torch.long)
    whole[:, : ids.shape[1]] = ids
    expected = backbone.clip.encode_text(whole, normalize=True)
    torch.testing.assert_close(frozen_embeddings(backbone, ids), expected, atol=1e-6, rtol=0)
    cut = whole[:, : int(whole.argmax(-1).max()) + 1]
    difference = float((frozen_embeddings(backbone, cut) - expected).abs().max())
    assert ids.shape[1] == (cut.shape[1] if causal else LENGTH)
    assert (difference < 1e-6) == causal


@functools.cache
def both_tokenizers(folder: Path) -> tuple[SDKTokenizer, Any]:
    """The SDK's tokenizer and open_clip's, over the same vocabulary."""
    vocabulary = str(folder / "vocabulary")
    tower = TextTower(LENGTH, causal=False, pool="last", vocabulary=vocabulary)
    reference = open_clip.tokenizer.HFTokenizer(
        vocabulary, context_length=LENGTH, clean="canonicalize"
    )
    return tower_tokenizer(tower), reference


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80) | st.lists(st.sampled_from(WORDS.split())).map(" ".join))
def test_token_ids_equal_open_clips(siglip_folder: Path, text: str) -> None:
    tokenizer, reference = both_tokenizers(siglip_folder)
    expected = reference([text])[0].tolist()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TextTruncatedWarning)
            got = tokenizer.encode_batch([text])[0].tolist()
    except UsageError:  # no word in it
        assert expected[0] == tokenizer.eot
        return
    assert got == expected


@pytest.mark.parametrize("text", TEXTS)
def test_words_around_the_placeholder_are_those_of_the_whole_prompt(
    siglip: Backbone, text: str
) -> None:
    whole = text_ids([f"a photo of that {text}"], tower=siglip.tower)[0]
    prompt = prompt_ids([text], tokens=2, tower=siglip.tower)[0]
    assert (prompt == -1).sum() == 2
    words = prompt[prompt != -1]
    assert words.tolist() == whole[: len(words)].tolist()
    assert len(prompt) == LENGTH


@pytest.mark.parametrize("text", ["<eos> red", "</s>", "red <pad><unused0>", "it costs $ 20"])
def test_no_text_holds_a_special_token_or_the_placeholder(siglip: Backbone, text: str) -> None:
    tokenizer = tower_tokenizer(siglip.tower)
    try:
        ids = tokenizer.encode(text)
    except UsageError:
        return
    unknown = tokenizer.vocab_size
    assert ids.count(tokenizer.eot) == 1
    assert ids[-1] == tokenizer.eot
    assert all(0 <= token < unknown for token in ids)
    if tokenizer.pad_id != tokenizer.eot:
        assert tokenizer.pad_id not in ids


def test_a_manifest_describes_the_tower(siglip: Backbone) -> None:
    layout = text_layout(siglip.tower)
    assert (layout.causal, layout.pool, layout.pad_to) == (False, "last", LENGTH)
    assert msgspec.json.decode(msgspec.json.encode(layout), type=TextLayout) == layout
    assert mapped_ids(1, tower=siglip.tower).shape == (1, LENGTH)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ({"pool_type": "eos"}, "pools by 'eos'"),
        ({"hf_tokenizer_name": "bert-base-uncased"}, "neither CLIP's nor a SigLIP's"),
        ({"embed_cls": True}, "class token"),
    ],
)
def test_unsupported_text_towers_are_refused(
    tmp_path: Path, text: dict[str, Any], sentence: str
) -> None:
    folder = write_configuration(tmp_path, text=text, custom_text=True)
    with pytest.raises(UnsupportedBackboneError, match=sentence):
        create_backbone(BackboneConfig(str(folder)))


def test_a_tower_that_masks_its_padding_is_refused() -> None:
    tower = open_clip.transformer.TextTransformer(
        no_causal_mask=True, use_pad_mask=True, layers=1, width=16, heads=2
    )
    with pytest.raises(UnsupportedBackboneError, match="mask their padding"):
        read_text_tower(tower, {})


def test_a_vocabulary_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = {**SIGLIP, "vocab_size": 300, "hf_tokenizer_name": str(tmp_path / "nowhere")}
    folder = write_configuration(tmp_path, text=text, custom_text=True)
    backbone = create_backbone(BackboneConfig(str(folder)))
    with pytest.raises(VocabularyError, match="nowhere can neither be downloaded nor read"):
        text_ids(["red"], tower=backbone.tower)
