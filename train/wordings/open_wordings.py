"""Texts of open requests: slips inside values, refusals, two changes, long messages, languages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from train.wordings import languages
from train.wordings.attribute_wordings import attribute_wording, draw_reading
from train.wordings.misspellings import misspell
from train.wordings.noise import pick
from train.wordings.open_frames import (
    ASKS,
    CLOSINGS,
    DETAIL_FRAMES,
    GREETINGS,
    KEEP_FRAMES,
    OLD_FIRST,
    REFUSAL_CLOSINGS,
    REFUSAL_CORES,
    REFUSAL_OPENINGS,
    REFUSALS,
    STORIES,
    TWO_COLOUR_GENDER,
    TWO_COLOUR_TYPE,
    TWO_TYPE_GENDER,
    UNANSWERABLE,
    UNKNOWN_FRAMES,
)
from train.wordings.surface_forms import add_article, verbalise

__all__ = [
    "can_be_foreign",
    "detail_text",
    "foreign_caption",
    "foreign_text",
    "keep_text",
    "long_text",
    "mistyped_text",
    "old_first_text",
    "refusal_text",
    "two_changes_text",
]

_SHORT = (
    "{new}",
    "in {new}",
    "{new} please",
    "{new} one",
    "the {new} one",
    "want {new}",
    "colour {new}",
    "{new} instead",
    "make this {new}",
    "i need {new}",
    "get me {new}",
    "now {new}",
    "only {new}",
)
_SHORT_TYPE = (
    "{new}",
    "a {new}",
    "as a {new}",
    "{new} please",
    "need a {new}",
    "want {new}",
    "show {new}",
)
_SHORT_GENDER = ("for {new}", "{new}", "{new} please", "one for {new}", "the {new} one")
_SHORTEST = {"colour": _SHORT, "type": _SHORT_TYPE, "gender": _SHORT_GENDER}
_NUMBER = {"de": 0, "es": 1, "fr": 2}
_LEXICON = {"colour": languages.COLOURS, "type": languages.TYPES, "gender": languages.GENDERS}


def _key(value: str) -> str:
    return " ".join(value.lower().split())


def mistyped_text(kind: str, old: str, new: str, rng: np.random.Generator) -> str:
    """A request for one change whose value is mistyped."""
    slot = "for" if kind == "gender" else "plain"
    value = misspell(verbalise(kind, new, slot, rng), rng)
    if rng.random() < 0.5:
        return pick(_SHORTEST[kind], rng).replace("{new}", value)
    return attribute_wording(kind, old, value, rng).text


def refusal_text(old: str, rng: np.random.Generator) -> str:
    """A colour that is not wanted."""
    if rng.random() < 0.4:
        frame = pick(REFUSALS, rng)
    else:
        parts = (REFUSAL_OPENINGS, REFUSAL_CORES, REFUSAL_CLOSINGS)
        frame = "".join(pick(part, rng) for part in parts)
    text = draw_reading(frame, rng)
    text = text.replace("{old_a}", verbalise("colour", old, "a", rng))
    return text.replace("{old}", verbalise("colour", old, "plain", rng))


def old_first_text(kind: str, old: str, new: str, rng: np.random.Generator) -> str:
    """A change that names the old value before the new one."""
    text = draw_reading(pick(OLD_FIRST, rng), rng).replace(
        "{old}", verbalise(kind, old, "plain", rng)
    )
    return text.replace("{new}", verbalise(kind, new, "plain", rng))


def two_changes_text(new: Mapping[str, str], rng: np.random.Generator) -> str:
    """A request for two values at once.

    Args:
        new: two of ``colour``, ``type``, ``gender``.
    """
    kinds = frozenset(new)
    if kinds == {"colour", "gender"}:
        frames = TWO_COLOUR_GENDER
    elif kinds == {"colour", "type"}:
        frames = TWO_COLOUR_TYPE
    else:
        frames = TWO_TYPE_GENDER
    text = draw_reading(pick(frames, rng), rng)
    if "colour" in new:
        colour = verbalise("colour", new["colour"], "plain", rng)
        text = text.replace("{new_a_type}", f"{add_article(colour)} {{type}}").replace(
            "{new}", colour
        )
    if "type" in new:
        text = text.replace("{type}", verbalise("type", new["type"], "plain", rng))
        text = text.replace("{thing}", verbalise("type", new["type"], "np", rng))
    if "gender" in new:
        text = text.replace("{whom}", verbalise("gender", new["gender"], "for", rng))
        text = text.replace("{whose}", verbalise("gender", new["gender"], "poss", rng))
    return text


def long_text(core: str, rng: np.random.Generator) -> str:
    """A request inside a long message."""
    stories = rng.permutation(len(STORIES))[: 1 + int(rng.random() < 0.35)]
    text = pick(GREETINGS, rng) + "".join(STORIES[story] for story in stories)
    text += pick(ASKS, rng).replace("{core}", core.rstrip("?.! "))
    if rng.random() < 0.3:
        text = text.rstrip(", ") + ". " + STORIES[int(rng.integers(len(STORIES)))].rstrip(", ")
    text += pick(CLOSINGS, rng)
    return text[0].upper() + text[1:] if rng.random() < 0.6 else text


def detail_text(phrases: tuple[str, ...], rng: np.random.Generator) -> str:
    """A request for a detail that captions tell."""
    return draw_reading(pick(DETAIL_FRAMES, rng), rng).replace("{detail}", pick(phrases, rng))


def keep_text(rng: np.random.Generator, unknown: tuple[str, ...] = ()) -> str:
    """A request that no photo answers, so that what the reference is stays right.

    Args:
        rng: source of all random draws.
        unknown: words that the catalogue does not know; without any, none are asked for.
    """
    drawn = rng.random()
    if drawn < 0.08:  # words that mean nothing at all
        letters = "abcdefghijklmnopqrstuvwxyz"
        text = " ".join(
            "".join(letters[int(i)] for i in rng.integers(26, size=int(rng.integers(3, 9))))
            for _ in range(int(rng.integers(1, 3)))
        )
    elif unknown and drawn < 0.5:
        words = " ".join(pick(unknown, rng) for _ in range(1 + int(rng.random() < 0.4)))
        return pick(UNKNOWN_FRAMES, rng).replace("{it}", words)
    else:
        text = pick(UNANSWERABLE, rng)
        if rng.random() < 0.15:
            text = f"{text} and {pick(UNANSWERABLE, rng)}"
        if rng.random() < 0.08:
            text = misspell(text, rng)
    return pick(KEEP_FRAMES, rng).replace("{it}", text)


def can_be_foreign(kind: str, *values: str) -> bool:
    """Whether the lexicon has words for all of some values."""
    return all(_key(value) in _LEXICON[kind] for value in values)


def _foreign(kind: str, value: str, language: str, rng: np.random.Generator) -> str:
    return pick(tuple(_LEXICON[kind][_key(value)][_NUMBER[language]].split("|")), rng)


def _typed(text: str, rng: np.random.Generator) -> str:
    """As typed: at times without capitals, at times without accents."""
    if rng.random() < 0.4:
        text = text.lower()
    if rng.random() < 0.25:
        text = text.translate(str.maketrans("áéíóúàèâêîôûçñ", "aeiouaeaeioucn"))
    return text


def foreign_text(kind: str, old: str, new: str, rng: np.random.Generator) -> str:
    """A request in German, Spanish or French; for values that `can_be_foreign`."""
    language = pick(languages.LANGUAGES, rng)
    text = pick(languages.FRAMES[language][kind], rng)
    text = text.replace("{old}", _foreign(kind, old, language, rng))
    return _typed(text.replace("{new}", _foreign(kind, new, language, rng)), rng)


def foreign_caption(attributes: Mapping[str, str], rng: np.random.Generator) -> str:
    """A description of a product in German, Spanish or French; empty where words are lacking.

    Args:
        attributes: a type, and any of colour and gender -> value.
        rng: source of all random draws.
    """
    if "type" not in attributes or not all(can_be_foreign(*one) for one in attributes.items()):
        return ""
    language = pick(languages.LANGUAGES, rng)
    named = "".join(kind[0] for kind in _LEXICON if kind in attributes)
    text = pick(languages.DESCRIPTIONS[language][named], rng)
    for kind, value in attributes.items():
        text = text.replace(f"{{{kind}}}", _foreign(kind, value, language, rng))
    return _typed(text, rng)
