"""Simple product-like pictures drawn by code, with attributes that are known for certain.

They serve the demo, which can therefore check its own answers, and the training, which draws
others: the demo's attribute combinations, seeds and wordings are all held out
(`DEMO_COMBINATIONS`, `DEMO_WORDINGS`; demo seeds start at 1 000 000).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from PIL import Image

from ztcir_sdk.drawings.products import COLOUR_RANGES, PATTERNS, PRODUCTS, Canvas, Cloth, Fabric
from ztcir_sdk.errors import UsageError

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

# Each block holds out all combinations of two types, two colours and two patterns, so that every
# one of them has a neighbour that differs in its type alone, its colour alone or its pattern alone.
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
"""The 40 of 400 (type, colour, pattern) combinations that only the demo shows."""

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
"""The demo's texts by kind, as templates of ``{colour}``, ``{pattern}``, or ``{a_type}`` (the type
with its article, `with_article`). No training wording may be one of them."""


@dataclass(frozen=True)
class Drawing:
    """What to draw; the same four values give the same picture, pixel for pixel.

    Drawings with the same type and seed share their proportions, whatever their colour or pattern.

    Raises:
        UsageError: an unknown type, colour or pattern, or a negative seed.
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
            if value not in known:
                raise UsageError(
                    f"No {name} {value!r} can be drawn; choose from {', '.join(known)}."
                )
        if self.seed < 0:
            raise UsageError(f"A drawing's seed cannot be negative: {self.seed}; use 0 or more.")

    @property
    def caption(self) -> str:
        """For example "red striped t-shirt"; plain goes without saying."""
        words = (self.colour, self.pattern, self.type)
        return " ".join(word for word in words if word != "plain")

    @property
    def combination(self) -> Combination:
        """The attributes without the seed: (type, colour, pattern)."""
        return self.type, self.colour, self.pattern


def draw(drawing: Drawing, size: tuple[int, int] = (240, 320)) -> Image.Image:
    """Draw the product on a light backdrop: an RGB image of ``size`` (width, height) in pixels.

    Raises:
        UsageError: a side of ``size`` is below 32 pixels.
    """
    if min(size) < 32:
        raise UsageError(f"A drawing needs at least 32 pixels a side, not {size[0]} x {size[1]}.")
    # generators of their own, so that colour and pattern never change a product's proportions
    shape, tones, weave = (
        random.Random(f"{name} {drawing.seed}")
        for name in (drawing.type, drawing.colour, drawing.pattern)
    )
    cloth = Cloth.of(drawing.colour, drawing.pattern, tones)
    canvas = Canvas(size, cloth, Fabric.of(drawing.pattern, weave), shape)
    PRODUCTS[drawing.type](canvas, shape)
    return canvas.finish()


def with_article(product: str) -> str:
    """A type as a noun phrase: "a dress", "a pair of trousers"."""
    return f"a pair of {product}" if product == "trousers" else f"a {product}"


def training_drawings(count: int, seed: int) -> list[Drawing]:
    """Draw up ``count`` drawings for training, evenly over all combinations but the demo's.

    Their seeds differ from each other and lie below 1 000 000, where the demo's begin.

    Raises:
        UsageError: ``count`` is negative or above 1 000 000.
    """
    if not 0 <= count <= _FIRST_DEMO_SEED:
        raise UsageError(f"{count} training drawings cannot be made; ask for 0 to 1000000.")
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
    """The demo's drawings: ``per_combination`` of each of `DEMO_COMBINATIONS`, shuffled.

    No two share a seed, so none is another one recoloured.

    Raises:
        UsageError: ``per_combination`` is below 1 or ``seed`` is negative.
    """
    if per_combination < 1 or seed < 0:
        raise UsageError(
            f"A demo gallery needs per_combination of 1 or more and seed of 0 or more, "
            f"not {per_combination} and {seed}."
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
    """A wish about one drawing of a gallery; the numbers are positions in that gallery."""

    reference: int
    text: str
    kind: Kind
    targets: tuple[int, ...]  # every drawing with the asked attribute and the two others kept


def demo_queries(gallery: Sequence[Drawing], count: int, seed: int = 0) -> list[DemoQuery]:
    """Ask ``count`` different queries of a gallery, the three kinds in turn.

    Each changes one attribute of its reference to a value for which the gallery has answers. Every
    change of every combination is asked once before any is asked of a second reference.

    Raises:
        UsageError: ``count`` is negative, or the gallery does not allow that many queries.
    """
    rng = random.Random(f"queries {seed}")
    positions: dict[Combination, list[int]] = {}
    for position, drawing in enumerate(gallery):
        positions.setdefault(drawing.combination, []).append(position)
    references = {combination: rng.sample(own, len(own)) for combination, own in positions.items()}

    rounds: dict[Kind, list[DemoQuery]] = {kind: [] for kind in KINDS}
    changes = [
        (combination, wanted, kind)
        for combination, wanted in itertools.permutations(sorted(positions), 2)
        if (kind := _only_difference(combination, wanted)) is not None
    ]
    deepest = max((len(own) for own in positions.values()), default=0)
    for turn in range(deepest):
        rng.shuffle(changes)
        for combination, wanted, kind in changes:
            if turn < len(references[combination]):
                text = _wording(rng.choice(DEMO_WORDINGS[kind]), wanted)
                targets = tuple(positions[wanted])
                query = DemoQuery(references[combination][turn], text, kind, targets)
                rounds[kind].append(query)
    in_turn = itertools.zip_longest(*rounds.values())
    queries = [query for each in in_turn for query in each if query is not None]
    if not 0 <= count <= len(queries):
        raise UsageError(
            f"{count} different queries cannot be asked of this gallery of {len(gallery)} "
            f"drawings; ask for 0 to {len(queries)}."
        )
    return queries[:count]


def showcase_queries(gallery: Sequence[Drawing]) -> list[DemoQuery]:
    """The three queries that the demo prints, one of each kind, on three kinds of product.

    Raises:
        UsageError: the gallery lacks a reference or an answer; `demo_gallery` has all of them.
    """
    asked: tuple[tuple[Combination, Combination, int], ...] = (
        (("t-shirt", "red", "striped"), ("t-shirt", "blue", "striped"), 0),
        (("jacket", "brown", "plain"), ("jacket", "brown", "checked"), 1),
        (("handbag", "yellow", "dotted"), ("backpack", "yellow", "dotted"), 0),
    )
    queries = []
    for reference, wanted, wording in asked:
        kind = _only_difference(reference, wanted)
        assert kind is not None
        own = [at for at, drawing in enumerate(gallery) if drawing.combination == reference]
        targets = tuple(at for at, drawing in enumerate(gallery) if drawing.combination == wanted)
        if not own or not targets:
            raise UsageError(
                f"The gallery has no {' '.join(reference)} or no {' '.join(wanted)} to show; "
                "make it with demo_gallery()."
            )
        text = _wording(DEMO_WORDINGS[kind][wording], wanted)
        queries.append(DemoQuery(own[0], text, kind, targets))
    return queries


def _only_difference(one: Combination, other: Combination) -> Kind | None:
    order: tuple[Kind, ...] = ("type", "colour", "pattern")  # as in a Combination
    changed = [kind for kind, a, b in zip(order, one, other, strict=True) if a != b]
    return changed[0] if len(changed) == 1 else None


def _wording(template: str, wanted: Combination) -> str:
    product, colour, pattern = wanted
    return template.format(colour=colour, pattern=pattern, a_type=with_article(product))
