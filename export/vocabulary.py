"""The words that a model was trained on: from its checkpoint into its bundle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from export.copies import copy_bundle
from train.word_counts import VOCABULARY_KEY
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.modification import Vocabulary

__all__ = ["VOCABULARY", "checkpoint_vocabulary", "with_vocabulary"]

VOCABULARY = "vocabulary.txt"
"""File of a bundle's vocabulary."""


def checkpoint_vocabulary(config: Mapping[str, Any]) -> list[str] | None:
    """Return the words that a checkpoint records, in its order; None if it records none.

    Args:
        config: configuration that `train.model.load_model` returns.

    Raises:
        ZtcirError: the entry is not a list of words.
    """
    words = (config.get("training") or {}).get(VOCABULARY_KEY)
    if words is None:
        return None
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise ZtcirError(
            f'The checkpoint\'s entry "training.{VOCABULARY_KEY}" must be a list of words: correct '
            "its config.json, or leave the entry out."
        )
    return list(dict.fromkeys(words))


def with_vocabulary(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    words: Iterable[str],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Write a copy of a bundle with another vocabulary; graphs and model card stay as they are.

    Args:
        bundle: the bundle to copy.
        folder: folder of the copy; it may be that of `bundle`, with `overwrite`.
        words: words in lower case, such as `train.word_counts.training_vocabulary` returns.
        overwrite: replace an existing bundle.

    Raises:
        UsageError: a word cannot be in a vocabulary, or `folder` exists.
        BundleError: the bundle cannot be read or written.
    """
    old = bundle.manifest.vocabulary
    return copy_bundle(
        bundle,
        folder,
        files={VOCABULARY: Vocabulary(words).to_bytes()},
        without=() if old is None else (old,),
        vocabulary=VOCABULARY,
        overwrite=overwrite,
    )
