"""What a German, Spanish or French text names, in English."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

from ztcir_sdk.modification.slips import is_english_word, is_foreign_word

__all__ = ["SMALL_WORDS", "Named", "foreign_names", "is_foreign", "is_named"]

SMALL_WORDS = frozenset({"el", "hat", "son"})
"""The, has, his: they name nothing, although English has a hat and a son, and "él" is he."""

_KINDS = ("colours", "types", "people", "details")
_MOST_WORDS = 4
"""Words of a phrase: "zapatos de tacón"."""
_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_ELISION = re.compile(r"^(?:[cdjlmnst]|qu)['\u2019](?=\w)")
_HOMOGRAPHS = frozenset(
    (
        *("alle", "ante", "arena", "argent", "baskets", "boxer", "café", "collar", "crudo"),
        *("dame", "dames", "elle", "elles", "fauve", "fille", "filles", "fils", "gilet", "hose"),
        *("jean", "jersey", "junge", "kette", "lin", "lino", "liso", "lui", "mama", "mann"),
        *("mari", "or", "oro", "papa", "pendant", "petrol", "plata", "pois", "pull", "robe"),
        *("rock", "rose", "sable", "sac", "samt", "short", "sie", "slip", "spitze", "sweat"),
        *("talons", "teja", "tenis", "tongs", "topo", "topos", "tous", "tuch", "uni", "vino"),
        *("herr", "golden", "pumps", "mec", "bas", "mode"),
    )
)
"""Words that say something else in English, or in none of the other languages."""
_ENGLISH_TOO = frozenset(
    ("as", "den", "die", "era", "hay", "pendant", "par", "plus", "sean", "sin", "son", "tan")
)
"""Common words of these languages that prove nothing."""
_FOR = frozenset(
    (
        *("für", "fur", "fuer", "para", "pour", "de", "version", "versión", "modèle", "modelo"),
        *("an", "a", "à", "als"),
    )
)
_WITH = frozenset(("mit", "con", "avec", "ohne", "sin", "sans"))
_OWN = frozenset(
    (
        *("mein", "meine", "meinen", "meiner", "unsere", "unseren", "seine", "ihre", "ihren"),
        *("eine", "einen", "ein", "die", "den", "der", "das", "mi", "mis", "su", "sus", "tu"),
        *("un", "una", "la", "el", "los", "las", "nuestra", "nuestro", "mon", "ma", "mes"),
        *("sa", "son", "ses", "notre", "une", "le", "les", "des", "l", "petite", "petit"),
        *("kleine", "kleinen", "große", "großen", "beste", "besten", "mejor", "meilleure"),
    )
)
_SAID_OF_PRODUCTS = frozenset(
    (
        *("damen", "herren", "frauen", "männer", "mujer", "mujeres", "hombre", "hombres"),
        *("homme", "hommes", "femme", "femmes", "mädchen", "jungs", "niña", "niñas"),
        *("niño", "niños", "garçon", "garçons", "unisex", "caballero", "señora"),
        *("männlich", "weiblich", "masculino", "femenino", "masculin", "féminin", "féminine"),
    )
)
"""People that are named without "for" before: "camisa mujer". Others may be of a story."""
_COMPOUND = re.compile(r"(damen|frauen|herren|männer|mädchen|jungen)(\w{3,})")


class Named(NamedTuple):
    """Something that a text names."""

    kind: str
    """"colours" (and patterns), "types", "people" or "details"."""
    english: str


def foreign_names(text: str) -> list[Named] | None:
    """Return what a text names, in order, each once; None if it is not of these languages.

    Args:
        text: a modification text.
    """
    text = re.sub(r"\bmontre[- ](?=moi\b|nous\b)", "", text.lower())  # "show me", not a watch
    words = [part for word in _WORD.findall(text) for part in _parts(word)]
    foreign = sum(map(is_foreign, words))
    if foreign == 0 or sum(map(is_english_word, words)) > foreign:
        return None
    return list(dict.fromkeys(_names(words)))


def _parts(word: str) -> list[str]:
    word = _ELISION.sub("", word)
    return [word] if (word,) in _lexicon() else word.split("-")


def is_foreign(word: str) -> bool:
    """Return whether a word, in lower case, is of a German, Spanish or French text."""
    if is_foreign_word(word):
        return word not in _ENGLISH_TOO
    return word in _only_foreign() or _COMPOUND.fullmatch(word) is not None


def _names(words: Sequence[str]) -> Iterator[Named]:
    lexicon, place = _lexicon(), 0
    while place < len(words):
        if words[place] in _WITH and (end := _end_of_part(words, place + 1)):
            place = end
            continue
        found, end = _phrase(words, place)
        if found is not None and (found.kind != "people" or _is_for(words[:place], words[place])):
            yield found
        elif compound := _COMPOUND.fullmatch(words[place]):
            rest = compound[2]
            product = lexicon.get((rest,)) or lexicon.get((rest.removeprefix("s"),))
            yield lexicon[compound[1],]
            if product is not None and product.kind == "types":
                yield product
        place = end


def _phrase(words: Sequence[str], place: int) -> tuple[Named | None, int]:
    """Return what the longest phrase from a place on names, and where it ends."""
    for count in range(min(_MOST_WORDS, len(words) - place), 0, -1):
        if found := _lexicon().get(tuple(words[place : place + count])):
            return found, place + count
    return None, place + 1


def _end_of_part(words: Sequence[str], place: int) -> int:
    """Return where a product that is a part ends, with its colours: "con cinturón negro"; or 0."""
    is_product = False
    while place < len(words):
        found, end = _phrase(words, place)
        if found is None and words[place] not in _OWN:
            break
        if found is not None and found.kind == "types":
            is_product = True
        elif found is not None and found.kind != "colours":
            break
        place = end
    return place if is_product else 0


def _is_for(before: Sequence[str], person: str) -> bool:
    if person in _SAID_OF_PRODUCTS:
        return True
    left = list(itertools.dropwhile(_OWN.__contains__, reversed(before)))
    return bool(left) and left[0] in _FOR


@cache
def _lexicon() -> dict[tuple[str, ...], Named]:
    """Read the words, phrase -> what it names; only once a text may be of another language."""
    text = resources.files(__package__).joinpath("foreign_words.txt").read_text(encoding="utf-8")
    found: dict[tuple[str, ...], Named] = {}
    kind = ""
    for line in text.splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
            continue
        english, _, languages = line.partition(": ")
        for language, phrases in zip(("de", "es", "fr"), languages.split("|"), strict=True):
            for phrase in phrases.split():
                words = tuple(_ELISION.sub("", word) for word in phrase.split("_"))
                for form in _forms(words, kind, language):
                    found.setdefault(form, Named(kind, english))
    for one in tuple(found.values()):  # texts mix languages: "Kleid in black"
        found.setdefault(tuple(one.english.split()), one)
    return found


def is_named(word: str) -> bool:
    """Return whether `foreign_names` can name a word, or a phrase that starts with it."""
    return word in _first_words()


@cache
def _first_words() -> frozenset[str]:
    return frozenset(phrase[0] for phrase in _lexicon())


@cache
def _only_foreign() -> frozenset[str]:
    """The words that no English text has."""
    single = {phrase[0] for phrase in _lexicon() if len(phrase) == 1}
    english = {word for one in _lexicon().values() for word in one.english.split()}
    return frozenset(single - english - _HOMOGRAPHS)


def _forms(phrase: tuple[str, ...], kind: str, language: str) -> Iterator[tuple[str, ...]]:
    """Yield a phrase, and its inflections where they are regular."""
    yield phrase
    first, rest = phrase[0], phrase[1:]
    if kind == "colours" and not rest and language == "de":
        for end in ("e", "en", "er", "es", "em"):
            yield (f"{first}{end}",)
    if kind not in ("colours", "types") or language == "de":
        return
    if language == "es" and first.endswith("o") and kind == "colours":
        for end in ("a", "os", "as"):
            yield (first[:-1] + end, *rest)
    plural = "s" if first[-1] in "aeioué" or language == "fr" else "es"
    if first[-1] not in "sx":
        yield (first + plural, *rest)
        if language == "fr" and kind == "colours":
            yield from (((f"{first}{end}"), *rest) for end in ("e", "es"))
