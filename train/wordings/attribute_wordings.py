"""Modification texts that change an attribute, for synthetic triplets; and captions of products.

A *wording* is a template of a *family* (a way of asking) with values in one of their surface
forms. Some wordings also get a polite opening, a clause about what stays, unrelated talk, another
spelling or a typing error. Families are written by hand (`templates`) or combined by rule
(`frames`). `HELD_OUT_FAMILIES` are never trained on: they measure how well new wordings work.
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
    FRAMES,
    REFERENCE_CLAUSES,
    TALK_AFTER,
    TALK_BEFORE,
    WANTED_PHRASES,
    WEARERS,
)
from train.wordings.noise import add_typing_noise, pick, vary_spelling
from train.wordings.surface_forms import verbalise
from train.wordings.templates import (
    CAPTION_TEMPLATES,
    CHOICES,
    DEFAULT_KEEP_CLAUSES,
    ENDINGS,
    HELD_OUT_FAMILIES,
    KEEP_CLAUSES,
    OPENINGS,
    WRITTEN_FAMILIES,
)
from ztcir_sdk.drawings.drawings import DEMO_WORDINGS
from ztcir_sdk.evaluation.attribute_caption import attribute_caption
from ztcir_sdk.names import is_known

__all__ = [
    "HELD_OUT_FAMILIES",
    "KINDS",
    "Wording",
    "add_context",
    "attribute_families",
    "attribute_wording",
    "draw_reading",
    "product_caption",
    "readings",
    "skeleton",
]

KINDS: tuple[str, ...] = ("colour", "type", "gender", "pattern")
"""Attributes that a modification text can change."""


@dataclass(frozen=True)
class Wording:
    """A modification text, and the name of its family."""

    text: str
    family: str


_KEEP_SHARE = 0.12
_KEEP_MOODS = frozenset({"imperative", "wish", "phrase", "caption"})

_FRAME_SHARE = 0.45  # share of training texts; the others come from families written by hand
_REFERENCE_SHARE = 0.28  # share of texts that do not name the reference's value yet
_TALK_SHARE = 0.06  # before a text, and again after it
_NO_QUESTION_MARK_SHARE = 0.4

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(new|old|kept_[a-z]+)(?:_([a-z]+))?\}")
_NOT_WORDS = re.compile(r"[^a-z0-9{} ]+")


def _with_choices(family: Family) -> Family:
    """Replace the named choices, such as ``{it}``, in the templates."""

    def written_out(template: str) -> str:
        for name, choice in CHOICES.items():
            template = template.replace(name, choice)
        return template

    return replace(family, templates=tuple(map(written_out, family.templates)))


def _frame_families(kind: str) -> Iterator[Family]:
    for name, (mood, frames) in FRAMES.items():
        templates = (frame.replace("{np}", np) for frame in frames for np in WANTED_PHRASES[kind])
        yield Family(name, mood, tuple(templates))
    if kind == "gender":
        yield Family("frame_person", "phrase", WEARERS)


_FAMILIES: Mapping[str, tuple[Family, ...]] = {
    kind: tuple(map(_with_choices, (*written, *_frame_families(kind))))
    for kind, written in WRITTEN_FAMILIES.items()
}


@cache
def _families(kind: str, held_out: bool) -> tuple[Family, ...]:
    if kind not in _FAMILIES:
        raise ValueError(f"{kind!r} has no wordings; choose one of {', '.join(KINDS)}")
    return tuple(
        family for family in _FAMILIES[kind] if (family.name in HELD_OUT_FAMILIES[kind]) == held_out
    )


@cache
def _usable_families(kind: str, held_out: bool, kept: frozenset[str]) -> tuple[Family, ...]:
    """Return the families without the templates that name an unknown attribute."""

    def usable(template: str) -> bool:
        return kept.issuperset(re.findall(r"\{kept_([a-z]+)", template))

    filtered = (
        replace(family, templates=tuple(filter(usable, family.templates)))
        for family in _families(kind, held_out)
    )
    return tuple(family for family in filtered if family.templates)


def attribute_families(kind: str, *, held_out: bool) -> Mapping[str, tuple[str, ...]]:
    """Return family name -> templates, of the families held out or of those that are trained on.

    Raises:
        ValueError: ``kind`` is not one of `KINDS`.
    """
    return {family.name: family.templates for family in _families(kind, held_out)}


def readings(template: str) -> Iterator[str]:
    """Return every combination of a template's ``(a|b)`` choices; slots stay as they are."""
    pieces = _CHOICE.split(template)  # outside, choices, outside, ...
    options = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ("".join(parts) for parts in itertools.product(*options))


def skeleton(template: str) -> str:
    """Return a template without its kinds of slots, spelling, articles, case and punctuation.

    Two templates with the same skeleton could give the same text, such as ``"Turn it into
    {a_type}!"`` and ``"turn it into {new_np}"``.
    """
    alike = re.sub(r"\{[^{}]*\}", "{}", template).lower().replace("colour", "color")
    alike = _NOT_WORDS.sub(" ", alike)
    return " ".join(re.sub(r"\b(?:an?|some|a pair of) \{\}", "{}", alike).split())


@cache
def _forbidden(kind: str, held_out: bool) -> frozenset[str]:
    """Return skeletons that no text may have: the demo's, and in training the held-out ones.

    No training template has one of them, but context or typing noise could produce it.
    """
    unseen = [templates for asked, templates in DEMO_WORDINGS.items() if asked == kind]
    if not held_out:
        unseen += [family.templates for family in _families(kind, held_out=True)]
    return frozenset(
        skeleton(reading)
        for templates in unseen
        for template in templates
        for reading in readings(template)
    )


