"""A text tower's tokenizer in the SDK's form: in memory, or as a bundle's `tokenizer.json`."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from train.model.text_tower import SIGLIP_CLEANING, TextTower
from ztcir_sdk.bundle import TextLayout
from ztcir_sdk.errors import MissingDependencyError, ZtcirError, install_hint
from ztcir_sdk.tokenizer import Tokenizer as SDKTokenizer

__all__ = ["VocabularyError", "text_layout", "tower_tokenizer", "write_tokenizer"]


class VocabularyError(ZtcirError):
    """The vocabulary of a text tower cannot be loaded."""


def tower_tokenizer(tower: TextTower) -> SDKTokenizer:
    """Return the SDK's tokenizer for a text tower, without writing a file.

    Raises:
        MissingDependencyError, VocabularyError: a SigLIP's vocabulary cannot be loaded.
    """
    tokenizer = Tokenizer.from_str(_tower_vocabulary(tower))
    return SDKTokenizer(tokenizer, **text_layout(tower).tokenizer_options())


def write_tokenizer(tower: TextTower, path: str | os.PathLike[str]) -> Path:
    """Write a text tower's vocabulary as a `tokenizer.json`; return its path.

    Raises:
        MissingDependencyError, VocabularyError: a SigLIP's vocabulary cannot be loaded.
    """
    destination = Path(path)
    destination.write_text(_tower_vocabulary(tower), encoding="utf-8")
    return destination


def text_layout(tower: TextTower) -> TextLayout:
    """Return the description of a text tower's prompts for a bundle's manifest.

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
        **shape, pad_id=source.pad_token_id, clean=SIGLIP_CLEANING, start=None, end=source.eos_token
    )


def _tower_vocabulary(tower: TextTower) -> str:
    if tower.vocabulary is None:
        return _clip_vocabulary()
    serialised: str = _hugging_face(tower.vocabulary).backend_tokenizer.to_str()
    return serialised


@functools.cache
def _hugging_face(name: str) -> Any:
    """Return a SigLIP's tokenizer, from a folder or from the Hugging Face hub."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "The tokenizer of a SigLIP needs the package transformers; install it with "
            f"{install_hint('siglip')}."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"The vocabulary {name} can neither be downloaded nor read ({_first_line(error)}); "
            "download it on a machine with network access, and set hf_tokenizer_name to its folder "
            "in the backbone's open_clip configuration."
        ) from error
    if not tokenizer.is_fast or None in (tokenizer.eos_token, tokenizer.pad_token_id):
        raise VocabularyError(
            f"The vocabulary {name} lacks tokenizer.json, end-of-text or padding; use a SigLIP's."
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _clip_vocabulary() -> str:
    """Return CLIP's byte-level BPE, from open_clip's vocabulary file, in the form of `tokenizers`.

    It expects cleaned text: the SDK cleans (`ztcir_sdk.tokenizer.clean`). The special tokens are
    plain vocabulary entries that no merge reaches. As "added tokens" they would be recognised
    inside a text.
    """
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    bpe = Tokenizer(models.BPE(source.encoder, merges, end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # characters that no alternative matches are dropped, as `findall` does
            pre_tokenizers.Split(Regex(_word_pattern()), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    content = json.loads(bpe.to_str())
    # "a b" in place of ["a","b"]: the library reads both, and the file is a tenth smaller
    content["model"]["merges"] = [" ".join(merge) for merge in merges]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _word_pattern() -> str:
    r"""Return open_clip's word pattern, without its special tokens, as explicit character ranges.

    ``\p{L}`` matches other characters in `tokenizers` than in `regex`, which open_clip uses: each
    has its own version of Unicode (17 000 letters differ at the time of writing). Explicit ranges
    from `regex` keep its meaning in every reader. They also keep its IGNORECASE: a long s counts as
    "s" in "'s", and U+0345, whose other case is a letter, matches nothing.
    """
    letters, digits, others = (
        _character_ranges(character_class)
        for character_class in (r"[\p{L}]", r"[\p{N}]", r"[^\s\p{L}\p{N}]")
    )
    return rf"'[s\x{{17f}}]|'t|'re|'ve|'m|'ll|'d|[{letters}]+|[{digits}]|[{others}]+"


def _character_ranges(character_class: str) -> str:
    """Return the code points that `character_class` matches, as the inside of brackets."""
    import regex  # type: ignore[import-untyped]  # a dependency of open_clip

    every_character = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = regex.finditer(f"{character_class}+", every_character, regex.IGNORECASE)
    return "".join(rf"\x{{{run.start():x}}}-\x{{{run.end() - 1:x}}}" for run in runs)
