"""Stage II triplets from captions: two captions that differ in a phrase give a modification text.

"a red car in the snow" and "a red bus in the snow" give texts such as "a bus instead of a car". No
model is needed, and no images; if there are images, near-duplicates are left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from train.data import Item, main_script
from train.triplets.caption_pairs import CaptionPairs, Edit, Tokens, tokens
from train.triplets.from_attributes import add_noise, check_limit_and_noise
from train.triplets.near_duplicates import NEAR_DUPLICATE, NearDuplicates
from train.wordings import phrase_wording
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet

_MAX_IMAGES = 20  # a caption of more images describes none of them well
_MAX_USES = 3  # triplets per pair of captions
_MAX_DRAWS = 40  # draws per triplet
_EXTENDED_SHARE = 0.5
_MAX_COMPARED = 200_000  # captions; their frames take about 1 GB
_EXCHANGE_DRAWS = 50_000
_EDIT_TRIES = 5
_RARE, _PER_CAPTIONS = 5, 2000  # a word in fewer captions is rare; in a small set no word is
_ROMAN_NUMERALS = frozenset(["ii", "iii", "iv", "vi", "vii", "viii", "ix", "xi", "xii"])

_ARTICLES = frozenset({"a", "an", "the", "two", "three", "some", "his", "her", "their", "its"})
_PREPOSITIONS = (
    "in on at by near under over behind beside above inside outside against along across through "
    "into during around between"
)
_PLACE_WORDS = frozenset(_PREPOSITIONS.split())
_FUNCTION_WORDS = (
    "and or of to for with from as is are was were be it this that these those which who while "
    "than then there has have not no very so up down out off 's but one s"
)
_SMALL_WORDS = _ARTICLES | _PLACE_WORDS | frozenset(_FUNCTION_WORDS.split())
_SPELLINGS = (("grey", "gray"), ("colour", "color"), ("jewellery", "jewelry"), ("tyre", "tire"))


@dataclass
class CaptionMining:
    """Counts for the report."""

    captions: int = 0
    """Number of distinct usable captions."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> number of images left out."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason -> number of drawn pairs of captions that gave no triplet."""


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

    The targets are all images with the target caption. With the same seed, a smaller ``limit``
    gives the first triplets of a larger one.

    Args:
        items: images; those without a caption are left out.
        seed: random seed.
        limit: number of triplets; None for as many as there are items. There may be fewer.
        held_out: use the wordings that are never trained on.
        noise: share of the triplets, 0 to 1, that get one wrong target instead of their targets.
        pictures: id -> function that loads the image, to leave out near-duplicates.

    Returns:
        The triplets, and counts for the report.

    Raises:
        UsageError: ``limit`` or ``noise`` is out of range.
        ZtcirError: no two captions differ in exactly one phrase.
    """
    check_limit_and_noise(limit, noise)
    mining = CaptionMining()
    groups = _group(items, mining)
    captions = list(groups)
    pairs = CaptionPairs(captions)
    mining.captions = len(captions)
    drawing, noise_draws = (
        np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2)
    )
    duplicates = NearDuplicates(pictures or {})
    rare = _rare_words(captions)
    wanted = len(items) if limit is None else limit
    triplets: list[Triplet] = []
    uses, texts = Counter[tuple[int, int]](), set[tuple[str, str]]()
    tries = 0
    while pairs and len(triplets) < wanted and tries < _MAX_DRAWS * wanted + 1000:
        tries += 1
        drawn = pairs.draw(drawing)
        if drawn is None:
            continue
        before, after, edit = drawn
        if why := _reason_to_reject(edit, rare):
            mining.rejected[why] += 1
            continue
        if uses[before, after] == _MAX_USES:
            continue
        sources = groups[captions[before]]
        reference = sources[int(drawing.integers(len(sources)))]
        targets = tuple(
            name
            for name in groups[captions[after]]
            if name != reference and not duplicates.is_pair(reference, name)
        )
        if not targets:
            mining.rejected[NEAR_DUPLICATE] += 1
            continue
        change, shape, old, new = _phrases(edit, drawing)
        text = phrase_wording(change, shape, old, new, drawing, held_out=held_out).text
        if (reference, text) in texts:
            continue
        texts.add((reference, text))
        uses[before, after] += 1
        triplets.append(Triplet(f"{change}-{len(triplets):06d}", change, reference, text, targets))
    if wanted and not triplets:
        left_out = ", ".join(f"{number} ({why})" for why, number in mining.left_out.items())
        without = f" (images left out: {left_out})" if left_out else ""
        raise ZtcirError(
            f"No two of {mining.captions} captions{without} differ in one usable phrase, so no "
            "triplet can be made; use more captions, or --from attributes."
        )
    ids = [name for names in groups.values() for name in names]
    return add_noise(triplets, ids, noise, noise_draws), mining


