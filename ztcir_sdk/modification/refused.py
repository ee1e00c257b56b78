"""What a text refuses: "not red", "anything but striped", "kein Blau"."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["names_value", "refused_values"]

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
_NUMBERS = {value: number for number, value in enumerate(_VALUES)}
_PAIRS = "|".join(word for word in _VALUE_OF if " " in word)
_WORD = rf"\b(?:{_PAIRS})\b|\w+"
_MARK = "\N{ROMAN NUMERAL TEN THOUSAND}"
"""Stands with a number for a value: a short pattern compiles at once, one of all words does not."""
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
    text = " ".join(text.lower().split())
    if not names_value(text):
        return ()
    text = re.sub(_WORD, _number, text.replace(_MARK, ""))
    text = re.sub(_WANTED, ",", text)
    refused = re.finditer(_REFUSED, text)
    found = dict.fromkeys(match["after"] or match["before"] for match in refused)
    values = list(_VALUES)
    marks = set(re.findall(_VALUE, text))
    return tuple(values[int(mark[1:])] for mark in found) if marks == found.keys() else ()


def _number(match: re.Match[str]) -> str:
    value = _VALUE_OF.get(match[0])
    return match[0] if value is None else f"{_MARK}{_NUMBERS[value]}"
