"""Stage II triplets from a catalogue's attributes: (reference, modification text, right answers).

A triplet changes one attribute of its reference and keeps the others; every item that has the
changed value and keeps the rest is a right answer. Nothing but attributes is needed, no picture.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.data.item import Item
from train.wordings.attribute_wordings import KINDS, word
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.files import open_whole
from ztcir_sdk.names import UNKNOWN_VALUE

if TYPE_CHECKING:
    pass

__all__ = [
    "spoil",
    "synthesise",
    "write_triplets",
]


_TEMPER = 0.5  # exponent on how often a combination or a value occurs; 0 would be uniform


_Attributes = tuple[str, ...]  # the values in the order of KINDS


def _attributes(item: Item) -> _Attributes:
    return (item.colour, item.type, item.gender, item.pattern or "")


class _Changes:
    """All changes of one attribute that have answers, to be drawn without the commonest ruling."""

    def __init__(self, groups: Mapping[_Attributes, Sequence[str]], kind: str) -> None:
        place = KINDS.index(kind)
        siblings: defaultdict[_Attributes, list[_Attributes]] = defaultdict(list)
        for attributes in groups:
            if attributes[place]:
                siblings[attributes[:place] + attributes[place + 1 :]].append(attributes)
        self._from: list[_Attributes] = []
        self._to: list[list[_Attributes]] = []
        self._to_edges: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        for alike in siblings.values():
            for attributes in alike:
                others = [other for other in alike if other != attributes]
                if others:
                    self._from.append(attributes)
                    self._to.append(others)
                    self._to_edges.append(_edges([len(groups[other]) for other in others]))
        self._from_edges = _edges([len(groups[attributes]) for attributes in self._from])

    def __bool__(self) -> bool:
        return bool(self._from)

    def draw(self, rng: np.random.Generator) -> tuple[_Attributes, _Attributes]:
        """The attributes of a reference, and those of its right answers."""
        start = _draw(self._from_edges, rng)
        return self._from[start], self._to[start][_draw(self._to_edges[start], rng)]


def _edges(counts: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    shares = np.cumsum(np.asarray(counts, dtype=np.float64) ** _TEMPER)
    return shares / shares[-1] if len(shares) else shares


def _draw(edges: np.ndarray[Any, np.dtype[np.float64]], rng: np.random.Generator) -> int:
    return min(int(np.searchsorted(edges, rng.random(), side="right")), len(edges) - 1)


def synthesise(
    items: Sequence[Item],
    *,
    seed: int,
    limit: int | None,
    held_out: bool = False,
    noise: float = 0.0,
) -> list[Triplet]:
    """Make triplets, evenly over the kinds that the items allow.

    References and wanted values are drawn by the square root of how often they occur, with
    replacement, so that no common value rules. Fewer triplets of the same seed are the beginning
    of more. Triplets of one change share their tuple of targets.

    Args:
        items: the catalogue; an item with an `UNKNOWN_VALUE` attribute takes no part.
        seed: an equal seed and equal items give equal triplets.
        limit: how many; None for as many as there are items.
        held_out: ask in the wordings that never train.
        noise: fraction of the triplets, from 0 to 1, whose targets are one wrong item instead.

    Raises:
        UsageError: a negative ``limit``, a ``noise`` outside 0 to 1, or two items with one id.
        ZtcirError: no item has an attribute that could be changed with an answer.
    """
    if limit is not None and limit < 0:
        raise UsageError(f"The number of triplets cannot be negative: {limit}; ask for 1 or more.")
    if not 0.0 <= noise <= 1.0:
        raise UsageError(f"The noise is a fraction from 0 to 1, not {noise}.")
    groups: defaultdict[_Attributes, list[str]] = defaultdict(list)
    known = [item for item in items if UNKNOWN_VALUE not in _attributes(item)]
    for item in known:
        groups[_attributes(item)].append(item.id)
    repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise UsageError(f"The catalogue has two items with the id {repeated[0]!r}; remove one.")
    answers = {attributes: tuple(ids) for attributes, ids in groups.items()}
    changes = {kind: found for kind in KINDS if (found := _Changes(answers, kind))}
    if not changes:
        raise ZtcirError(
            f"None of the {len(items)} items has a neighbour that differs in one attribute alone, "
            "so there is nothing to ask; use a larger catalogue or check its columns."
        )
    drawing, spoiling = (
        np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2)
    )
    kinds = tuple(changes)
    triplets: list[Triplet] = []
    for number in range(len(items) if limit is None else limit):
        kind = kinds[number % len(kinds)]
        have, wish = changes[kind].draw(drawing)
        reference = answers[have][int(drawing.integers(len(answers[have])))]
        place = KINDS.index(kind)
        kept = dict(zip(KINDS, have, strict=True))
        text = word(kind, have[place], wish[place], drawing, held_out=held_out, kept=kept)
        triplets.append(Triplet(f"{kind}-{number:06d}", kind, reference, text, answers[wish]))
    return spoil(triplets, [item.id for item in known], noise, spoiling)


def spoil(
    triplets: list[Triplet], ids: Sequence[str], noise: float, rng: np.random.Generator
) -> list[Triplet]:
    """Give ``noise`` of the triplets one wrong target: neither right nor the reference.

    Raises:
        ZtcirError: every one of ``ids`` is right.
    """
    chosen = rng.permutation(len(triplets))[: round(noise * len(triplets))]
    for place in chosen:
        triplet = triplets[place]
        right = {*triplet.targets, triplet.reference}
        if len(right) == len(ids):
            raise ZtcirError(
                f"There is no wrong item to give {triplet.id} as a noisy target: all "
                f"{len(ids)} items are right; use a larger catalogue or no noise."
            )
        wrong = ids[int(rng.integers(len(ids)))]
        while wrong in right:
            wrong = ids[int(rng.integers(len(ids)))]
        triplets[place] = dataclasses.replace(triplet, targets=(wrong,))
    return triplets


def write_triplets(path: Path, triplets: Sequence[Triplet]) -> None:
    """Write one JSON object a line: ``id``, ``kind``, ``reference``, ``text``, ``targets``.

    The file appears whole or not at all; one that is there already is replaced.

    Raises:
        ZtcirError: the folder is missing or cannot be written to.
    """
    try:
        with open_whole(path, "w", encoding="utf-8", newline="\n") as lines:
            for triplet in triplets:
                lines.write(json.dumps(dataclasses.asdict(triplet), ensure_ascii=False) + "\n")
    except OSError as error:
        raise ZtcirError(f"Cannot write the triplets to {path}: {error.strerror}.") from error