def caption_edits(captions: Sequence[str], *, seed: int) -> list[tuple[str, str] | None]:
    """Return a modification text and the edited caption for each caption, where there is one.

    Phrases that pairs of captions exchange, such as "red" for "blue", are exchanged in other
    captions too, so that far more captions are edited than have a partner that differs in a phrase.

    Args:
        captions: captions, which may be empty.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    words = [tokens(caption) if main_script(caption) == "LATIN" else () for caption in captions]
    distinct = list(dict.fromkeys(one for one in words if one))
    if len(distinct) > _MAX_COMPARED:
        chosen = np.sort(rng.choice(len(distinct), _MAX_COMPARED, replace=False))
        distinct = [distinct[place] for place in chosen]
    rare = _rare_words(distinct)
    exchanged = _exchanged_phrases(CaptionPairs(distinct), rare, rng)
    return [_edited(one, exchanged, rare, rng) for one in words]


def _exchanged_phrases(
    pairs: CaptionPairs, rare: frozenset[str], rng: np.random.Generator
) -> dict[Tokens, list[Tokens]]:
    """Return the phrases that take each other's place in two captions."""
    found: defaultdict[Tokens, dict[Tokens, None]] = defaultdict(dict)
    for _ in range(_EXCHANGE_DRAWS if pairs else 0):
        drawn = pairs.draw(rng)
        if drawn is None or not (drawn[2].old and drawn[2].new):
            continue
        edit = drawn[2]
        if not _reason_to_reject(edit, rare):
            found[edit.old][edit.new] = None
            found[edit.new][edit.old] = None
    return {old: list(new) for old, new in found.items()}


def _edited(
    words: Tokens,
    exchanged: Mapping[Tokens, Sequence[Tokens]],
    rare: frozenset[str],
    rng: np.random.Generator,
) -> tuple[str, str] | None:
    """Exchange a phrase of a caption; return the text that asks for it and the edited caption."""
    phrases = [
        (start, words[start : start + length])
        for start in range(len(words))
        for length in (1, 2, 3)
        if words[start : start + length] in exchanged and start + length <= len(words)
    ]
    for _ in range(_EDIT_TRIES if phrases else 0):
        start, old = phrases[int(rng.integers(len(phrases)))]
        new = exchanged[old][int(rng.integers(len(exchanged[old])))]
        after = (*words[:start], *new, *words[start + len(old) :])
        edit = Edit(words, after, start, old, new)
        if _reason_to_reject(edit, rare):
            continue
        change, shape, before, wanted = _phrases(edit, rng)
        return phrase_wording(change, shape, before, wanted, rng).text, " ".join(after)
    return None


def _group(items: Sequence[Item], mining: CaptionMining) -> dict[Tokens, tuple[str, ...]]:
    """Return caption -> ids of its images; captions with the same words count as one."""
    groups: defaultdict[Tokens, list[str]] = defaultdict(list)
    first: dict[Tokens, Tokens] = {}
    for item in items:
        words = tokens(item.caption)
        if not words:
            mining.left_out["no caption"] += 1
        elif main_script(item.caption) != "LATIN":
            mining.left_out["another script"] += 1
        else:
            groups[first.setdefault(tuple(sorted(words)), words)].append(item.id)
    common = [words for words, names in groups.items() if len(names) > _MAX_IMAGES]
    for words in common:
        mining.left_out["a caption of too many images"] += len(groups.pop(words))
    return {words: tuple(dict.fromkeys(names)) for words, names in groups.items()}


