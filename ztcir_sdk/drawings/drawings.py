"""Simple images of products, drawn by code, whose attributes are known exactly.

The demo can therefore check its own hits. Training draws other images: the demo's attribute
combinations, seeds and wordings are held out (`DEMO_COMBINATIONS`, `DEMO_WORDINGS`; the demo's
seeds start at 1 000 000).
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from PIL import Image

from ztcir_sdk.drawings.products import COLOUR_RANGES, PATTERNS, PRODUCTS, Canvas, Cloth, Fabric
from ztcir_sdk.errors import UsageError, check_choice

__all__ = [
    "COLOURS",
    "DEMO_COMBINATIONS",
    "DEMO_WORDINGS",
    "KINDS",
    "PATTERNS",
    "TYPES",
    "Combination",
    "DemoQuery",
    "Drawing",
    "Kind",
    "demo_gallery",
    "demo_queries",
    "draw",
    "drawn_jpeg",
    "showcase_queries",
    "training_drawings",
    "with_article",
]

TYPES: tuple[str, ...] = tuple(PRODUCTS)
COLOURS: tuple[str, ...] = tuple(COLOUR_RANGES)

Combination = tuple[str, str, str]
Kind = Literal["colour", "pattern", "type"]
KINDS: tuple[Kind, ...] = ("colour", "pattern", "type")

_FIRST_DEMO_SEED = 1_000_000

# Each block has all combinations of two types, two colours and two patterns, so each combination
# has a neighbour that differs only in its type, only in its colour or only in its pattern.
_DEMO_BLOCKS: tuple[tuple[tuple[str, str], tuple[str, str], tuple[str, str]], ...] = (
    (("t-shirt", "dress"), ("red", "blue"), ("plain", "striped")),
    (("shirt", "skirt"), ("green", "pink"), ("checked", "dotted")),
    (("trousers", "jacket"), ("brown", "black"), ("plain", "checked")),
    (("handbag", "backpack"), ("yellow", "purple"), ("striped", "dotted")),
    (("sneaker", "boot"), ("orange", "white"), ("plain", "striped")),
)

DEMO_COMBINATIONS: frozenset[Combination] = frozenset(
    combination for block in _DEMO_BLOCKS for combination in itertools.product(*block)
)
"""The 40 of 400 combinations of type, colour and pattern that only the demo uses."""

DEMO_WORDINGS: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "colour": (
            "the same one in {colour}",
            "in {colour} instead",
            "but {colour}",
            "change its colour to {colour}",
            "I like it, just not the colour: {colour} please",
            "do you have this in {colour}?",
            "swap the colour for {colour}",
            "is {colour} rather than this colour",
        ),
        "pattern": (
            "the same but {pattern}",
            "make it {pattern}",
            "in a {pattern} version",
            "I would prefer it {pattern}",
            "with a {pattern} look instead",
            "is {pattern} and otherwise the same",
            "do you have a {pattern} one?",
            "change the pattern to {pattern}",
        ),
        "type": (
            "the same look but as {a_type}",
            "{a_type} in this colour and pattern",
            "turn it into {a_type}",
            "show me {a_type} like this",
            "I need {a_type} to match it",
            "is {a_type} instead",
            "not this, {a_type} in the same style",
            "do you have {a_type} that looks like this?",
        ),
    }
)
"""Kind of change -> the demo's modification texts, as templates with ``{colour}``, ``{pattern}`` or
``{a_type}`` (see `with_article`). Training must not use any of them."""


@dataclass(frozen=True)
class Drawing:
    """The values of a drawing; equal values give equal pixels.

    Drawings of the same type and seed have the same proportions.

    Raises:
        UsageError: a type, colour or pattern is unknown, or the seed is negative.
    """

    type: str
    colour: str
    pattern: str
    seed: int

    def __post_init__(self) -> None:
        for name, value, known in (
            ("type", self.type, TYPES),
            ("colour", self.colour, COLOURS),
            ("pattern", self.pattern, PATTERNS),
        ):
            check_choice(name, value, known)
        if self.seed < 0:
            raise UsageError(f"The seed of a drawing must be at least 0, not {self.seed}.")

    @property
    def caption(self) -> str:
        """Its attributes in words, such as "red striped t-shirt"; "plain" is left out."""
        words = (self.colour, self.pattern, self.type)
        return " ".join(word for word in words if word != "plain")

    @property
    def combination(self) -> Combination:
        """Type, colour and pattern."""
        return self.type, self.colour, self.pattern


def draw(drawing: Drawing, size: tuple[int, int] = (240, 320)) -> Image.Image:
    """Draw a product on a light background: an RGB image of ``size`` (width, height) in pixels.

    Raises:
        UsageError: a side of ``size`` is below 32 pixels.
    """
    if min(size) < 32:
        raise UsageError(f"A drawing needs at least 32 x 32 pixels, not {size[0]} x {size[1]}.")
    # separate generators, so that colour and pattern do not change the proportions
    shape, tones, weave = (
        random.Random(f"{name} {drawing.seed}")
        for name in (drawing.type, drawing.colour, drawing.pattern)
    )
    cloth = Cloth.of(drawing.colour, drawing.pattern, tones)
    canvas = Canvas(size, cloth, Fabric.of(drawing.pattern, weave), shape)
    PRODUCTS[drawing.type](canvas, shape)
    return canvas.finish()


def drawn_jpeg(drawing: Drawing) -> bytes:
    """Draw a product as a JPEG of 240 by 320 pixels."""
    stream = io.BytesIO()
    draw(drawing).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def with_article(product: str) -> str:
    """Return a type with its article: "a dress", "a pair of trousers"."""
    return f"a pair of {product}" if product == "trousers" else f"a {product}"


def training_drawings(count: int, seed: int) -> list[Drawing]:
    """Return ``count`` drawings for training, evenly over all combinations except the demo's.

    Their seeds are distinct and below 1 000 000, where the demo's start.

    Raises:
        UsageError: ``count`` is negative or above 1 000 000.
    """
    if not 0 <= count <= _FIRST_DEMO_SEED:
        raise UsageError(f"The number of training drawings must be from 0 to 1000000, not {count}.")
    rng = random.Random(f"training {seed}")
    combinations = [
        combination
        for combination in itertools.product(TYPES, COLOURS, PATTERNS)
        if combination not in DEMO_COMBINATIONS
    ]
    drawings: list[Drawing] = []
    seeds = rng.sample(range(_FIRST_DEMO_SEED), count)
    for start in range(0, count, len(combinations)):
        rng.shuffle(combinations)
        part = seeds[start : start + len(combinations)]
        drawings.extend(
            Drawing(*combination, seed=own)
            for combination, own in zip(combinations, part, strict=False)
        )
    return drawings


def demo_gallery(per_combination: int = 10, seed: int = 0) -> list[Drawing]:
    """Return the demo's drawings: ``per_combination`` of each of `DEMO_COMBINATIONS`, shuffled.

    Their seeds are distinct, so no two differ only in colour.

    Raises:
        UsageError: ``per_combination`` is below 1 or ``seed`` is negative.
    """
    if per_combination < 1 or seed < 0:
        raise UsageError(
            f"A demo gallery needs per_combination of at least 1 and a seed of at least 0, not "
            f"{per_combination} and {seed}."
        )
    combinations = sorted(DEMO_COMBINATIONS) * per_combination
    random.Random(f"gallery {seed}").shuffle(combinations)
    first = _FIRST_DEMO_SEED * (1 + seed)
    return [
        Drawing(*combination, seed=first + position)
        for position, combination in enumerate(combinations)
    ]


@dataclass(frozen=True)
class DemoQuery:
    """A query about one drawing of a gallery; numbers are positions in that gallery."""

    reference: int
    text: str
    kind: Kind
    targets: tuple[int, ...]
    """Every drawing with the new attribute and the other two unchanged."""


def demo_queries(gallery: Sequence[Drawing], count: int, seed: int = 0) -> list[DemoQuery]:
    """Return ``count`` different queries about a gallery, the three kinds in turn.

    Each query changes one attribute of its reference to a value that has targets in the gallery.
    Every change of every combination comes once before one is repeated with another reference.

    Raises:
        UsageError: ``count`` is negative, or the gallery does not allow as many queries.
    """
    rng = random.Random(f"queries {seed}")
    positions: dict[Combination, list[int]] = {}
    for position, drawing in enumerate(gallery):
        positions.setdefault(drawing.combination, []).append(position)
    references = {combination: rng.sample(own, len(own)) for combination, own in positions.items()}

    rounds: dict[Kind, list[DemoQuery]] = {kind: [] for kind in KINDS}
    changes = [
        (combination, target, kind)
        for combination, target in itertools.permutations(sorted(positions), 2)
        if (kind := _only_difference(combination, target)) is not None
    ]
    deepest = max((len(own) for own in positions.values()), default=0)
    for turn in range(deepest):
        rng.shuffle(changes)
        for combination, target, kind in changes:
            if turn < len(references[combination]):
                text = _wording(rng.choice(DEMO_WORDINGS[kind]), target)
                targets = tuple(positions[target])
                query = DemoQuery(references[combination][turn], text, kind, targets)
                rounds[kind].append(query)
    in_turn = itertools.zip_longest(*rounds.values())
    queries = [query for each in in_turn for query in each if query is not None]
    if not 0 <= count <= len(queries):
        raise UsageError(
            f"The number of queries about this gallery of {len(gallery)} drawings must be from 0 "
            f"to {len(queries)}, not {count}."
        )
    return queries[:count]


def showcase_queries(gallery: Sequence[Drawing]) -> list[DemoQuery]:
    """Return the three queries that the demo prints, one of each kind.

    Raises:
        UsageError: the gallery lacks a reference or a target; one of `demo_gallery` does not.
    """
    changes: tuple[tuple[Combination, Combination, int], ...] = (
        (("t-shirt", "red", "striped"), ("t-shirt", "blue", "striped"), 0),
        (("jacket", "brown", "plain"), ("jacket", "brown", "checked"), 1),
        (("handbag", "yellow", "dotted"), ("backpack", "yellow", "dotted"), 0),
    )
    queries = []
    for reference, target, wording in changes:
        kind = _only_difference(reference, target)
        assert kind is not None
        own = [at for at, drawing in enumerate(gallery) if drawing.combination == reference]
        targets = tuple(at for at, drawing in enumerate(gallery) if drawing.combination == target)
        if not own or not targets:
            raise UsageError(
                f"The gallery has no {' '.join(reference)} or no {' '.join(target)}: make it with "
                "demo_gallery()."
            )
        text = _wording(DEMO_WORDINGS[kind][wording], target)
        queries.append(DemoQuery(own[0], text, kind, targets))
    return queries


def _only_difference(one: Combination, other: Combination) -> Kind | None:
    order: tuple[Kind, ...] = ("type", "colour", "pattern")  # as in a Combination
    changed = [kind for kind, a, b in zip(order, one, other, strict=True) if a != b]
    return changed[0] if len(changed) == 1 else None


def _wording(template: str, target: Combination) -> str:
    product, colour, pattern = target
    return template.format(colour=colour, pattern=pattern, a_type=with_article(product))
