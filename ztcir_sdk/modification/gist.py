"""The gist of a text: what it names, in the words that a model understands best.

A model that is trained on short requests in English loses itself in a long message, or in a
sentence of another language, although it knows each word that matters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from ztcir_sdk.modification.foreign import Named
from ztcir_sdk.modification.refused import is_value, names_value
from ztcir_sdk.modification.refused_words import SHADES

__all__ = ["LONG", "PEOPLE", "english_text", "long_gist", "without_idle_words"]

LONG = 8
"""Words above which a text is long."""
PEOPLE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("men", "man", "mens", "male", "males", "guy", "guys", "gent", "gents", "gentleman"),
            *("gentlemen", "menswear", "masculine", "husband", "boyfriend", "dad", "father"),
            *("uncle", "brother", "grandfather", "lad", "lads", "him"),
        ),
        "men",
    ),
    **dict.fromkeys(
        (
            *("women", "woman", "womens", "female", "females", "lady", "ladies", "womenswear"),
            *("feminine", "wife", "girlfriend", "mom", "mum", "mother", "aunt", "sister"),
            *("grandmother", "fiancee", "gal", "gals", "her"),
        ),
        "women",
    ),
    **dict.fromkeys(("boy", "boys", "schoolboy", "son", "nephew", "grandson", "boyswear"), "boys"),
    **dict.fromkeys(("girl", "girls", "daughter", "niece", "girlswear"), "girls"),
    **dict.fromkeys(("kid", "kids"), "kids"),
    **dict.fromkeys(("unisex", "genderless", "everyone", "anyone", "anybody"), "everyone"),
}
"""Whom a product is for, in English -> as a request says it."""
_POSSESSIVE = (
    r"\b(?:men|women|boys?|girls?|lady|ladies|man|woman|gents?|kids?)(?:['\u2019]s?|s)? "
    r"(?:versions?|sections?|departments?|models?|sizes?|cuts?|ones?|styles?|range|collection)\b|"
    r"\b(?:men|women|boy|girl|lady|kid|gent|man|woman)['\u2019]s\b|"
    r"\b(?:mens|womens|menswear|womenswear|unisex|ladies['\u2019])(?!\w)"
)
_FOR = (
    r"\b(?:for|suits?|fits?) (?:(?:an?|my|the|his|our|your|some|both|little|young|big|older|"
    r"younger|dear|best|beloved|lovely|two|new) ){0,3}(?P<person>\w+)\b"
)
_ASKED = (
    r"\b(?:as|into|be|find|finding|want|wanted|need|needed|prefer|have|looking for|look for|"
    r"searching for|search for|show(?: me)?|like|love|get|give me|bring me|got|after|see|is|"
    r"instead)\b"
    r"(?: (?:me|us|him))? "
)
_BETWEEN = r"(?:(?:an?|some|any|the same|another|more|nice|matching|similar|actual|proper) ){0,3}"
_CLAUSE = (
    r"[:,()]+|\b(?:but|so|because|since|though|although|while|whereas|before|after|until|"
    r"unless|if|when|whenever|however|therefore)\b"
)
_IDLE = (
    r"\b(?:as )?(?:an? )?(?:(?:birthday|christmas|wedding) )?(?:gift|present)s? (?=for\b)|"
    r"\bdifferent colou?r ?[:,] ?|"
    r"\b(?:would |will |might |may |could |does |did |do |to )?"
    r"suits? (?:me|you|him|us|them|my \w+)\b(?: (?:better|best|more|well|fine))?|"
    r"\b(?:just )?in case\b|\bon top(?: of(?: that| it))?\b|\bwash(?:es|ing)? (?:well|easily|it)\b|"
    r"\b(?:take|taking|don['\u2019]?t) care\b|\bwatch(?:ed|ing)? (?:out|the|it|a|tv|videos?)\b|"
    r"\b(?:a|the) set of\b|\b(?:any|your|the) (?:other )?products?\b|\bring (?:me|you|the)\b|"
    r"\btop (?:quality|notch|of)\b|\bpull (?:off|it off)\b|\bdress code\b|"
    r"\bpack(?:ed|ing)? (?:for|my)\b"
)
"""Words that name products elsewhere."""


def without_idle_words(text: str) -> str:
    """Return a text without phrases that only look as if they named a product or a colour."""
    left = re.sub(_IDLE, " ", text, flags=re.IGNORECASE)
    return text if left == text else " ".join(left.split()).strip(" ,.;:!?")


def english_text(named: Sequence[Named]) -> str:
    """Return what another language names as an English request: "black shoes, for women"."""
    kinds: dict[str, list[str]] = {"colours": [], "types": [], "people": [], "details": []}
    for kind, english in named:
        kinds[kind].append(english)
    return _request(kinds["colours"], kinds["details"], kinds["types"], kinds["people"])


def long_gist(
    text: str, attribute_words: Collection[str], detail_words: Collection[str]
) -> tuple[str, bool]:
    """Return the short request inside a long English message, and whether it names a detail.

    Kept are colours and patterns with the product that they are said of, products that are asked
    for ("as a dress"), and whom it is for ("for my sister"). Of a text without any, all is kept.
    """
    lowered = " ".join(text.lower().split())
    colours: list[str] = []
    details: list[str] = []
    types: list[str] = []
    people: list[str] = []
    for clause in _clauses(lowered):
        words = re.findall(r"[\w'\u2019-]+|&", clause)
        for start, end in _spans(words):
            colours.append(" ".join(words[start:end]))
            for word in words[end : end + 3]:
                if _is_type(word, attribute_words) or (word in _SURE and word in attribute_words):
                    types.append(word)
                    break
                if word not in detail_words:
                    break
                details.append(word)
        types += _types(clause, attribute_words)
        people += _people(clause)
        details += _details(clause, detail_words)
    gist = _request(*(list(dict.fromkeys(one)) for one in (colours, details, types, people)))
    return (gist, not _FORMS.issuperset(details)) if gist else (text, False)


def _clauses(text: str) -> Iterator[str]:
    """Yield the clauses of a text; of two colours with "but" between, the second is wanted."""
    for sentence in re.split(r"[.!?;\n]+", text):
        before, but, after = sentence.partition(" but ")
        if but and names_value(before) and names_value(after):
            sentence = after
        yield from (clause for clause in re.split(_CLAUSE, sentence) if clause)


def _request(
    colours: Sequence[str], details: Sequence[str], types: Sequence[str], people: Sequence[str]
) -> str:
    what = " ".join([" and ".join(colours), *details, *types[:2]]).strip()
    if details and not types and not colours:
        what = f"in {what}"
    whom = f"for {people[0]}" if people else ""
    return ", ".join(part for part in (what, whom) if part)


def _spans(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of colours and patterns: "dark blue and white stripes"."""
    shades = frozenset(SHADES.split())
    place = 0
    while place < len(words):
        start = end = place
        while (last := _end_of_value(words, end)) > end or (
            end > start and words[end : end + 1] in (["and"], ["or"], ["&"])
        ):
            if last == end and _end_of_value(words, end + 1) == end + 1:
                break
            end = max(last, end + 1)
        if end > start:
            yield (start - 1 if start and words[start - 1] in shades else start), end
        place = max(end, place + 1)