def _rare_words(captions: Sequence[Tokens]) -> frozenset[str]:
    """Return the words of few captions: names of people and products, which no image shows."""
    least = min(_RARE, len(captions) // _PER_CAPTIONS)
    counts = Counter(word for caption in captions for word in set(caption))
    return frozenset(word for word, count in counts.items() if count < least)


def _reason_to_reject(edit: Edit, rare: frozenset[str]) -> str:
    """Return why a pair of captions makes no good triplet; empty if it does."""
    old, new, shared = (
        [word for word in part if word not in _SMALL_WORDS]
        for part in (edit.old, edit.new, edit.shared)
    )
    if (not old and not new) or (edit.old and edit.new and not (old and new)):
        return "the phrase has only small words"
    if any(word in _ROMAN_NUMERALS or re.search(r"\d", word) for word in (*edit.old, *edit.new)):
        return "the phrase is a number or a code"
    if rare & {*old, *new}:
        return "the phrase has a rare word, such as a name"
    if Counter(map(_stem, edit.old)) == Counter(map(_stem, edit.new)):
        return "near-duplicate captions"
    if edit.old and edit.new and _differ_by_typo("".join(edit.old), "".join(edit.new)):
        return "near-duplicate captions"
    if len(shared) < max(1, len(old), len(new)):
        return "the captions share too few words"
    if {*map(_stem, old), *map(_stem, new)} & {*map(_stem, shared)}:
        return "ambiguous: the phrase occurs twice in the caption"
    if old and new and _is_place(edit.old) != _is_place(edit.new):
        return "ambiguous: only one of the phrases is a place"
    return ""


def _stem(word: str) -> str:
    for variant, usual in _SPELLINGS:
        word = word.replace(variant, usual)
    word = word.removesuffix("'s").replace("-", "")
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _differ_by_typo(first: str, second: str) -> bool:
    """Return whether two words of at least five letters differ by one letter."""
    if min(len(first), len(second)) < 5 or abs(len(first) - len(second)) > 1:
        return False
    if len(first) == len(second):
        return sum(a != b for a, b in zip(first, second, strict=True)) <= 1
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))


def _is_place(phrase: Tokens) -> bool:
    return bool(phrase) and phrase[0] in _PLACE_WORDS


def _phrases(edit: Edit, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """Return the kind of change, the shape of the phrases, the old phrase and the new phrase.

    Half of the phrases are extended by words that belong to them: the article ("a bus"), the words
    after an article ("a red bus"), or the noun that they describe ("a wooden table").
    """
    change = "swap" if edit.old and edit.new else "add" if edit.new else "remove"
    phrase = edit.new or edit.old
    head, tail = edit.before[: edit.start], edit.before[edit.start + len(edit.old) :]
    extended = rng.random() < _EXTENDED_SHARE
    if _is_place(phrase):
        return change, "place", " ".join(edit.old), " ".join(edit.new)
    left = _words_from_article(head)
    describes = bool(tail) and tail[0] not in _SMALL_WORDS and phrase[0] not in _ARTICLES
    if change != "swap" or not extended:
        left = left[-1:] if left and left[-1] in _ARTICLES and not describes else ()
    right: Tokens = ()
    if describes and extended and change == "swap":
        right = _described_noun(tail)
    shape = "quality" if (describes and not right) or phrase[0].endswith("ing") else "thing"
    if change != "swap" and left:  # "the [old] car": the article belongs to the car
        left = ()
    whole = (" ".join((*left, *part, *right)) if part else "" for part in (edit.old, edit.new))
    old, new = map(_with_right_article, whole)
    return change, shape, old, new


def _words_from_article(head: Tokens) -> Tokens:
    """Return the last words before a phrase, from an article on; at most three words."""
    for back in range(1, min(4, len(head) + 1)):
        if head[-back] in _ARTICLES:
            return head[-back:]
        if head[-back] in _SMALL_WORDS:
            return ()
    return ()


def _described_noun(tail: Tokens) -> Tokens:
    """Return the words after a phrase, up to a small word; none if there are more than two."""
    length = next((at for at, word in enumerate(tail) if word in _SMALL_WORDS), len(tail))
    return tail[:length] if length <= 2 else ()


def _with_right_article(phrase: str) -> str:
    """Return "a orange bus" as "an orange bus": the article comes from the other phrase."""
    first, _, rest = phrase.partition(" ")
    if first in ("a", "an") and rest:
        return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}"
    return phrase
