"""What is to be exchanged for something else: "a skirt instead of a dress" wants a skirt."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["without_exchanged"]

_ARTICLE = (
    r"(?:(?:an?|the|this|that|these|those|my|some|ein|eine|einen|einer|einem|der|die|das|den|dem|"
    r"un|una|unos|unas|el|la|los|las|une|des|du|le|les|for|für|para|pour|in|en|as|als) |"
    r"l['\u2019])"
)
_NAME = r"[^\W\d_][\w'\u2019-]*"
_OLD = rf"{_ARTICLE}{{0,2}}(?P<old>{_NAME}(?: {_NAME}){{0,2}}?)"
"""What is old: up to three words, as few as will do."""
_END = r"(?=\s*(?:[,.;:!?]|$))"
_INSTEAD = (
    r"(?:instead of|rather than|in place of|in lieu of|statt|anstatt|anstelle (?:von|des|der)|"
    r"en vez del?|en lugar del?|(?:au lieu|à la place) d(?:es? |u |['\u2019]))"
)
_OLD_FIRST = (
    rf"\bsubstitute (?=\S[^,.;]*? for {_OLD}{_END})",
    rf"\b(?:replace|swap|exchange|trade|change|switch|turn|convert|tausche?|ersetze?|wechsle|"
    rf"ändere|cambia|cambie|reemplaza|sustituye|remplacer?|remplacez|change[rz]?|échange[rz]?)"
    rf"(?: it| this)?(?: from| von| de)? {_OLD} "
    rf"(?:for|with|by|into|to|in|gegen|durch|mit|zu|por|a|con|par|contre|en|avec) ",
    rf"\b(?:from|von|vom|de|del) {_OLD} (?:in ?to|to|zu|zum|zur|auf|a|al|à|vers) ",
    rf"^(?!.*\bprefer\b){_OLD} (?:(?:to|zu) |(?:-+>|=+>|\u2192|>) ?)",
    rf"\b(?:not|nicht|no|pas|non) {_OLD},? (?:but|rather|sondern|sino|mais) ",
    rf"(?:^|(?<=[,.;!?] ))(?:not|no|nicht|pas|non|kein\w*) {_OLD} ?[,;] ?",
    rf"\b{_INSTEAD} ?{_OLD} ?[,;:] ?",
    rf"\bwhere (?:this|it) is {_OLD},? (?:i (?:want|need) )?",
)
"""Up to where what is new starts."""
_OLD_LAST = (
    rf",? (?:{_INSTEAD}|replacing|in favou?r over) ?{_OLD}{_END}",
    rf"[,;]? (?:and )?(?:not|nicht|no|pas|kein\w*) {_OLD}{_END}",
    rf"(?<=\w) (?:to|over) {_OLD}{_END}",
)
"""From where what is new ends; the last one after "prefer"."""
_HINT = (
    r"->|=>|\u2192|>|\b(?:replac|swap|exchang|trad|chang|switch|turn|convert|tausch|ersetz|wechsl|"
    r"änder|cambi|reemplaz|sustitu|rempla|échang|from|von|vom|de|del|to|zu|not|nicht|no|pas|non|"
    r"kein|instead|rather|in place|in lieu|statt|anstatt|anstelle|en vez|en lugar|au lieu|"
    r"à la place|where|prefer|substitut|over)"
)


def without_exchanged(text: str, names_something: Callable[[str], bool]) -> str:
    """Return a text without what is to be exchanged for something else that it names.

    "a skirt instead of a dress" -> "a skirt"; "from men to women" -> "women".

    Args:
        text: a modification text.
        names_something: whether a part of it names something that a model knows. Both what is old
            and what is new must; else the text is returned as it is.
    """
    lowered = " ".join(text.lower().split())
    if not re.search(_HINT, lowered):
        return text
    if substituted := re.search(_OLD_FIRST[0], lowered):  # "substitute NEW for OLD"
        new = lowered[substituted.end() :].partition(" for ")[0]
        if names_something(substituted["old"]) and names_something(new):
            return new
    for pattern in _OLD_FIRST[1:]:
        for found in re.finditer(pattern, lowered):
            before, new = lowered[: found.start()], lowered[found.end() :]
            if names_something(found["old"]) and names_something(new):
                return f"{before}{new}".strip(" ,.;:")
    prefers = "prefer " in lowered
    for pattern in _OLD_LAST if prefers else _OLD_LAST[:-1]:
        for found in re.finditer(pattern, lowered):
            new, after = lowered[: found.start()], lowered[found.end() :]
            if names_something(found["old"]) and names_something(new):
                return f"{new}{after}".strip(" ,.;:")
    return text
