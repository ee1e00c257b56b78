"""Stage II triplets of open requests, from a catalogue's attributes and captions.

People mistype, refuse a colour, want two changes, write at length, ask for details that only
captions have, ask for what no photo shows, and use their own language. Each kind has its own right
answers.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data.item import Item
from train.triplets.from_attributes import add_noise, check_limit_and_noise
from train.triplets.tempered_draw import draw_index, tempered_edges
from train.wordings import languages, open_wordings
from train.wordings.attribute_wordings import attribute_wording
from train.wordings.open_frames import DETAILS
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.names import UNKNOWN_VALUE

TYPO = "typo"
"""Kind of request with a typing error in the wanted value."""
KEEP = "keep"
"""Kind of request whose right answers have the reference's attributes, as itself has."""
REQUEST_KINDS: Mapping[str, float] = {
    TYPO: 0.1,
    "not": 0.18,
    "instead": 0.09,
    "two": 0.1,
    "long": 0.15,
    "detail": 0.11,
    KEEP: 0.17,
    "language": 0.1,
}
"""Kind of open request -> its share."""

_KINDS = ("colour", "type", "gender")
_MOSTLY_COLOUR = (0.6, 0.2, 0.2)
_NEARLY_ALWAYS_COLOUR = (0.8, 0.1, 0.1)

_WORD = re.compile(r"[a-z]{3,12}")

_Attributes = tuple[str, ...]  # colour, type, gender


@dataclass(frozen=True)
class _Request:
    reference: str
    text: str
    targets: tuple[str, ...]


class _Catalogue:
    """Items by their attributes, and what a request may change them to."""

    def __init__(self, items: Sequence[Item]) -> None:
        groups: defaultdict[_Attributes, list[str]] = defaultdict(list)
        self.captions = {item.id: item.caption.lower() for item in items}
        named = {f"{item.colour} {item.type} {item.gender}".lower() for item in items}
        self.unknown_words = unknown_words([*self.captions.values(), *named])
        for item in items:
            values = (item.colour, item.type, item.gender)
            if UNKNOWN_VALUE not in values and all(values):
                groups[values].append(item.id)
        self.groups = {values: tuple(ids) for values, ids in groups.items()}
        self.keys = list(self.groups)
        self._edges = self._edges_of(self.keys)
        self._without: defaultdict[tuple[int, _Attributes], list[_Attributes]] = defaultdict(list)
        for key in self.keys:
            for column in range(3):
                self._without[column, key[:column] + key[column + 1 :]].append(key)
        self._colours: defaultdict[_Attributes, list[_Attributes]] = defaultdict(list)
        for key in self.keys:
            self._colours[key[1:]].append(key)

    def draw(self, rng: np.random.Generator) -> _Attributes:
        return self.keys[draw_index(self._edges, rng)]

    def item(self, key: _Attributes, rng: np.random.Generator) -> str:
        ids = self.groups[key]
        return ids[int(rng.integers(len(ids)))]

    def change(self, key: _Attributes, column: int, rng: np.random.Generator) -> _Attributes | None:
        """Return attributes that differ only in `column`."""
        others = [
            one for one in self._without[column, key[:column] + key[column + 1 :]] if one != key
        ]
        return others[draw_index(self._edges_of(others), rng)] if others else None

    def two_changes(
        self, key: _Attributes, kept: int, rng: np.random.Generator
    ) -> _Attributes | None:
        """Return attributes that differ in all columns but `kept`."""
        others = [
            one
            for one in (self.draw(rng) for _ in range(64))
            if one[kept] == key[kept]
            and all(one[column] != key[column] for column in range(3) if column != kept)
        ]
        return others[0] if others else None

    def other_colours(self, key: _Attributes) -> tuple[str, ...]:
        return tuple(
            name for one in self._colours[key[1:]] if one[0] != key[0] for name in self.groups[one]
        )

    def of_kind(self, key: _Attributes) -> list[str]:
        """Items of a type and gender, in any colour."""
        return [name for one in self._colours[key[1:]] for name in self.groups[one]]

    def _edges_of(self, keys: Sequence[_Attributes]) -> NDArray[np.float64]:
        return tempered_edges([len(self.groups[key]) for key in keys])


