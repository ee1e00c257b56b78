"""What a text refuses: "not red", "anything but striped", "kein Blau"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["names_value", "refused_values", "split_refused"]

_VALUES: Mapping[str, str] = {
    "red": "rot rote roten roter rotes rojo roja rojos rojas rouge rouges",
    "blue": "blau blaue blauen blauer blaues azul azules bleu bleue bleus bleues",
    "green": "grün grüne grünen grüner grünes verde verdes vert verte verts vertes",
    "black": "schwarz schwarze schwarzen schwarzer schwarzes negro negra negros negras "
    "noir noire noirs noires",
    "white": "weiß weiss weiße weißen weißer weißes blanco blanca blancos blancas "
    "blanc blanche blancs blanches",
    "yellow": "gelb gelbe gelben gelber gelbes amarillo amarilla amarillos amarillas jaune jaunes",
    "grey": "gray grau graue grauen grauer graues gris grises grise",
    "brown": "braun braune braunen brauner braunes marrón marrones marron marrons",
    "pink": "rosa rosas rose roses",
    "purple": "lila violett violet morado morada morados moradas violette violets",
    "orange": "orangefarben naranja naranjas oranges",
    "beige": "beigefarben",
    "gold": "golden goldfarben dorado dorada doré dorée",
    "silver": "silbern silberne silberfarben plateado plateada argenté argentée",
    "navy blue": "navy marineblau",
    "striped": "stripes stripy gestreift gestreifte rayas rayado rayé rayures",
    "checked": "checks checkered plaid kariert karierte cuadros carreaux",
    "dotted": "dots polka gepunktet lunares pois",
    **dict.fromkeys(
        (
            *("maroon", "olive", "cream", "khaki", "turquoise", "teal", "magenta", "mauve"),
            *("lavender", "peach", "tan", "rust", "bronze", "copper", "charcoal", "burgundy"),
            *("mustard", "floral", "printed", "plain", "multicolor", "multi"),
        ),
        "",
    ),
}
"""A value that is seen -> other words for it, in the languages that the default bundle knows."""
_VALUE_OF = {word: value for value, more in _VALUES.items() for word in (value, *more.split())}
_PAIRS = "|".join(word for word in _VALUE_OF if " " in word)
_WORD = rf"\b(?:{_PAIRS})\b|\w+"
_MARK = "\N{ROMAN NUMERAL TEN THOUSAND}"
"""Stands with a number for a word: a short pattern compiles at once, one of all words does not."""
_VALUE = rf"{_MARK}\d+"

_BEFORE = (
    r"not|\w+n['\u2019]t|(?:do|does|did|is|are|was|ca|wo|would|should|could)nt|cannot|no|never|"
    r"without|except|apart from|avoid|minus|less|unlike|besides|"
    r"stop|already have|exclud\w+|zero|(?:free|far) (?:of|from)|"
    r"(?:any|every|all|all the|any colour|any color)\w* (?:but|bar)|(?:rather|else) than|"
    r"other (?:\w+ )?than|nothing(?! but\b| else\b)|"
    r"different (?:from|to|than)|instead of|in place of|hates?|dislikes?|(?:tired|sick|fed up|bored"
    r"|enough|plenty|out) (?:of|with)|(?:get|got) rid of|away (?:from|with)|clear of|anti|spare me|"
    r"lose|drop|skip|ditch|"
    rf"(?:non|too|too much|too many|(?:have|got) enough)(?=[ -]{_VALUE})|"
    r"nicht|kein|keine|keinen|keiner|keines|ohne|außer|ausser|statt|anstatt|nie|niemals|"
    r"sin|nada de|menos|excepto|salvo|nunca|en vez de|en lugar de|"
    r"pas|sans|sauf|jamais|plus de|au lieu de"
)
"""What refuses a value that follows within a few words of the same clause."""
_AFTER = (
    r"[- ]?less\b|[- ]free\b| (?:excepted|aside|annoys)\b|"
    r" no more\b| (?:\w+ )?(?:isn['\u2019]?t|won['\u2019]?t|doesn['\u2019]?t|can['\u2019]?t|"
    r"wouldn['\u2019]?t|(?:is|does|do|will|would|can) not|is out\b|is sold out|is forbidden|"
    r"(?:is|looks) (?:too|the wrong|awful|ugly|wrong)|"
    r"(?:bores|bothers) me|"
    r"has to go|must go|gefällt mir nicht|no me gusta|ne me plaît pas)"
)
"""What refuses a value that it follows."""
_BETWEEN = r"(?:[ -]+(?!but\b|only\b|just\b|sondern\b|sino\b|mais\b|\bif\b)[\w'\u2019]+){0,4}?[ -]+"
# Patterns are texts, which `re` compiles at their first use and keeps: a start needs none of them.
_WANTED = (
    r"\b(?:why not|not only|not just|nicht nur|no solo|pas seulement|if not|live without|"
    r"(?:shame|pity|too bad|wish|schade|lástima|dommage)\b[^,.;!?]{0,60}?"
    r"(?:not|n['\u2019]?t|nicht|no|pas))\b"
)
"""Refusals in form alone."""
_REFUSED = rf"\b(?:{_BEFORE}){_BETWEEN}(?P<after>{_VALUE})\b|\b(?P<before>{_VALUE})(?:{_AFTER})"


def names_value(text: str) -> bool:
    """Return whether a text names a colour or a pattern, in any language that is known here."""
    return any(word in _VALUE_OF for word in re.findall(_WORD, text.lower()))


def refused_values(text: str) -> tuple[str, ...]:
    """Return the colours and patterns that a text refuses, in English, each once, in order.

    It reads signs that refuse ("not", "without", "anything but"; also in German, Spanish and
    French) before a value in the same clause, or after it ("red won't do"). A text that names
    another value as well ("blue instead of red") says what is wanted: it refuses nothing here, and
    the model alone answers it.
    """
    read = _read(text)
    return tuple(read.refused) if set(read.named) == read.refused.keys() else ()


def split_refused(text: str) -> tuple[str, tuple[str, ...]]:
    """Return what a text without an image asks for, and the colours and patterns that it refuses.

    "a dress, not red" -> ("a dress", ("red",)). Other values that it names stay: "a blue dress,
    not red" -> ("a blue dress", ("red",)). A text that refuses nothing, or asks for nothing else,
    is returned as it is.
    """
    read = _read(text)
    if not read.refused:
        return text, ()
    rest = re.sub(_VALUE, lambda match: read.words[int(match[0][1:])], read.rest)
    rest = re.sub(r"\s+(?=[,.;!?])", "", " ".join(rest.split())).strip(" ,.;:-")
    return (rest if re.search(r"\w\w", rest) else text), tuple(read.refused)


class _Read(NamedTuple):
    """What `_read` finds in a text."""

    words: list[str]
    """Each word for a value, in the order of the text."""
    named: list[str]
    """Its value."""
    refused: dict[str, None]
    """The values that are refused."""
    rest: str
    """The text without what refuses them; a mark and a number stand for each of `words`."""


def _read(text: str) -> _Read:
    text = " ".join(text.lower().split())
    words: list[str] = []
    if names_value(text):
        text = re.sub(_WORD, lambda match: _mark(match[0], words), text.replace(_MARK, ""))
    named = [_VALUE_OF[word] for word in words]
    if not named:
        return _Read(words, named, {}, text)
    # Commas end clauses, so what stands between two of them refuses nothing.
    masked = re.sub(_WANTED, lambda match: "," * len(match[0]), text)
    found = list(re.finditer(_REFUSED, masked))
    refused = [match["after"] or match["before"] for match in found]
    rest, end = [], 0
    for match in found:
        rest.append(text[end : match.start()])
        end = match.end()
    rest.append(text[end:])
    return _Read(words, named, {named[int(mark[1:])]: None for mark in refused}, " ".join(rest))


def _mark(word: str, words: list[str]) -> str:
    if word not in _VALUE_OF:
        return word
    words.append(word)
    return f"{_MARK}{len(words) - 1}"
