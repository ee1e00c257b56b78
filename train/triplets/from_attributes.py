"""Stage II triplets from a catalogue's attributes: (reference, modification text, targets).

A triplet changes one attribute of its reference. Its targets are all items with the new value and
the reference's other attributes. No images are needed.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data import Item
from train.triplets.tempered_draw import draw_index, tempered_edges
from train.wordings import KINDS, attribute_wording
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.files import open_whole
from ztcir_sdk.names import UNKNOWN_VALUE

_Attributes = tuple[str, ...]  # values in the order of KINDS


def _attributes(item: Item) -> _Attributes:
    return (item.colour, item.type, item.gender, item.pattern or "")


class _Changes:
    """All changes of one attribute that have targets."""

    def __init__(self, groups: Mapping[_Attributes, Sequence[str]], kind: str) -> None:
        place = KINDS.index(kind)
        siblings: defaultdict[_Attributes, list[_Attributes]] = defaultdict(list)
        for attributes in groups:
            if attributes[place]:
                siblings[attributes[:place] + attributes[place + 1 :]].append(attributes)
        self._from: list[_Attributes] = []
        self._to: list[list[_Attributes]] = []
        self._to_edges: list[NDArray[np.float64]] = []
        for alike in siblings.values():
            for attributes in alike:
                others = [other for other in alike if other != attributes]
                if others:
                    self._from.append(attributes)
                    self._to.append(others)
                    self._to_edges.append(tempered_edges([len(groups[o]) for o in others]))
        self._from_edges = tempered_edges([len(groups[a]) for a in self._from])

    def __bool__(self) -> bool:
        return bool(self._from)

    def draw(self, rng: np.random.Generator) -> tuple[_Attributes, _Attributes]:
        """Return the attributes of a reference, and those of its targets."""
        start = draw_index(self._from_edges, rng)
        return self._from[start], self._to[start][draw_index(self._to_edges[start], rng)]


def synthesise(
    items: Sequence[Item],
    *,
    seed: int,
    limit: int | None,
    held_out: bool = False,
    noise: float = 0.0,
) -> list[Triplet]:
    """Make triplets, equally many for each attribute that the items allow to change.

    References and new values are drawn with replacement, by the square root of how often they
    occur. With the same seed, a smaller ``limit`` gives the first triplets of a larger one.
    Triplets of the same change share their tuple of targets.

    Args:
        items: the catalogue; items with an `UNKNOWN_VALUE` attribute are left out.
        seed: random seed.
        limit: number of triplets; None for as many as there are items.
        held_out: use the wordings that are never trained on.
        noise: share of the triplets, 0 to 1, that get one wrong target instead of their targets.

    Raises:
        UsageError: ``limit`` or ``noise`` is out of range, or two items have the same id.
        ZtcirError: no change of an attribute has a target.
    """
    check_limit_and_noise(limit, noise)
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
            f"No two of the {len(items)} items differ in exactly one attribute, so no triplet can "
            "be made; use a larger catalogue, or check the columns."
        )
    drawing, noise_draws = (
        np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2)
    )
    kinds = tuple(changes)
    triplets: list[Triplet] = []
    for number in range(len(items) if limit is None else limit):
        kind = kinds[number % len(kinds)]
        before, after = changes[kind].draw(drawing)
        reference = answers[before][int(drawing.integers(len(answers[before])))]
        place = KINDS.index(kind)
        wording = attribute_wording(
            kind,
            before[place],
            after[place],
            drawing,
            held_out=held_out,
            kept=dict(zip(KINDS, before, strict=True)),
        )
        name = f"{kind}-{number:06d}"
        triplets.append(Triplet(name, kind, reference, wording.text, answers[after]))
    return add_noise(triplets, [item.id for item in known], noise, noise_draws)


def check_limit_and_noise(limit: int | None, noise: float) -> None:
    """Check the options that all sources of triplets share.

    Raises:
        UsageError: the limit is negative, or the noise is not between 0 and 1.
    """
    if limit is not None and limit < 0:
        raise UsageError(f"The number of triplets must not be negative, but it is {limit}.")
    if not 0.0 <= noise <= 1.0:
        raise UsageError(f"The noise must be from 0 to 1, not {noise}.")


def add_noise(
    triplets: list[Triplet], ids: Sequence[str], noise: float, rng: np.random.Generator
) -> list[Triplet]:
    """Give some triplets a wrong target: neither one of their targets nor the reference.

    Args:
        triplets: changed in place and returned.
        ids: items to draw the wrong targets from.
        noise: share of the triplets to change.
        rng: source of all random draws.

    Raises:
        ZtcirError: all of ``ids`` are right.
    """
    chosen = rng.permutation(len(triplets))[: round(noise * len(triplets))]
    for place in chosen:
        triplet = triplets[place]
        right = {*triplet.targets, triplet.reference}
        if len(right) == len(ids):
            raise ZtcirError(
                f"All {len(ids)} items are right for {triplet.id}, so it cannot get a wrong "
                "target; use a larger catalogue, or no noise."
            )
        wrong = ids[int(rng.integers(len(ids)))]
        while wrong in right:
            wrong = ids[int(rng.integers(len(ids)))]
        triplets[place] = dataclasses.replace(triplet, targets=(wrong,))
    return triplets


def write_triplets(path: Path, triplets: Sequence[Triplet]) -> None:
    """Write or replace a file of triplets, one JSON object with the fields of `Triplet` per line.

    Raises:
        ZtcirError: the folder is missing or not writable.
    """
    try:
        with open_whole(path, "w", encoding="utf-8", newline="\n") as lines:
            for triplet in triplets:
                lines.write(json.dumps(dataclasses.asdict(triplet), ensure_ascii=False) + "\n")
    except OSError as error:
        raise ZtcirError(f"Cannot write the triplets to {path}: {error.strerror}.") from error
