"""Zero-shot tags, and how sure they are.

Several prompts stand for each word: "red", "a photo of red", "a red shirt". A picture's tag is the
word of a group whose mean embedding is nearest. It is confident if nearly every prompt by itself
would choose the same word: words that a backbone does not know take their meaning from the prompt,
so that prompts disagree about them. Similarities alone cannot tell this, because any words give
some order, and their temperature differs from backbone to backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from train.tags.bank import WordGroup

__all__ = ["UNSURE", "TagGroup", "Tags", "tag_pictures"]

UNSURE = -1
AGREEMENT = 0.85  # share of the prompts that have to choose a picture's tag
MIN_SHARE = 1 / 3  # least share of pictures with a confident tag; other groups say little here
MIN_PICTURES = 5  # pictures of a word; a rarer word has too few pictures to lead to
_CHUNK = 4096  # pictures at a time


@dataclass(frozen=True)
class TagGroup:
    """The tags of one group of words.

    Attributes:
        group: the words.
        embeds: (K, D) float32, mean embedding of each word's prompts, L2-normalised.
        tags: (M,) int64, position of each picture's word; `UNSURE` if no word is confident.
    """

    group: WordGroup
    embeds: NDArray[np.float32]
    tags: NDArray[np.int64]

    @property
    def kind(self) -> str:
        """Name of the group."""
        return self.group.kind

    @property
    def share(self) -> float:
        """Share of the pictures with a confident tag."""
        return float((self.tags >= 0).mean()) if len(self.tags) else 0.0

    def counts(self) -> dict[str, int]:
        """Return word -> number of pictures, the most frequent first."""
        found = np.bincount(self.tags[self.tags >= 0], minlength=len(self.group.words))
        order = np.argsort(-found, kind="stable")
        return {self.group.words[k]: int(found[k]) for k in order if found[k]}


@dataclass(frozen=True)
class Tags:
    """The confident tags of pictures.

    Attributes:
        groups: groups that tell pictures apart; there may be none.
        silent: kind of each group that does not -> why.
    """

    groups: tuple[TagGroup, ...]
    silent: dict[str, str]

    def take(self, rows: NDArray[np.int64]) -> Tags:
        """Return the tags of some pictures (m,)."""
        return replace(
            self, groups=tuple(replace(group, tags=group.tags[rows]) for group in self.groups)
        )


def tag_pictures(
    embeds: NDArray[np.float32],
    groups: Sequence[WordGroup],
    prompts: Sequence[NDArray[np.float32]],
) -> Tags:
    """Tag pictures with words.

    Args:
        embeds: (M, D) embeddings of the pictures, L2-normalised.
        groups: the words.
        prompts: for each group (K, J, D), the embeddings of J prompts of each word.
    """
    found: list[TagGroup] = []
    silent: dict[str, str] = {}
    for group, own in zip(groups, prompts, strict=True):
        tagged = _tag_group(embeds, group, own)
        if tagged.share < MIN_SHARE:
            silent[group.kind] = f"only {tagged.share:.0%} of the pictures have a confident tag"
        elif len(tagged.counts()) < 2:
            silent[group.kind] = f"all pictures have the tag {next(iter(tagged.counts()))!r}"
        else:
            found.append(tagged)
    return Tags(tuple(found), silent)


def _tag_group(
    embeds: NDArray[np.float32], group: WordGroup, prompts: NDArray[np.float32]
) -> TagGroup:
    # a prompt's own meaning, shared by all words in it, says nothing about which word is right
    centred = (prompts - prompts.mean(axis=0)).astype(np.float32)
    mean = centred.mean(axis=1)
    tags = np.full(len(embeds), UNSURE)
    for start in range(0, len(embeds), _CHUNK):
        part = embeds[start : start + _CHUNK]
        best = (part @ mean.T).argmax(axis=1)
        votes = np.stack(
            [(part @ centred[:, one].T).argmax(axis=1) for one in range(prompts.shape[1])]
        )
        sure = (votes == best).mean(axis=0) >= AGREEMENT
        tags[start : start + _CHUNK] = np.where(sure, best, UNSURE)
    counts = np.bincount(tags[tags >= 0], minlength=len(group.words))
    tags[np.isin(tags, np.flatnonzero(counts < MIN_PICTURES))] = UNSURE
    whole = prompts.mean(axis=1)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    return TagGroup(group, unit.astype(np.float32), tags)