def synthesise_requests(
    items: Sequence[Item], *, seed: int, limit: int | None, noise: float = 0.0
) -> list[Triplet]:
    """Make triplets of open requests.

    Args:
        items: the catalogue; an item with an unknown colour, type or gender takes no part.
        seed: an equal seed and equal items give equal triplets.
        limit: how many; None for as many as there are items.
        noise: share of the triplets whose targets are one wrong item instead, from 0 to 1.

    Raises:
        UsageError: a negative ``limit``, or a ``noise`` outside 0 to 1.
        ZtcirError: the items do not allow a single request.
    """
    check_limit_and_noise(limit, noise)
    limit = len(items) if limit is None else limit
    catalogue = _Catalogue(items)
    if len(catalogue.keys) < 2:
        raise ZtcirError(
            f"The {len(items)} items do not differ in colour, type or gender, so there is nothing "
            "to ask for; use a larger catalogue or check its columns."
        )
    rng = np.random.default_rng([seed, 5])
    details = _Details(catalogue)
    makers: Mapping[str, Callable[[], _Request | None]] = {
        TYPO: lambda: _one_change(
            catalogue, rng, open_wordings.mistyped_text, _NEARLY_ALWAYS_COLOUR
        ),
        "not": lambda: _refusal(catalogue, rng),
        "instead": lambda: _one_change(catalogue, rng, open_wordings.old_first_text),
        "two": lambda: _two_changes(catalogue, rng),
        "long": lambda: _long(catalogue, rng),
        "detail": lambda: details.request(rng),
        KEEP: lambda: _keep(catalogue, rng),
        "language": lambda: _language(catalogue, rng),
    }
    names, shares = list(REQUEST_KINDS), np.array(list(REQUEST_KINDS.values()))
    kinds = rng.choice(len(shares), size=limit, p=shares / shares.sum())
    triplets: list[Triplet] = []
    for number, choice in enumerate(kinds):
        kind = names[choice]
        request = next((one for one in (makers[kind]() for _ in range(50)) if one), None)
        if request is None:
            continue  # the catalogue has no such request
        name = f"{kind}-{number:06d}"
        triplets.append(Triplet(name, kind, request.reference, request.text, request.targets))
    if not triplets:
        raise ZtcirError(
            f"The {len(items)} items allow no open request; use a larger catalogue or check its "
            "columns."
        )
    ids = [name for group in catalogue.groups.values() for name in group]
    return add_noise(triplets, ids, noise, np.random.default_rng([seed, 6]))


def _one_change(
    catalogue: _Catalogue,
    rng: np.random.Generator,
    text: Callable[[str, str, str, np.random.Generator], str],
    shares: tuple[float, float, float] = _MOSTLY_COLOUR,
) -> _Request | None:
    have = catalogue.draw(rng)
    column = int(rng.choice(3, p=shares))
    wanted = catalogue.change(have, column, rng)
    if wanted is None:
        return None
    words = text(_KINDS[column], have[column], wanted[column], rng)
    return _Request(catalogue.item(have, rng), words, catalogue.groups[wanted])


def _plain(kind: str, old: str, new: str, rng: np.random.Generator) -> str:
    return attribute_wording(kind, old, new, rng).text


def _refusal(catalogue: _Catalogue, rng: np.random.Generator) -> _Request | None:
    have = catalogue.draw(rng)
    targets = catalogue.other_colours(have)
    if not targets:
        return None
    text = open_wordings.refusal_text(have[0], rng)
    return _Request(catalogue.item(have, rng), text, targets)


