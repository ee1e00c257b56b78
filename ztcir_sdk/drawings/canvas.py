"""The canvas for drawn products: cloth, patterns, outlines, soft light, shadow.

Lengths are in units of half the image's width: x goes right from -1 to 1, y goes down, from -1.33
to 1.33 in a 3:4 image. Flat parts are drawn at three times the size and reduced. Soft parts (light,
folds, shadow) are drawn small and enlarged, so an image takes milliseconds.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Rgb = tuple[int, int, int]
Point = tuple[float, float]
Corner = tuple[float, float] | tuple[float, float, str]  # with a third item "s": a smooth point
Placement = Callable[[float, float], Point]

S = "s"  # marks a smooth point of an outline
METAL = (190, 186, 176)
PATTERNS = ("plain", "striped", "dotted", "checked")

SUPERSAMPLE = 3
_SOFT = 4  # soft light is drawn at a quarter of the image's size

# name -> ranges of hue (degrees), saturation and value, with gaps that keep the colours distinct
COLOUR_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "black": ((200, 260), (0.02, 0.10), (0.11, 0.16)),
    "white": ((40, 220), (0.00, 0.02), (0.96, 0.98)),
    "red": ((-6, 4), (0.82, 0.92), (0.74, 0.85)),
    "orange": ((22, 29), (0.86, 0.96), (0.94, 0.99)),
    "yellow": ((48, 54), (0.74, 0.88), (0.95, 0.99)),
    "green": ((118, 146), (0.58, 0.74), (0.50, 0.64)),
    "blue": ((212, 226), (0.70, 0.84), (0.66, 0.84)),
    "purple": ((272, 284), (0.52, 0.66), (0.50, 0.62)),
    "pink": ((332, 345), (0.36, 0.48), (0.95, 0.99)),
    "brown": ((20, 27), (0.56, 0.66), (0.38, 0.47)),
}


def _blend(colour: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Cloth:
    """The tones of one colour name; every part of a product has one of them."""

    base: Rgb
    trim: Rgb  # collars, straps, cuffs: another tone of the colour
    inside: Rgb  # the inner side seen through a neckline
    line: Rgb  # outlines and seams
    shadow: Rgb
    second: Rgb  # stripes, dots and checks
    gloss: float  # opacity of highlights

    @staticmethod
    def of(colour: str, pattern: str, rng: random.Random) -> Cloth:
        """Choose tones within the range of ``colour``, and a pattern's tone outside of it."""
        hue, saturation, value = (rng.uniform(*limits) for limits in COLOUR_RANGES[colour])

        def tone(saturation_by: float, value_by: float) -> Rgb:
            red, green, blue = colorsys.hsv_to_rgb(
                hue % 360 / 360, min(1.0, saturation * saturation_by), min(1.0, value * value_by)
            )
            return round(red * 255), round(green * 255), round(blue * 255)

        base = tone(1, 1)
        white = (250, 250, 248)
        if colour == "black":
            second = rng.choice([(236, 236, 236), (198, 199, 204)])
            return Cloth(
                base, (52, 52, 57), (20, 20, 23), (84, 84, 91), (0, 0, 0), second, gloss=0.34
            )
        if colour == "white":
            grey = rng.randint(52, 96)
            return Cloth(
                base,
                (236, 237, 239),
                (214, 216, 220),
                (128, 132, 140),
                (118, 124, 138),
                (grey, grey + 2, grey + 8),
                gloss=0.0,
            )
        dark = tone(1.05, 0.54)
        pale = _blend(base, (255, 255, 255), 0.80)
        # white is invisible on yellow, a dark tone on brown, and dark orange is brown
        choices = {
            "yellow": [tone(1.05, 0.42), (66, 63, 58)],
            "brown": [white, pale],
            "orange": [white, pale],
        }
        # a pale check over half of a cloth would change its colour name, as from red to pink
        usual = [white, dark, dark] if pattern == "checked" else [white, pale, dark]
        second = rng.choice(choices.get(colour, usual))
        return Cloth(
            base, tone(1.04, 0.80), tone(1.0, 0.58), tone(1.05, 0.52), tone(1.1, 0.28), second, 0.20
        )


