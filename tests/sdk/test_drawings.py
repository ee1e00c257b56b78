"""Drawn products: they show their attributes, and the demo's are held out from training."""

from __future__ import annotations

import functools
import hashlib
import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from ztcir_sdk.drawings.drawings import (
    COLOURS,
    DEMO_COMBINATIONS,
    DEMO_WORDINGS,
    KINDS,
    PATTERNS,
    TYPES,
    Combination,
    DemoQuery,
    Drawing,
    demo_gallery,
    demo_queries,
    draw,
    showcase_queries,
    training_drawings,
    with_article,
)
from ztcir_sdk.errors import UsageError

ORDER = ("type", "colour", "pattern")  # of a combination

# what a person would point at for each name, chosen apart from the drawings' own ranges
NAMED = {
    "black": (25, 25, 28),
    "white": (250, 250, 250),
    "red": (210, 25, 30),
    "orange": (245, 125, 20),
    "yellow": (250, 220, 40),
    "green": (40, 145, 65),
    "blue": (40, 90, 200),
    "purple": (105, 50, 145),
    "pink": (250, 145, 185),
    "brown": (110, 70, 40),
}

drawings = st.builds(
    Drawing,
    st.sampled_from(TYPES),
    st.sampled_from(COLOURS),
    st.sampled_from(PATTERNS),
    st.integers(0, 2_000_000),
)


def pixels(drawing: Drawing) -> npt.NDArray[np.int64]:
    return np.asarray(draw(drawing)).astype(np.int64)  # (H, W, 3)


def cloth_of(drawing: Drawing) -> npt.NDArray[np.bool_]:
    """Return the mask of the product's material: what is dark when it is drawn in black."""
    return dark_parts(Drawing(drawing.type, "black", "plain", drawing.seed))


@functools.lru_cache(maxsize=128)
def dark_parts(drawing: Drawing) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = pixels(drawing).max(axis=-1) < 120  # (H, W)
    return mask


