"""The words in which people ask for a change, for synthetic triplets; and captions for CLIP.

A *wording* is one template of a *family* (a way of asking), with values said in one of their
`surface_forms` and, at times, something polite before, something about the rest behind, talk that
has nothing to do with it, a different spelling or a slip. Families are written by hand
(`wording_templates`) or made by rule (`wording_frames`). `HELD_OUT_FAMILIES` never train: they
measure how well wordings that were never seen are understood.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from train.wordings.family import Family
from train.wordings.frames import (
    ABOUT_THE_REFERENCE,
    FRAMES,
    PERSONS,
    TALK_AFTER,
    TALK_BEFORE,
    WANTED,
)
from train.wordings.noise import pick, respell, roughen
from train.wordings.surface_forms import verbalise
from train.wordings.templates import (
    AND_KEEP,
    BEFORE,
    BEHIND,
    CAPTIONS,
    HELD_OUT_FAMILIES,
    KEEP_THE_REST,
    SHARED_CHOICES,
    WRITTEN_FAMILIES,
)
from ztcir_sdk.drawings.drawings import DEMO_WORDINGS
from ztcir_sdk.evaluation.oracle import attribute_caption

__all__ = [
    "HELD_OUT_FAMILIES",
    "KINDS",
    "Family",
    "Wording",
    "choose",
    "compose",
    "describe",
    "expand",
    "families",
    "skeleton_key",
    "surround",
    "word",
]

KINDS: tuple[str, ...] = ("colour", "type", "gender", "pattern")


@dataclass(frozen=True)
class Wording:
    """A text and the name of the family it comes from."""

    text: str
    family: str


_KEEP_SHARE = 0.12
_MAY_KEEP = frozenset({"imperative", "wish", "phrase", "caption"})

_FRAME_SHARE = 0.45  # of the texts that train; the rest are of the hand-written families
_REFERENCE_SHARE = 0.28  # of those that do not name the reference's own value anyway
_TALK_SHARE = 0.06  # before, and again behind
_NO_QUESTION_MARK_SHARE = 0.4

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(new|old|kept_[a-z]+)(?:_([a-z]+))?\}")
_NOT_WORDS = re.compile(r"[^a-z0-9{} ]+")


def _load(family: Family) -> Family:
    def spelt(template: str) -> str:
        for name, choice in SHARED_CHOICES.items():
            template = template.replace(name, choice)
        return template

    return replace(family, templates=tuple(map(spelt, family.templates)))


def _framed(kind: str) -> Iterator[Family]:
    for name, (mood, frames) in FRAMES.items():
        templates = (frame.replace("{np}", np) for frame in frames for np in WANTED[kind])
        yield Family(name, mood, tuple(templates))
    if kind == "gender":
        yield Family("frame_person", "phrase", PERSONS)


_FAMILIES: Mapping[str, tuple[Family, ...]] = {
    kind: tuple(_load(family) for family in (*written, *_framed(kind)))
    for kind, written in WRITTEN_FAMILIES.items()
}


@cache
def _chosen(kind: str, held_out: bool) -> tuple[Family, ...]:
    if kind not in _FAMILIES:
        raise ValueError(f"no wordings for {kind!r}; there are {', '.join(KINDS)}")
    return tuple(
        family for family in _FAMILIES[kind] if (family.name in HELD_OUT_FAMILIES[kind]) == held_out
    )


@cache
def _usable(kind: str, held_out: bool, kept: frozenset[str]) -> tuple[Family, ...]:
    """The families, without the templates that name a kept attribute which is not known."""

    def able(template: str) -> bool:
        return kept.issuperset(re.findall(r"\{kept_([a-z]+)", template))

    filtered = (
        replace(family, templates=tuple(filter(able, family.templates)))
        for family in _chosen(kind, held_out)
    )
    return tuple(family for family in filtered if family.templates)


def families(kind: str, *, held_out: bool) -> Mapping[str, tuple[str, ...]]:
    """The kind's families by name, each with its templates: those held out, or those that train.

    Raises:
        ValueError: a kind that is not among `KINDS`.
    """
    return {family.name: family.templates for family in _chosen(kind, held_out)}


def expand(template: str) -> Iterator[str]:
    """Every reading of a template: all its ``(a|b)`` choices, slots left as they are."""
    pieces = _CHOICE.split(template)  # outside, choices, outside, ...
    options = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ("".join(parts) for parts in itertools.product(*options))


def skeleton_key(template: str) -> str:
    """A template with slots made alike, and spelling, articles, case and punctuation taken away.

    Two templates with one key could give the same text: ``"Turn it into {a_type}!"`` and
    ``"turn it into {new_np}"``.
    """
    alike = re.sub(r"\{[^{}]*\}", "{}", template).lower().replace("colour", "color")
    alike = _NOT_WORDS.sub(" ", alike)
    return " ".join(re.sub(r"\b(?:an?|some|a pair of) \{\}", "{}", alike).split())


@cache
def _barred(kind: str, held_out: bool) -> frozenset[str]:
    """Keys that no text may have: the demo's, and in training those of what is held out.

    No template that trains is one of them, but what is put around it or left out could make it one.
    """
    unseen = [templates for asked, templates in DEMO_WORDINGS.items() if asked == kind]
    if not held_out:
        unseen += [family.templates for family in _chosen(kind, held_out=True)]
    return frozenset(
        skeleton_key(reading)
        for templates in unseen
        for template in templates
        for reading in expand(template)
    )


def choose(template: str, rng: np.random.Generator) -> str:
    """One reading of a template."""
    return _CHOICE.sub(lambda found: pick(tuple(found[1].split("|")), rng), template)


def _pick_family(choices: tuple[Family, ...], rng: np.random.Generator) -> Family:
    framed = tuple(family for family in choices if family.name.startswith("frame_"))
    written = tuple(family for family in choices if not family.name.startswith("frame_"))
    some = framed if framed and rng.random() < _FRAME_SHARE else written
    return some[int(rng.integers(len(some)))]


def _contrast(sentence: str, family: Family, kind: str, rng: np.random.Generator) -> str:
    """At times, what the reference is now, before or behind the wish."""
    if "{old" in sentence or family.mood == "terse" or rng.random() >= _REFERENCE_SHARE:
        return sentence
    before, behind = ABOUT_THE_REFERENCE[kind]
    if family.mood != "caption" and rng.random() < 0.5:
        return pick(before, rng) + sentence
    return sentence.removesuffix("?") + pick(behind, rng) + "?" * sentence.endswith("?")


def surround(sentence: str, family: Family, kind: str, rng: np.random.Generator) -> str:
    """A polite opening, a clause about what stays, an ending, talk: each at times, none in labels.

    They are put around families that train and families that do not alike.
    """
    if family.mood == "terse":
        return sentence
    asked = sentence.endswith("?")
    sentence = sentence.removesuffix("?")
    says_it = (
        family.keeps or asked or "same" in sentence or (kind == "type" and "colour" in sentence)
    )
    if family.mood in _MAY_KEEP and not says_it and rng.random() < _KEEP_SHARE:
        sentence += pick(AND_KEEP.get(kind, KEEP_THE_REST), rng)
    share, openings = BEFORE[family.mood]
    if rng.random() < share:
        opening = pick(openings, rng)
        asked = asked or opening.startswith(("can you", "could you", "would you"))
        if not (opening.startswith("just") and "just" in sentence):
            sentence = opening + sentence
    share, endings = BEHIND[family.mood]
    if rng.random() < share and "please" not in sentence:
        ending = pick(endings, rng)
        if not (kind == "gender" and "for me" in ending):  # "for men for me"
            sentence += ending
    if rng.random() < _TALK_SHARE:
        sentence = pick(TALK_BEFORE, rng) + sentence
    if rng.random() < _TALK_SHARE:
        sentence += pick(TALK_AFTER, rng)
    if asked and not sentence.endswith(("!", ".")) and rng.random() >= _NO_QUESTION_MARK_SHARE:
        sentence += "?"
    return sentence


def compose(
    kind: str,
    old: str,
    new: str,
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    kept: Mapping[str, str] | None = None,
) -> Wording:
    """One way of asking that ``old`` become ``new``, and its family.

    Args:
        kind: one of `KINDS`.
        old: the reference's value, as the catalogue spells it ("Navy Blue").
        new: the wanted value.
        rng: everything is drawn from it, so an equal generator gives an equal text.
        held_out: draw from the families that never train, instead of those that do.
        kept: the reference's other attributes by kind, which are named at times ("red heels" where
            the type is kept); without it no text names one.

    Raises:
        ValueError: an unknown kind, or an empty value.
    """
    known = {name: value for name, value in (kept or {}).items() if value and name != kind}
    choices = _usable(kind, held_out, frozenset(known))
    while True:
        family = _pick_family(choices, rng)
        sentence = choose(pick(family.templates, rng), rng)
        if not held_out:
            sentence = _contrast(sentence, family, kind, rng)
        sentence = surround(sentence, family, kind, rng)
        sentence = roughen(respell(sentence, rng), rng)
        if skeleton_key(sentence) not in _barred(kind, held_out):
            break
    values = {"new": new, "old": old} | {f"kept_{name}": value for name, value in known.items()}

    def say(slot: re.Match[str]) -> str:
        about = slot[1].removeprefix("kept_") if slot[1].startswith("kept_") else kind
        return verbalise(about, values[slot[1]], slot[2] or "plain", rng)

    return Wording(_SLOT.sub(say, sentence), family.name)


def word(
    kind: str,
    old: str,
    new: str,
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    kept: Mapping[str, str] | None = None,
) -> str:
    """The text of `compose`."""
    return compose(kind, old, new, rng, held_out=held_out, kept=kept).text


_PLAIN_CAPTION_SHARE = 0.3
_CAPTION_SLOT = re.compile(r"\{(\w+?)(?:_(\w+))?\}")
_CAPTION_SLOTS: Mapping[str, tuple[str, str]] = {
    "for": ("gender", "for"),
    "poss": ("gender", "poss"),
}


@cache
def _captions_of(known: frozenset[str]) -> tuple[str, ...]:
    """The caption templates that need nothing beyond the ``known`` attributes."""

    def needed(template: str) -> set[str]:
        slots = (found[1] for found in _CAPTION_SLOT.finditer(template))
        return {_CAPTION_SLOTS.get(slot, (slot, ""))[0] for slot in slots}

    return tuple(template for template in CAPTIONS if needed(template) <= known)


def describe(attributes: Mapping[str, str | None], rng: np.random.Generator) -> str:
    """A caption of a product, in varied words, from what is known of it.

    Args:
        attributes: any of ``colour``, ``type``, ``gender``, ``pattern``; None, an empty string and
            "NA" mean that it is not known.
        rng: everything is drawn from it.

    Returns:
        At times the whole of it plainly (`attribute_caption`, the pattern before the type), at
        times a part, lower-cased.

    Raises:
        ValueError: nothing at all is known.
    """
    known = {
        kind: value.strip()
        for kind in KINDS
        if (value := attributes.get(kind)) is not None and value.strip().lower() not in {"", "na"}
    }
    templates = _captions_of(frozenset(known))
    if not templates:
        raise ValueError("a caption needs at least a colour, a type or a gender")
    if {"colour", "type", "gender"} <= known.keys() and rng.random() < _PLAIN_CAPTION_SHARE:
        kind_of_thing = " ".join((known.get("pattern", ""), known["type"])).strip()
        return attribute_caption(known["colour"], kind_of_thing, known["gender"])

    def say(slot: re.Match[str]) -> str:
        kind, form = _CAPTION_SLOTS.get(slot[1], (slot[1], slot[2] or "plain"))
        return verbalise(kind, known[kind], form, rng)

    return _CAPTION_SLOT.sub(say, respell(pick(templates, rng), rng))