def _two_changes(catalogue: _Catalogue, rng: np.random.Generator) -> _Request | None:
    have = catalogue.draw(rng)
    kept = int(rng.integers(3))
    wanted = catalogue.two_changes(have, kept, rng)
    if wanted is None:
        return None
    new = {_KINDS[column]: wanted[column] for column in range(3) if column != kept}
    text = open_wordings.two_changes_text(new, rng)
    return _Request(catalogue.item(have, rng), text, catalogue.groups[wanted])


def _long(catalogue: _Catalogue, rng: np.random.Generator) -> _Request | None:
    if rng.random() < 0.08:  # a long message that asks for nothing
        request = _keep(catalogue, rng)
    elif rng.random() < 0.12:
        request = _two_changes(catalogue, rng)
    elif rng.random() < 0.1:
        request = _refusal(catalogue, rng)
    else:
        request = _one_change(catalogue, rng, _plain)
    if request is None:
        return None
    text = open_wordings.long_text(request.text, rng)
    return _Request(request.reference, text, request.targets)


def _keep(catalogue: _Catalogue, rng: np.random.Generator) -> _Request | None:
    have = catalogue.draw(rng)
    reference = catalogue.item(have, rng)
    targets = tuple(name for name in catalogue.groups[have] if name != reference)
    return (
        _Request(reference, open_wordings.keep_text(rng, catalogue.unknown_words), targets)
        if targets
        else None
    )


def _language(catalogue: _Catalogue, rng: np.random.Generator) -> _Request | None:
    def text(kind: str, old: str, new: str, rng: np.random.Generator) -> str:
        able = open_wordings.can_be_foreign(kind, old, new)
        return open_wordings.foreign_text(kind, old, new, rng) if able else ""

    request = _one_change(catalogue, rng, text)
    return request if request is not None and request.text else None


def unknown_words(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the words of CLIP's vocabulary that none of some texts has, in order.

    Words of the languages that a request may be in are left out as well.
    """
    known = {word for text in texts for word in re.findall(r"[a-z]+", text)}
    for language in languages.FRAMES.values():
        for frames in language.values():
            known.update(word for frame in frames for word in re.findall(r"[a-z]+", frame.lower()))
    for table in (languages.COLOURS, languages.TYPES, languages.GENDERS):
        for value, words in table.items():
            known.update(re.findall(r"[a-z]+", f"{value} {' '.join(words)}".lower()))
    known.update(word for *_, phrases in DETAILS for word in " ".join(phrases).lower().split())
    tokenizer = Bundle.embedded(verify=False).tokenizer_path  # CLIP's own, without PyTorch
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    whole = (token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>"))
    return tuple(sorted({word for word in whole if _WORD.fullmatch(word)} - known))


class _Details:
    """Details in captions by which items of one type and gender differ."""

    def __init__(self, catalogue: _Catalogue) -> None:
        self._choices: list[tuple[tuple[str, ...], list[str], list[str]]] = []
        of_each_kind = {key[1:]: key for key in catalogue.keys}
        patterns = [(re.compile(word), re.compile(of, re.I), say) for word, of, say in DETAILS]
        for key in of_each_kind.values():
            names = catalogue.of_kind(key)
            for pattern, of, phrases in patterns:
                if not of.search(key[1]):
                    continue
                having = [name for name in names if pattern.search(catalogue.captions[name])]
                if having and len(having) < len(names):
                    rest = sorted(set(names) - set(having))
                    self._choices.append((phrases, rest, having))
        self._edges = tempered_edges([len(having) for *_, having in self._choices])

    def request(self, rng: np.random.Generator) -> _Request | None:
        if not self._choices:
            return None
        phrases, rest, having = self._choices[draw_index(self._edges, rng)]
        reference = rest[int(rng.integers(len(rest)))]
        return _Request(reference, open_wordings.detail_text(phrases, rng), tuple(having))