def draw_reading(template: str, rng: np.random.Generator) -> str:
    """Return one of the `readings` of a template."""
    return _CHOICE.sub(lambda found: pick(tuple(found[1].split("|")), rng), template)


def _draw_family(choices: tuple[Family, ...], rng: np.random.Generator) -> Family:
    framed = tuple(family for family in choices if family.name.startswith("frame_"))
    written = tuple(family for family in choices if not family.name.startswith("frame_"))
    some = framed if framed and rng.random() < _FRAME_SHARE else written
    return some[int(rng.integers(len(some)))]


def _add_reference(sentence: str, family: Family, kind: str, rng: np.random.Generator) -> str:
    """Sometimes add a clause with the reference's value, before or after the sentence."""
    if "{old" in sentence or family.mood == "terse" or rng.random() >= _REFERENCE_SHARE:
        return sentence
    before, after = REFERENCE_CLAUSES[kind]
    if family.mood != "caption" and rng.random() < 0.5:
        return pick(before, rng) + sentence
    return sentence.removesuffix("?") + pick(after, rng) + "?" * sentence.endswith("?")


def add_context(sentence: str, family: Family, kind: str, rng: np.random.Generator) -> str:
    """Sometimes add a polite opening, a clause about what stays, an ending, or unrelated talk.

    Training families and held-out families get the same context; terse ones get none.
    """
    if family.mood == "terse":
        return sentence
    asked = sentence.endswith("?")
    sentence = sentence.removesuffix("?")
    names_kept = (
        family.keeps or asked or "same" in sentence or (kind == "type" and "colour" in sentence)
    )
    if family.mood in _KEEP_MOODS and not names_kept and rng.random() < _KEEP_SHARE:
        sentence += pick(KEEP_CLAUSES.get(kind, DEFAULT_KEEP_CLAUSES), rng)
    share, openings = OPENINGS[family.mood]
    if rng.random() < share:
        opening = pick(openings, rng)
        asked = asked or opening.startswith(("can you", "could you", "would you"))
        if not (opening.startswith("just") and "just" in sentence):
            sentence = opening + sentence
    share, endings = ENDINGS[family.mood]
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


def attribute_wording(
    kind: str,
    old: str,
    new: str,
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    kept: Mapping[str, str] | None = None,
) -> Wording:
    """Return a modification text that changes an attribute from ``old`` to ``new``.

    Args:
        kind: one of `KINDS`.
        old: the reference's value, as the catalogue spells it ("Navy Blue").
        new: the target's value.
        rng: source of all random draws.
        held_out: draw from the held-out families instead of the training families.
        kept: attribute -> value of the reference that stays. Some texts name one ("red heels", if
            the type stays).

    Raises:
        ValueError: the kind is unknown, or a value is empty.
    """
    known = {name: value for name, value in (kept or {}).items() if value and name != kind}
    choices = _usable_families(kind, held_out, frozenset(known))
    while True:
        family = _draw_family(choices, rng)
        sentence = draw_reading(pick(family.templates, rng), rng)
        if not held_out:
            sentence = _add_reference(sentence, family, kind, rng)
        sentence = add_context(sentence, family, kind, rng)
        sentence = add_typing_noise(vary_spelling(sentence, rng), rng)
        if skeleton(sentence) not in _forbidden(kind, held_out):
            break
    values = {"new": new, "old": old} | {f"kept_{name}": value for name, value in known.items()}

    def filled(slot: re.Match[str]) -> str:
        about = slot[1].removeprefix("kept_") if slot[1].startswith("kept_") else kind
        return verbalise(about, values[slot[1]], slot[2] or "plain", rng)

    return Wording(_SLOT.sub(filled, sentence), family.name)


_PLAIN_CAPTION_SHARE = 0.3
_CAPTION_SLOT = re.compile(r"\{(\w+?)(?:_(\w+))?\}")
_CAPTION_SLOTS: Mapping[str, tuple[str, str]] = {
    "for": ("gender", "for"),
    "poss": ("gender", "poss"),
}


@cache
def _caption_templates(known: frozenset[str]) -> tuple[str, ...]:
    """Return the caption templates that need only ``known`` attributes."""

    def needed(template: str) -> set[str]:
        slots = (found[1] for found in _CAPTION_SLOT.finditer(template))
        return {_CAPTION_SLOTS.get(slot, (slot, ""))[0] for slot in slots}

    return tuple(template for template in CAPTION_TEMPLATES if needed(template) <= known)


def product_caption(attributes: Mapping[str, str | None], rng: np.random.Generator) -> str:
    """Return a caption of a product, in varied words, from its known attributes.

    Some captions are the plain `attribute_caption` of all attributes; others name only some.

    Args:
        attributes: any of `KINDS` -> value; a value may be None or unknown (see `is_known`).
        rng: source of all random draws.

    Raises:
        ValueError: the colour, the type and the gender are all unknown.
    """
    known = {kind: value.strip() for kind in KINDS if is_known(value := attributes.get(kind) or "")}
    templates = _caption_templates(frozenset(known))
    if not templates:
        raise ValueError("a caption needs a colour, a type or a gender")
    if {"colour", "type", "gender"} <= known.keys() and rng.random() < _PLAIN_CAPTION_SHARE:
        kind_of_thing = " ".join((known.get("pattern", ""), known["type"])).strip()
        return attribute_caption(known["colour"], kind_of_thing, known["gender"])

    def filled(slot: re.Match[str]) -> str:
        kind, form = _CAPTION_SLOTS.get(slot[1], (slot[1], slot[2] or "plain"))
        return verbalise(kind, known[kind], form, rng)

    return _CAPTION_SLOT.sub(filled, vary_spelling(pick(templates, rng), rng))
