"""Stage II triplets from a catalogue's attributes: (reference, modification text, right answers).

A triplet changes one attribute of its reference and keeps the others; every item that has the
changed value and keeps the rest is a right answer. Nothing but attributes is needed, no picture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.wordings.attribute_wordings import KINDS, word
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets

if TYPE_CHECKING:
    from train.data.tabular import Row

__all__ = [
    "DEFAULT_COLUMNS",
    "UNKNOWN",
    "Item",
    "Triplet",
    "is_known",
    "product_name",
    "read_catalogue",
    "read_triplets",
    "split_development",
    "spoil",
    "synthesise",
    "write_triplets",
]

UNKNOWN = "NA"
"""An attribute value that is not known: such an item takes part in no triplet."""

DEFAULT_COLUMNS: Mapping[str, str] = {
    "id": "id",
    "gender": "gender",
    "type": "articleType",
    "colour": "baseColour",
    "caption": "caption",
    "split": "split",
}
"""What an `Item` holds -> the catalogue's column; "pattern" may be added, others replaced."""

_NOT_KNOWN = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown"})
_TEMPER = 0.5  # exponent on how often a combination or a value occurs; 0 would be uniform


@dataclass(frozen=True)
class Item:
    """A product: its id, its attributes as the catalogue spells them, and its name.

    An attribute is None or empty where the catalogue has no such attribute, and `UNKNOWN` where
    this item lacks it.
    """

    id: str
    gender: str
    type: str
    colour: str
    pattern: str | None
    caption: str


def is_known(value: str) -> bool:
    """Whether an attribute's value says something: it is not empty, "NA", "unknown" or the like."""
    return value.strip().lower() not in _NOT_KNOWN


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
        items: the catalogue; an item with an `UNKNOWN` attribute takes no part.
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
    known = [item for item in items if UNKNOWN not in _attributes(item)]
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


def split_development(
    items: Sequence[Item], fraction: float = 0.1, *, seed: int
) -> tuple[list[Item], list[Item]]:
    """Part the items into (training, development) by product name: no name is in both.

    Args:
        items: the training split; their order does not matter to who goes where.
        fraction: how many of the product names go to development, above 0 and below 1.
        seed: an equal seed gives an equal split.

    Raises:
        UsageError: a ``fraction`` that is not between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise UsageError(f"The development fraction lies between 0 and 1, not {fraction}.")
    names = sorted({product_name(item) for item in items})
    order = np.random.default_rng(seed).permutation(len(names))
    development = {names[place] for place in order[: round(fraction * len(names))]}
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        parts[product_name(item) in development].append(item)
    return parts


def product_name(item: Item) -> str:
    """What items that show one product share: the caption, or the id where there is none."""
    return " ".join(item.caption.casefold().split()) or f"item {item.id}"


def read_catalogue(
    metadata: Path, split: str | None = None, *, columns: Mapping[str, str] | None = None
) -> list[Item]:
    """Read a catalogue's items from a CSV, TSV or Parquet file, in the file's order.

    Args:
        metadata: the file; text in UTF-8, with a header.
        split: only rows whose split column says so; None for all.
        columns: what replaces or adds to `DEFAULT_COLUMNS`, for example ``{"colour": "shade",
            "pattern": "pattern"}``. An attribute mapped to an empty string does not exist here.

    Raises:
        UsageError: an unknown key in ``columns``, or a column that the file does not have.
        ZtcirError: the file is missing, damaged, or has no row of the split.
    """
    from train.data.tabular import open_table  # which knows of items itself

    mapped = {**DEFAULT_COLUMNS, **(columns or {})}
    strange = mapped.keys() - DEFAULT_COLUMNS.keys() - {"pattern"}
    if strange:
        raise UsageError(
            f"There is no item field {min(strange)!r}; the columns can be given for "
            f"{', '.join(DEFAULT_COLUMNS)} and pattern."
        )
    table = open_table(metadata)
    needed = {field: name for field, name in mapped.items() if name}
    if split is None:
        needed.pop("split", None)
    missing = [name for name in needed.values() if name not in table.columns]
    if missing:
        raise UsageError(
            f"{metadata} has no column {missing[0]!r}; it has {', '.join(table.columns)}."
        )
    if split is not None and "split" not in needed:
        raise UsageError(f"Which rows are {split!r} is not told without a split column.")
    items = [
        _item(row, mapped)
        for row in table.rows(list(dict.fromkeys(needed.values())))
        if split is None or row.text(needed["split"], "split") == split
    ]
    if not items:
        which = f" of the split {split!r}" if split is not None else ""
        raise ZtcirError(f"{metadata} holds no row{which}; check the file and the split's name.")
    return items


def _item(row: Row, mapped: Mapping[str, str]) -> Item:
    def text(field: str) -> str:
        return row.text(mapped[field], field).strip() if mapped.get(field) else ""

    def value(field: str) -> str:
        if not mapped.get(field):
            return ""
        found = " ".join(text(field).split())
        return found if is_known(found) else UNKNOWN

    return Item(
        id=text("id"),
        gender=value("gender"),
        type=value("type"),
        colour=value("colour"),
        pattern=value("pattern") or None,
        caption=text("caption"),
    )


def write_triplets(path: Path, triplets: Sequence[Triplet]) -> None:
    """Write one JSON object a line: ``id``, ``kind``, ``reference``, ``text``, ``targets``.

    The file appears whole or not at all; one that is there already is replaced.

    Raises:
        ZtcirError: the folder is missing or cannot be written to.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as lines:
                for triplet in triplets:
                    lines.write(json.dumps(dataclasses.asdict(triplet), ensure_ascii=False) + "\n")
                lines.flush()
                os.fsync(lines.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise ZtcirError(f"Cannot write the triplets to {path}: {error.strerror}.") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
