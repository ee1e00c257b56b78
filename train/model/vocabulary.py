"""A backbone's tokenizer for the SDK: in memory for training, as a bundle's `tokenizer.json`."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from train.model.text_tower import SIGLIP_CLEANING, TextTower
from ztcir_sdk.bundle.manifest import TextLayout
from ztcir_sdk.errors import MissingDependencyError, ZtcirError
from ztcir_sdk.tokenizer import Tokenizer as SDKTokenizer

__all__ = [
    "VocabularyError",
    "clip_tokenizer",
    "text_layout",
    "tower_tokenizer",
    "write_clip_tokenizer",
    "write_tokenizer",
]


class VocabularyError(ZtcirError):
    """The vocabulary that a text tower was trained with cannot be had."""


def tower_tokenizer(tower: TextTower) -> SDKTokenizer:
    """The SDK's tokenizer for a text tower, without a file in between.

    Raises:
        MissingDependencyError, VocabularyError: a SigLIP's vocabulary cannot be loaded.
    """
    tokenizer = Tokenizer.from_str(_tower_vocabulary(tower))
    return SDKTokenizer(tokenizer, **text_layout(tower).tokenizer_options())


def write_tokenizer(tower: TextTower, path: str | os.PathLike[str]) -> Path:
    """Write a text tower's vocabulary as a `tokenizer.json`; gives the path back.

    Raises:
        MissingDependencyError, VocabularyError: a SigLIP's vocabulary cannot be loaded.
    """
    destination = Path(path)
    destination.write_text(_tower_vocabulary(tower), encoding="utf-8")
    return destination


def text_layout(tower: TextTower) -> TextLayout:
    """What a bundle's manifest says of a text tower's prompts.

    Raises:
        MissingDependencyError, VocabularyError: a SigLIP's vocabulary cannot be loaded.
    """
    shape: dict[str, Any] = {
        "context_length": tower.context_length,
        "causal": tower.causal,
        "pool": tower.pool,
        "pad_to": tower.pad_to,
    }
    if tower.vocabulary is None:
        return TextLayout(**shape)
    source = _hugging_face(tower.vocabulary)
    return TextLayout(
        **shape,
        pad_id=source.pad_token_id,
        clean=SIGLIP_CLEANING,
        start=None,
        end=source.eos_token,
    )


def _tower_vocabulary(tower: TextTower) -> str:
    if tower.vocabulary is None:
        return _serialised()
    serialised: str = _hugging_face(tower.vocabulary).backend_tokenizer.to_str()
    return serialised


@functools.cache
def _hugging_face(name: str) -> Any:
    """The tokenizer of a SigLIP: from its folder, or from the hub as open_clip has it."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "The tokenizer of a SigLIP needs transformers; install the extra `ztcir[siglip]`."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"The vocabulary {name} can neither be downloaded nor read ({_first_line(error)}); "
            "download it where there is a network, and name its folder as hf_tokenizer_name in "
            "the backbone's open_clip configuration."
        ) from error
    if not tokenizer.is_fast or None in (tokenizer.eos_token, tokenizer.pad_token_id):
        raise VocabularyError(
            f"The vocabulary {name} has no tokenizer.json, end-of-text or padding; take a SigLIP's."
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def clip_tokenizer(context_length: int = 77) -> SDKTokenizer:
    """The SDK's tokenizer over open_clip's vocabulary, without a file in between."""
    return SDKTokenizer(Tokenizer.from_str(_serialised()), context_length=context_length)


def write_clip_tokenizer(path: str | os.PathLike[str]) -> Path:
    """Write open_clip's vocabulary as a `tokenizer.json`; gives the path back."""
    destination = Path(path)
    destination.write_text(_serialised(), encoding="utf-8")
    return destination


def _serialised() -> str:
    """CLIP's byte-level BPE, from open_clip's own vocabulary file, as `tokenizers` reads it.

    The file starts at cleaned text: cleaning is the SDK's (`ztcir_sdk.tokenizer.clean`). The
    special tokens are plain vocabulary entries that no merge reaches, not "added tokens": those
    would be recognised inside a text.
    """
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    bpe = Tokenizer(models.BPE(source.encoder, merges, end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # What no alternative matches is dropped, as `findall` does.
            pre_tokenizers.Split(Regex(_word_pattern()), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    content = json.loads(bpe.to_str())
    # "a b" for ["a","b"]: the library reads both, and the file is a tenth smaller.
    content["model"]["merges"] = [" ".join(merge) for merge in merges]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _word_pattern() -> str:
    r"""Return open_clip's word pattern, without its special tokens, as explicit character ranges.

    ``\p{L}`` means other characters in `tokenizers` than in `regex`, which open_clip uses: each has
    its own edition of Unicode (17 000 letters differ at the time of writing). Ranges read from
    `regex` keep its meaning, whatever reads the file. They also keep what its IGNORECASE does:
    a long s counts as "s" in "'s", and U+0345, whose other case is a letter, as nothing at all.
    """
    letters, digits, others = (
        _character_ranges(character_class)
        for character_class in (r"[\p{L}]", r"[\p{N}]", r"[^\s\p{L}\p{N}]")
    )
    return rf"'[s\x{{17f}}]|'t|'re|'ve|'m|'ll|'d|[{letters}]+|[{digits}]|[{others}]+"


def _character_ranges(character_class: str) -> str:
    """Return the code points that `character_class` matches, as the inside of a bracket."""
    import regex  # type: ignore[import-untyped]  # a dependency of open_clip

    every_character = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = regex.finditer(f"{character_class}+", every_character, regex.IGNORECASE)
    return "".join(rf"\x{{{run.start():x}}}-\x{{{run.end() - 1:x}}}" for run in runs)
