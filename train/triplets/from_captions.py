"""Stage II triplets from captions alone: where two differ in a phrase, that phrase is the wish.

"a red car in the snow" and "a red bus in the snow" give "a bus instead of a car" and its like. No
picture and no model is needed; where pictures are at hand, those that look the same are left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from train.data.item import Item
from train.data.report import main_script
from train.triplets.caption_pairs import CaptionPairs, Edit, Tokens, tokens
from train.triplets.from_attributes import spoil
from train.triplets.near_duplicates import SAME_LOOK, Looks
from train.wordings.phrase_wordings import reword
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["CaptionMining", "mine_captions"]

_MOST_IMAGES = 20  # images with one caption; more, and it says too little of any
_USES = 3  # of one pair of captions, each in other words
_TRIES = 40  # draws a triplet, before there are taken to be no more
_EXTENDED_SHARE = 0.5
_RARE, _PER_CAPTIONS = 5, 2000  # a word in fewer captions is a name; in a small set none is
_ROMAN = frozenset(["ii", "iii", "iv", "vi", "vii", "viii", "ix", "xi", "xii"])

_ARTICLES = frozenset({"a", "an", "the", "two", "three", "some", "his", "her", "their", "its"})
_PLACES = (
    "in on at by near under over behind beside above inside outside against along across through "
    "into during around between"
)
_PLACING = frozenset(_PLACES.split())
_FUNCTION_WORDS = (
    "and or of to for with from as is are was were be it this that these those which who while "
    "than then there has have not no very so up down out off 's but one s"
)
_SMALL = _ARTICLES | _PLACING | frozenset(_FUNCTION_WORDS.split())
_SAME_WORD = (("grey", "gray"), ("colour", "color"), ("jewellery", "jewelry"), ("tyre", "tire"))


@dataclass
class CaptionMining:
    """What mining did, for the report."""

    captions: int = 0
    """Distinct captions that could take part."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why images took no part -> how many."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Why pairs of captions that were drawn gave no triplet -> how many."""


def mine_captions(
    items: Sequence[Item],
    *,
    seed: int,
    limit: int | None,
    held_out: bool = False,
    noise: float = 0.0,
    pictures: Mapping[str, Callable[[], Image.Image]] | None = None,
) -> tuple[list[Triplet], CaptionMining]:
    """Make triplets of kinds ``swap``, ``add`` and ``remove`` from captions.

    Every image with the target's caption is a right answer. Fewer triplets of the same seed are
    the beginning of more.

    Args:
        items: images with captions; those without take no part.
        seed: an equal seed and equal items give equal triplets.
        limit: how many; None for as many as there are items. There may be fewer.
        held_out: ask in the wordings that never train.
        noise: fraction of the triplets whose targets are one wrong image instead.
        pictures: id -> picture; where given, a target that looks like the reference is left out.

    Raises:
        UsageError: a negative ``limit``, or a ``noise`` outside 0 to 1.
        ZtcirError: no two captions differ in a phrase.
    """
    if limit is not None and limit < 0:
        raise UsageError(f"The number of triplets cannot be negative: {limit}; ask for 1 or more.")
    if not 0.0 <= noise <= 1.0:
        raise UsageError(f"The noise is a fraction from 0 to 1, not {noise}.")
    mining = CaptionMining()
    groups = _group(items, mining)
    captions = list(groups)
    pairs = CaptionPairs(captions)
    mining.captions = len(captions)
    drawing, spoiling = (
        np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2)
    )
    looks = Looks(pictures or {})
    rare = _rare_words(captions)
    wanted = len(items) if limit is None else limit
    triplets: list[Triplet] = []
    uses, texts = Counter[tuple[int, int]](), set[tuple[str, str]]()
    tries = 0
    while pairs and len(triplets) < wanted and tries < _TRIES * wanted + 1000:
        tries += 1
        drawn = pairs.draw(drawing)
        if drawn is None:
            continue
        before, after, edit = drawn
        fault = _fault(edit, rare)
        if fault:
            mining.rejected[fault] += 1
            continue
        if uses[before, after] == _USES:
            continue
        sources = groups[captions[before]]
        reference = sources[int(drawing.integers(len(sources)))]
        targets = tuple(
            name
            for name in groups[captions[after]]
            if name != reference and not looks.alike(reference, name)
        )
        if not targets:
            mining.rejected[SAME_LOOK] += 1
            continue
        change, shape, old, new = _phrases(edit, drawing)
        text = reword(change, shape, old, new, drawing, held_out=held_out).text
        if (reference, text) in texts:
            continue
        texts.add((reference, text))
        uses[before, after] += 1
        triplets.append(Triplet(f"{change}-{len(triplets):06d}", change, reference, text, targets))
    if wanted and not triplets:
        left_out = ", ".join(f"{number} ({why})" for why, number in mining.left_out.items())
        beside = f", beside images left out: {left_out}," if left_out else ""
        raise ZtcirError(
            f"Of {mining.captions} captions{beside} no two differ in one phrase that can be asked "
            "for, so there is nothing to ask; use more captions, or --from attributes."
        )
    named = [name for names in groups.values() for name in names]
    return spoil(triplets, named, noise, spoiling), mining


def _group(items: Sequence[Item], mining: CaptionMining) -> dict[Tokens, tuple[str, ...]]:
    """Images by caption; captions of the same words in another order count as one."""
    groups: defaultdict[Tokens, list[str]] = defaultdict(list)
    named: dict[Tokens, Tokens] = {}
    for item in items:
        said = tokens(item.caption)
        if not said:
            mining.left_out["no caption"] += 1
        elif main_script(item.caption) != "LATIN":
            mining.left_out["another script"] += 1
        else:
            groups[named.setdefault(tuple(sorted(said)), said)].append(item.id)
    common = [said for said, names in groups.items() if len(names) > _MOST_IMAGES]
    for said in common:
        mining.left_out["a caption of too many images"] += len(groups.pop(said))
    return {said: tuple(dict.fromkeys(names)) for said, names in groups.items()}


def _rare_words(captions: Sequence[Tokens]) -> frozenset[str]:
    """Words of few captions: names of series and people, which no picture shows."""
    least = min(_RARE, len(captions) // _PER_CAPTIONS)
    counts = Counter(word for caption in captions for word in set(caption))
    return frozenset(word for word, count in counts.items() if count < least)


def _fault(edit: Edit, rare: frozenset[str]) -> str:
    """Why a pair makes no good triplet; empty if it does."""
    old, new, shared = (
        [word for word in part if word not in _SMALL] for part in (edit.old, edit.new, edit.shared)
    )
    if (not old and not new) or (edit.old and edit.new and not (old and new)):
        return "the phrase says nothing"
    if any(word in _ROMAN or re.search(r"\d", word) for word in (*edit.old, *edit.new)):
        return "the phrase is a number or a code"
    if rare & {*old, *new}:
        return "the phrase has a rare word: a name"
    if Counter(map(_stem, edit.old)) == Counter(map(_stem, edit.new)):
        return "near-duplicate captions"
    if edit.old and edit.new and _spelt_alike("".join(edit.old), "".join(edit.new)):
        return "near-duplicate captions"
    if len(shared) < max(1, len(old), len(new)):
        return "too little stays"
    if {*map(_stem, old), *map(_stem, new)} & {*map(_stem, shared)}:
        return "ambiguous: the phrase occurs twice"
    if old and new and _is_placing(edit.old) != _is_placing(edit.new):
        return "ambiguous: the phrases are of two sorts"
    return ""


def _stem(word: str) -> str:
    for variant, usual in _SAME_WORD:
        word = word.replace(variant, usual)
    word = word.removesuffix("'s").replace("-", "")
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _spelt_alike(first: str, second: str) -> bool:
    """Whether two words of five letters or more differ by one letter: a slip, not a wish."""
    if min(len(first), len(second)) < 5 or abs(len(first) - len(second)) > 1:
        return False
    if len(first) == len(second):
        return sum(a != b for a, b in zip(first, second, strict=True)) <= 1
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))


def _is_placing(phrase: Tokens) -> bool:
    return bool(phrase) and phrase[0] in _PLACING


def _phrases(edit: Edit, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """Kind of change, shape of the phrases, and both as they are said.

    Half of the time a phrase takes along what it belongs to: its article ("a bus"), the words up
    to it ("a red bus"), or the thing that it describes ("a wooden table").
    """
    change = "swap" if edit.old and edit.new else "add" if edit.new else "remove"
    some = edit.new or edit.old
    head, tail = edit.before[: edit.start], edit.before[edit.start + len(edit.old) :]
    extended = rng.random() < _EXTENDED_SHARE
    if _is_placing(some):
        return change, "place", " ".join(edit.old), " ".join(edit.new)
    left = _leading(head)
    describes = bool(tail) and tail[0] not in _SMALL and some[0] not in _ARTICLES
    if change != "swap" or not extended:
        left = left[-1:] if left and left[-1] in _ARTICLES and not describes else ()
    right: Tokens = ()
    if describes and extended and change == "swap":
        right = _thing(tail)
    shape = "quality" if (describes and not right) or some[0].endswith("ing") else "thing"
    if change != "swap" and left:  # "the [old] car": its article belongs to what stays
        left = ()
    said = (" ".join((*left, *part, *right)) if part else "" for part in (edit.old, edit.new))
    old, new = (_article(phrase) for phrase in said)
    return change, shape, old, new


def _leading(head: Tokens) -> Tokens:
    """The words before a phrase that belong to it: back to an article, three words at most."""
    for back in range(1, min(4, len(head) + 1)):
        if head[-back] in _ARTICLES:
            return head[-back:]
        if head[-back] in _SMALL:
            return ()
    return ()


def _thing(tail: Tokens) -> Tokens:
    """What a phrase describes: the words after it up to a small one; none if they are many."""
    length = next((at for at, word in enumerate(tail) if word in _SMALL), len(tail))
    return tail[:length] if length <= 2 else ()


def _article(phrase: str) -> str:
    """ "a orange bus" as "an orange bus": the article was the other phrase's."""
    first, _, rest = phrase.partition(" ")
    if first in ("a", "an") and rest:
        return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}"
    return phrase