def _end_of_value(words: Sequence[str], place: int) -> int:
    for count in (2, 1):
        found = words[place : place + count]
        if len(found) == count and is_value(" ".join(found)):
            return place + count
    return place


def _is_type(word: str, attribute_words: Collection[str]) -> bool:
    word = word.strip("'\u2019-")
    return (
        (word in attribute_words or word.rpartition("-")[2] in attribute_words)
        and word not in PEOPLE
        and word not in _GENERIC
        and not is_value(word)
    )


_GENERIC = frozenset(
    (
        *("all", "care", "color", "colour", "coloured", "cover", "covers", "essential", "everyone"),
        *(
            "gender",
            "genders",
            "gift",
            "gifts",
            "link",
            "links",
            "neutral",
            "pack",
            "packs",
            "pull",
        ),
        *("product", "products", "set", "sets", "shade", "shades", "short", "tone", "toned"),
        *("tools", "tool", "wash", "skin", "top", "light", "slip", "sie", "ring", "colourful"),
        *("tights", "tight", "accessories", "accessory", "flat", "suit", "watch", "ball", "case"),
    )
)
"""Words that name a product at times only; in a message they mostly do not."""
_FORMS = frozenset(("pattern", "patterned", "print", "prints", "printed"))
"""Details that say no more than the pattern beside them: "floral pattern"."""
_STOPS = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "it", "its", "my", "your", "his"),
        *("of", "in", "with", "and", "or", "to", "for", "as", "at", "on", "from", "into", "me"),
        *("same", "more", "some", "any", "other", "another", "nice", "great", "something", "one"),
    )
)
_SURE = frozenset(("top", "ring", "suit", "watch", "tights", "slip", "case"))
"""Those that do after a colour, or after "as a"."""


def _types(clause: str, attribute_words: Collection[str]) -> Iterator[str]:
    for found in re.finditer(
        rf"(?={_ASKED}{_BETWEEN}(?P<type>[\w-]+)(?: (?P<more>[\w-]+))?)", clause
    ):
        word, more = found["type"], found["more"] or ""
        sure = word in _SURE and re.search(rf"\b(?:an?|some) (?:\w+ )?{word}\b", clause) is not None
        if _is_type(word, attribute_words) or (sure and word in attribute_words):
            yield word
        elif word not in _STOPS and _is_type(more, attribute_words):
            yield more if is_value(word) else f"{word} {more}"
    for found in re.finditer(r"([\w-]+) (?:like this|like that|in this style|instead)\b", clause):
        if _is_type(found[1], attribute_words):
            yield found[1]


def _people(clause: str) -> Iterator[str]:
    for found in re.finditer(_FOR, clause):
        if found["person"] in PEOPLE:
            yield PEOPLE[found["person"]]
    if whose := re.search(_POSSESSIVE, clause):
        yield PEOPLE[re.split(r"[ '\u2019]", whose[0])[0]]


def _details(clause: str, detail_words: Collection[str]) -> Iterator[str]:
    for found in re.finditer(r"\b(?:in|of|from|with) (?:\w+ )?(?P<detail>\w+)", clause):
        if found["detail"] in detail_words and not is_value(found["detail"]):
            yield found["detail"]