def lab(rgb: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Convert sRGB values to CIE L*a*b* (D65)."""
    share = rgb / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def colour_shares(drawing: Drawing) -> Counter[str]:
    """Return, for each colour name, the share of the material that is nearest to it."""
    cloth = lab(pixels(drawing)[cloth_of(drawing)])  # (P, 3)
    named = lab(np.array([NAMED[colour] for colour in COLOURS]))  # (C, 3)
    nearest = ((cloth[:, None] - named[None]) ** 2).sum(axis=-1).argmin(axis=1)
    return Counter(
        {colour: float(np.mean(nearest == place)) for place, colour in enumerate(COLOURS)}
    )


# --- pictures


@settings(max_examples=25, deadline=None)
@given(drawings)
def test_a_drawing_is_the_same_every_time(drawing: Drawing) -> None:
    assert draw(drawing).tobytes() == draw(drawing).tobytes()


def test_a_drawing_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from ztcir_sdk.drawings.drawings import Drawing, draw; "
        "image = draw(Drawing('jacket', 'green', 'checked', 12)); "
        "print(hashlib.sha256(image.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(draw(Drawing("jacket", "green", "checked", 12)).tobytes()).hexdigest()
    assert there.stdout.strip() == here


@settings(max_examples=25, deadline=None)
@given(drawings)
def test_a_product_is_drawn_whole_on_a_light_background(drawing: Drawing) -> None:
    picture = pixels(drawing)
    assert picture.shape == (320, 240, 3)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert border.min() > 225
    assert 0.12 < cloth_of(drawing).mean() < 0.75


@pytest.mark.parametrize("size", [(60, 80), (168, 224), (224, 224), (33, 400), (480, 640)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    image = draw(Drawing("dress", "red", "dotted", 3), size)
    assert image.size == size
    assert image.mode == "RGB"
    assert np.asarray(image.convert("HSV"))[..., 1].max() > 150


@pytest.mark.parametrize("product", TYPES)
def test_seeds_vary_the_image(product: str) -> None:
    shapes = [cloth_of(Drawing(product, "blue", "plain", seed)) for seed in range(6)]
    for one, other in itertools.combinations(shapes, 2):
        overlap = (one & other).sum() / (one | other).sum()
        assert overlap < 0.97


def test_seeds_vary_colour_and_pattern() -> None:
    assert (
        len({pixels(Drawing("skirt", "red", "plain", s))[160, 120].tobytes() for s in range(8)}) > 5
    )
    pattern = [
        pixels(Drawing("skirt", "black", "striped", seed))[100:220, 120, 0] for seed in range(8)
    ]
    assert len({column.tobytes() for column in pattern}) == 8


def around(drawing: Drawing) -> npt.NDArray[np.bool_]:
    """Light pixels that are connected with a corner: not the white parts of a black shoe.

    Its laces reach its edge, where they are smoothed into the background: of what is next to
    something else, only the background's very colour counts.
    """
    picture = pixels(drawing)
    light = Image.fromarray((picture.min(-1) > 246).astype(np.uint8) * 255)
    same = Image.fromarray((picture == picture[0, 0]).all(-1).astype(np.uint8) * 255)
    return reaching_the_corner(light.filter(ImageFilter.MinFilter(3))) | reaching_the_corner(same)


def reaching_the_corner(mask: Image.Image) -> npt.NDArray[np.bool_]:
    filled = mask.copy()
    ImageDraw.floodfill(filled, (0, 0), 128)
    background: npt.NDArray[np.bool_] = np.asarray(filled) == 128
    return background


@settings(max_examples=20, deadline=None)
@given(drawings, st.sampled_from(COLOURS))
def test_proportions_depend_only_on_type_and_seed(drawing: Drawing, colour: str) -> None:
    other = Drawing(drawing.type, colour, "plain", drawing.seed)
    background = around(Drawing(drawing.type, "black", "plain", drawing.seed))
    assert pixels(other)[background].min() > 235
    assert pixels(drawing)[background].min() > 235


@pytest.mark.parametrize("colour", COLOURS)
def test_a_product_has_the_named_colour(colour: str) -> None:
    for pattern in PATTERNS:
        total: Counter[str] = Counter()
        for number, product in enumerate(TYPES):
            shares = colour_shares(Drawing(product, colour, pattern, 40 + number))
            if pattern in ("plain", "dotted"):
                assert shares.most_common(1)[0][0] == colour, (product, pattern, shares)
            total.update(shares)
        (first, most), (_, next_most) = total.most_common(2)
        assert first == colour, (pattern, total)
        assert most > 1.5 * next_most, (pattern, total)


@pytest.mark.parametrize("product", TYPES)
def test_patterns_differ_from_plain_and_from_each_other(product: str) -> None:
    for number, colour in enumerate(COLOURS):
        seed = 70 + number
        mask = cloth_of(Drawing(product, colour, "plain", seed))
        looks = {
            pattern: pixels(Drawing(product, colour, pattern, seed))[mask].mean(axis=-1)
            for pattern in PATTERNS
        }
        for one, other in itertools.combinations(PATTERNS, 2):
            changed = np.abs(looks[one] - looks[other]) > 18
            assert changed.mean() > 0.06, (product, colour, one, other)


def test_a_caption_names_the_attributes() -> None:
    assert Drawing("t-shirt", "red", "striped", 1).caption == "red striped t-shirt"
    assert Drawing("boot", "black", "plain", 1).caption == "black boot"
    assert Drawing("boot", "black", "plain", 1).combination == ("boot", "black", "plain")
    assert with_article("trousers") == "a pair of trousers"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (("hat", "red", "plain", 0), "hat"),
        (("boot", "beige", "plain", 0), "beige"),
        (("boot", "red", "floral", 0), "floral"),
        (("boot", "red", "plain", -1), "-1"),
    ],
)
def test_unknown_attributes_and_negative_seeds_are_refused(
    values: tuple[str, str, str, int], names: str
) -> None:
    with pytest.raises(UsageError, match=names):
        Drawing(*values)


def test_a_size_below_32_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="31"):
        draw(Drawing("boot", "red", "plain", 0), (31, 400))


# --- the demo's part and the training's part


def differences(one: Combination, other: Combination) -> list[str]:
    return [kind for kind, a, b in zip(ORDER, one, other, strict=True) if a != b]


def test_every_demo_combination_has_a_neighbour_of_each_kind() -> None:
    for combination in DEMO_COMBINATIONS:
        kinds = {
            found[0]
            for other in DEMO_COMBINATIONS
            if len(found := differences(combination, other)) == 1
        }
        assert kinds == set(KINDS)


def test_the_demo_holds_out_a_tenth_and_leaves_every_attribute_to_training() -> None:
    every = set(itertools.product(TYPES, COLOURS, PATTERNS))
    assert every >= DEMO_COMBINATIONS
    assert 36 <= len(DEMO_COMBINATIONS) <= 40
    assert 0.1 <= len(DEMO_COMBINATIONS) / len(every) <= 0.15
    left = every - DEMO_COMBINATIONS
    for place, values in enumerate((TYPES, COLOURS, PATTERNS)):
        for value in values:
            assert sum(combination[place] == value for combination in left) >= 30
            assert any(combination[place] == value for combination in DEMO_COMBINATIONS)
    # pairs of attributes are all seen in training: only their combination is new in the demo
    for a, b in itertools.combinations(range(3), 2):
        assert {(c[a], c[b]) for c in left} == {(c[a], c[b]) for c in every}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2_000), st.integers(0, 2**31), st.integers(1, 12), st.integers(0, 10_000))
def test_training_and_demo_share_neither_combinations_nor_seeds(
    count: int, seed: int, per_combination: int, gallery_seed: int
) -> None:
    training = training_drawings(count, seed)
    gallery = demo_gallery(per_combination, gallery_seed)
    assert len(training) == count
    assert len({drawing.seed for drawing in training}) == count
    assert not {drawing.combination for drawing in training} & DEMO_COMBINATIONS
    assert not {d.seed for d in training} & {d.seed for d in gallery}
    assert max((d.seed for d in training), default=0) < min(d.seed for d in gallery)
    assert training == training_drawings(count, seed)


def test_training_drawings_are_spread_evenly() -> None:
    counts = Counter(drawing.combination for drawing in training_drawings(1080, 5))
    assert len(counts) == 360
    assert set(counts.values()) == {3}
    assert training_drawings(50, 1) != training_drawings(50, 2)


@given(st.integers(1, 12), st.integers(0, 1000))
def test_a_gallery_holds_every_combination_equally(per_combination: int, seed: int) -> None:
    gallery = demo_gallery(per_combination, seed)
    counts = Counter(drawing.combination for drawing in gallery)
    assert set(counts) == DEMO_COMBINATIONS
    assert set(counts.values()) == {per_combination}
    assert len({drawing.seed for drawing in gallery}) == len(gallery)


@pytest.mark.parametrize("count", [-1, 1_000_001])
def test_an_impossible_number_of_training_drawings_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=str(count)):
        training_drawings(count, 0)


@pytest.mark.parametrize(("per_combination", "seed"), [(0, 0), (10, -1)])
def test_an_impossible_gallery_is_refused(per_combination: int, seed: int) -> None:
    with pytest.raises(UsageError, match="per_combination"):
        demo_gallery(per_combination, seed)


# --- queries


def check(query: DemoQuery, gallery: list[Drawing]) -> None:
    """The text names the change, and the targets are exactly the drawings with it."""
    reference = gallery[query.reference]
    wanted = gallery[query.targets[0]]
    assert differences(reference.combination, wanted.combination) == [query.kind]
    assert query.targets == tuple(
        at for at, drawing in enumerate(gallery) if drawing.combination == wanted.combination
    )
    assert query.reference not in query.targets
    fits = {
        template.format(
            colour=wanted.colour, pattern=wanted.pattern, a_type=with_article(wanted.type)
        )
        for template in DEMO_WORDINGS[query.kind]
    }
    assert query.text in fits


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 360), st.integers(0, 1000), st.integers(3, 10))
def test_queries_ask_for_exactly_one_change(count: int, seed: int, per_combination: int) -> None:
    gallery = demo_gallery(per_combination, seed)
    queries = demo_queries(gallery, count, seed)
    assert len(queries) == count
    assert len({(q.reference, q.kind, q.targets) for q in queries}) == count
    assert queries == demo_queries(gallery, count, seed)
    kinds = Counter(query.kind for query in queries)
    assert max(kinds.values(), default=0) - min((kinds[kind] for kind in KINDS), default=0) <= 1
    for query in queries:
        check(query, gallery)
        assert len(query.targets) == per_combination


def test_over_a_hundred_queries_ask_for_different_things() -> None:
    gallery = demo_gallery()
    queries = demo_queries(gallery, 120)
    asked = {(gallery[q.reference].combination, q.kind, q.targets) for q in queries}
    assert len(asked) == 120
    for kind in KINDS:
        assert len({q.text for q in queries if q.kind == kind}) > 15


def test_queries_of_an_uneven_gallery_have_the_right_targets() -> None:
    gallery = demo_gallery()[:57]
    queries = demo_queries(gallery, 40)
    for query in queries:
        check(query, gallery)


def test_more_queries_than_a_gallery_allows_are_refused() -> None:
    with pytest.raises(UsageError, match="1200"):
        demo_queries(demo_gallery(), 1201)
    with pytest.raises(UsageError, match="-1"):
        demo_queries(demo_gallery(), -1)
    with pytest.raises(UsageError, match="0 drawings"):
        demo_queries([], 1)


def test_the_showcase_has_one_query_of_each_kind() -> None:
    gallery = demo_gallery(seed=4)
    queries = showcase_queries(gallery)
    assert [query.kind for query in queries] == list(KINDS)
    for query in queries:
        check(query, gallery)
    assert len({gallery[query.reference].type for query in queries}) == 3
    with pytest.raises(UsageError, match="demo_gallery"):
        showcase_queries(gallery[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_wordings_are_distinct_and_name_their_attribute(kind: str) -> None:
    field = {"colour": "{colour}", "pattern": "{pattern}", "type": "{a_type}"}[kind]
    templates = DEMO_WORDINGS[kind]  # type: ignore[index]
    assert 6 <= len(templates) <= 10
    assert len(set(templates)) == len(templates)
    assert all(template.count("{") == 1 and field in template for template in templates)