@dataclass(frozen=True)
class Fabric:
    """A pattern's geometry, in units of the canvas; ``angle`` 0 is horizontal stripes."""

    pattern: str
    period: float
    width: float  # share of the period that a stripe or dot takes
    angle: float
    phase: float
    thin: bool  # a second, thinner line between the stripes or bands

    @staticmethod
    def of(pattern: str, rng: random.Random) -> Fabric:
        if pattern == "striped":
            upright = rng.random() < 0.3
            angle = rng.gauss(0, 2.5) + (90 if upright else 0)
            return Fabric(
                pattern,
                rng.uniform(0.17, 0.27),
                rng.uniform(0.28, 0.38),
                angle,
                rng.random(),
                rng.random() < 0.25,
            )
        if pattern == "dotted":
            return Fabric(
                pattern,
                rng.uniform(0.17, 0.26),
                rng.uniform(0.44, 0.56),
                rng.choice([0, 45]) + rng.gauss(0, 4),
                rng.random(),
                False,
            )
        if pattern == "checked":
            angle = rng.gauss(0, 2.5) + (45 if rng.random() < 0.15 else 0)
            return Fabric(
                pattern,
                rng.uniform(0.22, 0.32),
                rng.uniform(0.20, 0.29),
                angle,
                rng.random(),
                rng.random() < 0.5,
            )
        return Fabric(pattern, 1.0, 0.0, 0.0, 0.0, False)


def _cut_stripes(
    draw: ImageDraw.ImageDraw,
    fabric: Fabric,
    place: Placement,
    reach: int,
    turned: bool,
    fill: int,
) -> None:
    period, end = fabric.period, reach * fabric.period
    bands = [(0.0, fabric.width)]
    if fabric.thin:
        bands = [(0.0, fabric.width * 0.8), (0.5 + fabric.width * 0.33, 0.5 + fabric.width * 0.6)]
    for row in range(-reach, reach + 1):
        for start, stop in bands:
            low, high = (row + start) * period, (row + stop) * period
            corners = [(-end, low), (end, low), (end, high), (-end, high)]
            draw.polygon([place(y, x) if turned else place(x, y) for x, y in corners], fill=fill)


def pattern_mask(
    fabric: Fabric,
    size: tuple[int, int],
    place: Placement,
    reach: int,
    scale: float,
) -> Image.Image:
    """Return the pattern as an "L" image of ``size``: the opacity of the second tone at each pixel.

    ``place`` maps the pattern's own coordinates to pixels; ``reach`` periods cover the image on
    each side of its origin; ``scale`` is in pixels per unit.
    """
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    if fabric.pattern == "striped":
        _cut_stripes(draw, fabric, place, reach, False, 255)
    elif fabric.pattern == "checked":
        _cut_stripes(draw, fabric, place, reach, False, 150)
        across = Image.new("L", size)
        _cut_stripes(ImageDraw.Draw(across), fabric, place, reach, True, 150)
        mask = ImageChops.add(mask, across)
    elif fabric.pattern == "dotted":
        radius = fabric.period * fabric.width * 0.5 * scale
        width, height = size
        for row in range(-reach, reach + 1):
            for column in range(-reach, reach + 1):
                x, y = place(column * fabric.period, row * fabric.period)
                if -radius < x < width + radius and -radius < y < height + radius:
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask


def curve(*points: Corner, steps: int = 7) -> list[Point]:
    """Return a closed outline through ``points``; a third item `S` makes a point smooth.

    Runs of smooth points become Catmull-Rom splines that start and end in the corners beside them.
    """
    count = len(points)
    outline: list[Point] = []
    for here in range(count):
        there = (here + 1) % count
        a, b = points[here], points[there]
        if len(a) == 2 and len(b) == 2:
            outline.append((a[0], a[1]))
            continue
        before = points[here - 1] if len(a) == 3 else a
        after = points[(there + 1) % count] if len(b) == 3 else b
        outline.extend(_spline(before, a, b, after, steps))
    return outline


def arc(*points: Point, steps: int = 7) -> list[Point]:
    """Return an open smooth line through ``points``."""
    line: list[Point] = []
    for here in range(len(points) - 1):
        before = points[max(0, here - 1)]
        after = points[min(len(points) - 1, here + 2)]
        line.extend(_spline(before, points[here], points[here + 1], after, steps))
    line.append(points[-1])
    return line


def _spline(
    before: Sequence[float | str],
    a: Sequence[float | str],
    b: Sequence[float | str],
    after: Sequence[float | str],
    steps: int,
) -> Iterable[Point]:
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (
        (float(p[0]), float(p[1])) for p in (before, a, b, after)
    )
    for step in range(steps):
        t = step / steps
        t2, t3 = t * t, t * t * t
        w0, w1 = -0.5 * t3 + t2 - 0.5 * t, 1.5 * t3 - 2.5 * t2 + 1
        w2, w3 = -1.5 * t3 + 2 * t2 + 0.5 * t, 0.5 * t3 - 0.5 * t2
        yield (w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3, w0 * y0 + w1 * y1 + w2 * y2 + w3 * y3)


def symmetric(*half: Corner) -> list[Point]:
    """Return a symmetric `curve` from its right half, from the top middle to the bottom middle."""
    left = [(-p[0], p[1], p[2]) if len(p) == 3 else (-p[0], p[1]) for p in reversed(half)]
    return curve(*half, *(p for p in left if p[0] != 0))


def between(a: Point, b: Point, share: float) -> Point:
    """Return the point at ``share`` of the way from ``a`` to ``b``."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)


def mirrored(points: Sequence[Point]) -> list[Point]:
    """Return the outline mirrored at x = 0."""
    return [(-x, y) for x, y in points]


class Canvas:
    """One image: `fill` parts from back to front, add folds, then `finish`."""

    def __init__(
        self, size: tuple[int, int], cloth: Cloth, fabric: Fabric, pose: random.Random
    ) -> None:
        width, height = size
        self.size = size
        self.cloth = cloth
        self.fabric = fabric
        self.flip = 1.0
        self._fine = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        unit = min(width / 2, height * 3 / 8) * SUPERSAMPLE
        self._scale = unit * pose.uniform(0.92, 1.02)
        self._centre = (
            self._fine[0] / 2 + unit * pose.uniform(-0.04, 0.04),
            self._fine[1] / 2 + unit * pose.uniform(-0.06, 0.06),
        )
        turn = math.radians(max(-5.0, min(5.0, pose.gauss(0, 2))))
        self._cos, self._sin = math.cos(turn), math.sin(turn)
        self._backdrop = pose.randint(249, 255)
        self._flat = Image.new("RGB", self._fine, (255, 255, 255))
        self._draw = ImageDraw.Draw(self._flat)
        self._silhouette = Image.new("L", self._fine)
        self._silhouette_draw = ImageDraw.Draw(self._silhouette)
        soft = (width // _SOFT, height // _SOFT)
        self._folds = Image.new("L", soft, 128)
        self._folds_draw = ImageDraw.Draw(self._folds)
        self._ground: tuple[Point, Point] | None = None

    def _place(self, x: float, y: float) -> Point:
        x *= self.flip
        return (
            self._centre[0] + self._scale * (x * self._cos - y * self._sin),
            self._centre[1] + self._scale * (x * self._sin + y * self._cos),
        )

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        return [self._place(x, y) for x, y in points]

    def fill(
        self,
        points: Sequence[Point],
        colour: Rgb | None = None,
        *,
        angle: float = 0.0,
        tone: float = 1.0,
        outline: float = 0.011,
    ) -> None:
        """Fill a closed outline with the patterned cloth, or with a plain ``colour``.

        ``angle`` (degrees) rotates the pattern, ``tone`` below 1 darkens the cloth.
        """
        pixels = self._pixels(points)
        self._silhouette_draw.polygon(pixels, fill=255)
        base = colour or _blend(self.cloth.shadow, self.cloth.base, tone)
        self._draw.polygon(pixels, fill=base)
        if colour is None and self.fabric.pattern != "plain":
            self._weave(pixels, angle, tone)
        if outline:
            self.line([*points, points[0]], outline)

    def _weave(self, pixels: list[Point], angle: float, tone: float) -> None:
        left = max(0, math.floor(min(x for x, _ in pixels)))
        top = max(0, math.floor(min(y for _, y in pixels)))
        right = min(self._fine[0], math.ceil(max(x for x, _ in pixels)) + 1)
        bottom = min(self._fine[1], math.ceil(max(y for _, y in pixels)) + 1)
        if right <= left or bottom <= top:
            return
        size = (right - left, bottom - top)
        turn = math.radians(self.fabric.angle + angle) + math.atan2(self._sin, self._cos)
        cos, sin = math.cos(turn) * self._scale, math.sin(turn) * self._scale
        shift = self.fabric.phase * self.fabric.period
        # upright parts share one origin, so that a pattern continues across a seam
        anchor = self._centre if angle == 0 else ((left + right) / 2, (top + bottom) / 2)
        origin_x, origin_y = anchor[0] - left, anchor[1] - top
        far = max(
            math.hypot(x - origin_x, y - origin_y) for x in (0, size[0]) for y in (0, size[1])
        )
        reach = math.ceil(far / (self.fabric.period * self._scale)) + 1

        def place(x: float, y: float) -> Point:
            x, y = x + shift, y + shift
            return (origin_x + x * cos - y * sin, origin_y + x * sin + y * cos)

        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        pattern = pattern_mask(self.fabric, size, place, reach, self._scale)
        second = _blend(self.cloth.shadow, self.cloth.second, tone)
        self._flat.paste(second, (left, top), ImageChops.multiply(mask, pattern))

    def line(
        self, points: Sequence[Point], width: float = 0.011, colour: Rgb | None = None
    ) -> None:
        """Draw a seam or an outline along ``points``; ``width`` in units."""
        thick = max(1, round(width * self._scale))
        self._draw.line(
            self._pixels(points),
            fill=colour or self.cloth.line,
            width=thick,
            joint="curve" if thick > 4 else None,
        )

    def strap(self, points: Sequence[Point], width: float, colour: Rgb) -> None:
        """Draw a band of ``width`` units along ``points``, as part of the silhouette."""
        pixels = self._pixels(points)
        thick, edge = round(width * self._scale), round((width + 0.022) * self._scale)
        self._silhouette_draw.line(pixels, fill=255, width=edge, joint="curve")
        self._draw.line(pixels, fill=self.cloth.line, width=edge, joint="curve")
        self._draw.line(pixels, fill=colour, width=thick, joint="curve")

    def stitches(self, points: Sequence[Point], colour: Rgb | None = None) -> None:
        """Draw a dashed seam along ``points``."""
        for here in range(len(points) - 1):
            (x0, y0), (x1, y1) = points[here], points[here + 1]
            dashes = max(1, round(math.hypot(x1 - x0, y1 - y0) / 0.045))
            for dash in range(dashes):
                a, b = dash / dashes, (dash + 0.6) / dashes
                self.line(
                    [
                        (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a),
                        (x0 + (x1 - x0) * b, y0 + (y1 - y0) * b),
                    ],
                    0.008,
                    colour,
                )

    def disc(self, x: float, y: float, radius: float, colour: Rgb, rim: bool = True) -> None:
        """Draw a button, a rivet or an eyelet."""
        px, py = self._place(x, y)
        r = max(1.0, radius * self._scale)
        self._draw.ellipse(
            (px - r, py - r, px + r, py + r), fill=colour, outline=self.cloth.line if rim else None
        )

    def fold(self, points: Sequence[Point], width: float, strength: float) -> None:
        """Draw a soft crease along ``points``; ``strength`` is from -1 (light) to 1 (dark)."""
        ratio = SUPERSAMPLE * _SOFT
        self._folds_draw.line(
            [(x / ratio, y / ratio) for x, y in self._pixels(points)],
            fill=round(128 + 127 * max(-1.0, min(1.0, strength))),
            width=max(1, round(width * self._scale / ratio)),
        )

    def ground(self, x0: float, x1: float, y: float) -> None:
        """Place the product on a floor between ``x0`` and ``x1`` at height ``y``."""
        self._ground = (self._place(x0, y), self._place(x1, y))

    def finish(self) -> Image.Image:
        """Return the RGB image: the product with light and shadow on its background."""
        flat = self._flat.reduce(SUPERSAMPLE)
        mask = self._silhouette.reduce(SUPERSAMPLE)
        small = mask.resize(self._folds.size, Image.Resampling.BOX)
        bulge = small.filter(ImageFilter.GaussianBlur(min(self._folds.size) / 18))
        folds = self._folds.filter(ImageFilter.GaussianBlur(min(self._folds.size) / 50))

        # light comes from the upper left: edges that face away from it are in shade
        offset = max(1, self._folds.size[0] // 30)
        away = ImageChops.offset(bulge, -offset, -offset)
        towards = ImageChops.offset(bulge, offset, offset)
        shade = ImageChops.add(
            away.point([round((255 - level) * 0.56) for level in range(256)]),
            folds.point([round(max(0, level - 128) * 1.5) for level in range(256)]),
        )
        facing = ImageChops.subtract(away, towards)
        light = ImageChops.add(
            facing.point([min(255, level * 3) for level in range(256)]),
            folds.point([min(255, max(0, 128 - level) * 2) for level in range(256)]),
        )
        self._glaze(flat, mask, shade, self.cloth.shadow)
        if self.cloth.gloss:
            gloss = self.cloth.gloss
            light = light.point([round(level * gloss) for level in range(256)])
            self._glaze(flat, mask, light, (255, 255, 255))
        return ImageChops.multiply(flat, self._floor(mask, small))

    def _glaze(
        self, flat: Image.Image, mask: Image.Image, amount: Image.Image, colour: Rgb
    ) -> None:
        full = amount.resize(self.size, Image.Resampling.BICUBIC)
        flat.paste(colour, mask=ImageChops.multiply(full, mask))

    def _floor(self, mask: Image.Image, small: Image.Image) -> Image.Image:
        shadow = Image.new("L", small.size)
        if self._ground is None:
            shadow = ImageChops.offset(small, 1, 2).point([level // 5 for level in range(256)])
        else:
            (x0, y0), (x1, y1) = (
                (x / SUPERSAMPLE / _SOFT, y / SUPERSAMPLE / _SOFT) for x, y in self._ground
            )
            left, right, y = min(x0, x1), max(x0, x1), (y0 + y1) / 2
            deep = max(1.5, small.size[0] / 26)
            ImageDraw.Draw(shadow).ellipse((left, y - deep, right, y + deep), fill=105)
        shadow = shadow.filter(ImageFilter.GaussianBlur(small.size[0] / 28))
        floor = shadow.resize(self.size, Image.Resampling.BICUBIC)
        backdrop = self._backdrop
        floor = floor.point([max(0, backdrop - level) for level in range(256)])
        floor.paste(255, mask=mask)  # the shadow is behind the product
        return Image.merge("RGB", (floor, floor, floor))
