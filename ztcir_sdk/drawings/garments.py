"""Garments, one function a type: from proportions to parts on a canvas.

Each function takes a canvas and the generator that decides the proportions, and draws back to
front. Nothing here knows colours or patterns; a part says only which of the cloth's tones it has.
"""

from __future__ import annotations

import math
import random

from ztcir_sdk.drawings.canvas import (
    METAL,
    Canvas,
    Corner,
    Point,
    S,
    arc,
    between,
    curve,
    mirrored,
    symmetric,
)


def _sleeve(
    canvas: Canvas,
    shoulder: Point,
    armpit: Point,
    hang: float,
    length: float,
    cuff: float,
    *,
    elbow: float = 0.0,
    cuff_tone: bool = False,
) -> None:
    """Both sleeves: ``hang`` degrees from straight down, ``cuff`` the width at the wrist."""
    down = (math.sin(math.radians(hang)), math.cos(math.radians(hang)))
    across = (down[1], -down[0])
    end = (shoulder[0] + down[0] * length, shoulder[1] + down[1] * length)
    outer = (end[0] + across[0] * cuff * 0.15, end[1] + across[1] * cuff * 0.15)
    inner = (end[0] - across[0] * cuff * 0.85, end[1] - across[1] * cuff * 0.85)
    middle = between(shoulder, outer, 0.5)
    bulge = (middle[0] + across[0] * (0.03 + elbow), middle[1] + across[1] * (0.03 + elbow))
    inside = between(armpit, inner, 0.5)
    inside = (inside[0] + across[0] * elbow * 0.7, inside[1] + across[1] * elbow * 0.7)
    neck = (shoulder[0] - 0.16, shoulder[1] + 0.0)
    right = curve(
        neck,
        (shoulder[0] - 0.03, shoulder[1] + 0.01, S),
        (*bulge, S),
        outer,
        inner,
        (*inside, S),
        (armpit[0] - 0.06, armpit[1] + 0.06),
    )
    band_outer, band_inner = between(outer, shoulder, 0.10), between(inner, armpit, 0.10)
    if length < 0.6:
        band_outer, band_inner = between(outer, shoulder, 0.08), between(inner, armpit, 0.12)
    for side in (1, -1):
        flipped = right if side == 1 else mirrored(right)
        canvas.fill(flipped, angle=-side * hang, tone=0.94)
        band = [band_outer, outer, inner, band_inner]
        seam = [band_outer, band_inner]
        crease = arc(
            between(armpit, shoulder, 0.45),
            between(between(outer, inner, 0.6), armpit, 0.55),
            between(outer, inner, 0.55),
        )
        if side == -1:
            band, seam, crease = mirrored(band), mirrored(seam), mirrored(crease)
        if cuff_tone:
            canvas.fill(band, canvas.cloth.trim)
        else:
            canvas.line(seam, 0.008)
        canvas.fold(crease, 0.05, 0.45)


def _torso_folds(
    canvas: Canvas, rng: random.Random, half: float, top: float, bottom: float
) -> None:
    for side in (1, -1):
        for _ in range(2):
            x = side * half * rng.uniform(0.45, 0.85)
            y = rng.uniform(top, (top + bottom) / 2)
            reach = rng.uniform(0.3, 0.55) * (bottom - top)
            canvas.fold(
                arc((x, y), (x - side * 0.08, y + reach * 0.5), (x - side * 0.04, y + reach)),
                0.05,
                rng.uniform(0.15, 0.32),
            )
    x = -half * rng.uniform(0.15, 0.4)
    canvas.fold([(x, top + 0.1), (x - 0.03, bottom - 0.2)], 0.16, -0.35)


def t_shirt(canvas: Canvas, rng: random.Random) -> None:
    width, length = rng.uniform(0.43, 0.52), rng.uniform(0.82, 0.98)
    neck, drop = rng.uniform(0.19, 0.25), rng.uniform(0.16, 0.26)
    v_neck = rng.random() < 0.25
    top, shoulder = -0.84, (width + 0.05, -0.70)
    armpit = (width, -0.30)
    _sleeve(
        canvas,
        shoulder,
        armpit,
        rng.uniform(27, 38),
        rng.uniform(0.40, 0.52),
        rng.uniform(0.34, 0.42),
    )
    bottom = (0, top + drop) if v_neck else (0, top + drop, S)
    torso = symmetric(
        bottom,
        (neck, top),
        (shoulder[0] - 0.02, shoulder[1], S),
        (armpit[0], armpit[1], S),
        (width - 0.02, 0.2, S),
        (width + rng.uniform(-0.02, 0.04), length),
        (0, length + 0.03, S),
    )
    canvas.fill(torso)
    band = 0.055
    inner = [(-neck, top), (0, top + drop), (neck, top)]
    back = arc((neck, top), (0, top + 0.08), (-neck, top))
    outer = [
        (neck + band, top + 0.02),
        (0, top + drop + band * (1.5 if v_neck else 1)),
        (-neck - band, top + 0.02),
    ]
    if v_neck:
        canvas.fill([*inner, *back], canvas.cloth.inside)
        canvas.fill([*inner, *outer], canvas.cloth.trim)
    else:
        smooth = arc(
            inner[0],
            (-neck * 0.62, top + drop * 0.78),
            inner[1],
            (neck * 0.62, top + drop * 0.78),
            inner[2],
        )
        wide = arc(
            outer[0],
            ((neck + band) * 0.62, top + (drop + band) * 0.8),
            outer[1],
            (-(neck + band) * 0.62, top + (drop + band) * 0.8),
            outer[2],
        )
        canvas.fill([*smooth, *back], canvas.cloth.inside)
        canvas.fill([*smooth, *wide], canvas.cloth.trim)
    canvas.stitches(
        [(-width + 0.02, length - 0.05), (0, length - 0.02), (width - 0.02, length - 0.05)]
    )
    _torso_folds(canvas, rng, width, -0.3, length)


def shirt(canvas: Canvas, rng: random.Random) -> None:
    width, length = rng.uniform(0.42, 0.50), rng.uniform(0.86, 1.0)
    top, shoulder = -0.88, (width + 0.05, -0.74)
    armpit = (width, -0.34)
    neck = 0.2
    canvas.fill(
        [
            (-neck - 0.08, top + 0.06),
            (-neck, top - 0.04),
            (neck, top - 0.04),
            (neck + 0.08, top + 0.06),
            (0, top + 0.32),
        ],
        canvas.cloth.inside,
    )
    _sleeve(
        canvas, shoulder, armpit, rng.uniform(9, 13), rng.uniform(1.22, 1.36), 0.2, cuff_tone=True
    )
    canvas.fill(
        symmetric(
            (0, top + 0.2),
            (neck, top),
            (shoulder[0] - 0.02, shoulder[1], S),
            (armpit[0], armpit[1], S),
            (width - rng.uniform(0.02, 0.06), 0.15, S),
            (width, length - 0.2),
            (width * 0.55, length, S),
            (0, length + 0.01, S),
        )
    )
    canvas.fill(
        [(-0.055, top + 0.22), (0.055, top + 0.22), (0.055, length), (-0.055, length)],
        tone=0.97,
        outline=0.007,
    )
    for button in range(6):
        canvas.disc(0, top + 0.36 + button * (length - top - 0.5) / 5.4, 0.022, (240, 238, 232))
    wing = rng.uniform(0.20, 0.28)
    for side in (1, -1):
        collar = [
            (0.0, top + 0.21),
            (neck + 0.04, top - 0.03),
            (neck + 0.09, top + 0.05),
            (0.15, top + 0.13 + wing),
        ]
        canvas.fill([(side * x, y) for x, y in collar], canvas.cloth.trim)
    stand = curve(
        (-neck - 0.04, top - 0.03),
        (0, top - 0.09, S),
        (neck + 0.04, top - 0.03),
        (0, top + 0.03, S),
    )
    canvas.fill(stand, canvas.cloth.trim)
    if rng.random() < 0.7:
        x0, y0, wide = 0.16, -0.34, 0.2
        canvas.fill(
            [
                (x0, y0),
                (x0 + wide, y0),
                (x0 + wide, y0 + 0.2),
                (x0 + wide / 2, y0 + 0.25),
                (x0, y0 + 0.2),
            ],
            tone=0.97,
            outline=0.009,
        )
        canvas.line([(x0, y0 + 0.04), (x0 + wide, y0 + 0.04)], 0.008)
    _torso_folds(canvas, rng, width, -0.3, length - 0.1)


def jacket(canvas: Canvas, rng: random.Random) -> None:
    width, length = rng.uniform(0.48, 0.55), rng.uniform(0.66, 0.82)
    top, shoulder = -0.80, (width + 0.06, -0.68)
    armpit = (width, -0.22)
    neck, open_ = 0.22, rng.uniform(0.10, 0.17)
    lining = canvas.cloth.inside
    canvas.fill(
        curve(
            (-neck - 0.02, top),
            (-neck + 0.02, top - 0.09, S),
            (0, top - 0.12, S),
            (neck - 0.02, top - 0.09, S),
            (neck + 0.02, top),
            (0, top + 0.3),
        ),
        lining,
    )
    canvas.fill(
        [(-neck, top), (neck, top), (open_ + 0.03, length - 0.02), (-open_ - 0.03, length - 0.02)],
        lining,
    )
    _sleeve(
        canvas,
        shoulder,
        armpit,
        rng.uniform(8, 12),
        rng.uniform(1.20, 1.32),
        0.26,
        elbow=0.03,
        cuff_tone=True,
    )
    rib = 0.13
    for side in (1, -1):
        panel = curve(
            (neck, top),
            (shoulder[0] - 0.03, shoulder[1], S),
            (armpit[0], armpit[1], S),
            (width + 0.03, 0.3, S),
            (width, length - rib),
            (open_, length - rib),
            (open_ * 0.8, 0.0),
            (0.06, top + 0.42),
        )
        hem = [
            (width, length - rib),
            (width - 0.03, length),
            (open_, length),
            (open_, length - rib),
        ]
        if side == -1:
            panel, hem = mirrored(panel), mirrored(hem)
        canvas.fill(panel)
        canvas.fill(hem, canvas.cloth.trim)
        for rung in range(1, 7):
            x = side * (open_ + (width - open_) * rung / 7)
            canvas.line([(x, length - rib + 0.02), (x, length - 0.02)], 0.006)
        teeth = [
            (side * 0.06, top + 0.42),
            (side * open_ * 0.8, 0.0),
            (side * open_, length - 0.01),
        ]
        canvas.line(teeth, 0.03)
        canvas.line(teeth, 0.014, METAL)
        pocket = [(side * (open_ + 0.14), 0.32), (side * (width - 0.1), 0.12)]
        canvas.strap(pocket, 0.03, canvas.cloth.trim)
        canvas.stitches([(side * (neck + 0.03), top + 0.30), (side * (width + 0.0), -0.34)])
    if rng.random() < 0.5:  # a stand-up collar
        for side in (1, -1):
            collar = curve(
                (0.05, top + 0.36),
                (neck - 0.04, top - 0.09, S),
                (neck + 0.09, top - 0.02),
                (neck + 0.06, top + 0.12, S),
                (0.09, top + 0.46),
            )
            canvas.fill(collar if side == 1 else mirrored(collar), canvas.cloth.trim)
    else:  # lapels
        for side in (1, -1):
            lapel = [
                (0.06, top + 0.46),
                (neck - 0.05, top - 0.07),
                (neck + 0.09, top - 0.02),
                (neck + 0.17, top + 0.2),
                (neck + 0.07, top + 0.24),
                (neck + 0.10, top + 0.32),
            ]
            canvas.fill(lapel if side == 1 else mirrored(lapel), canvas.cloth.trim)
    for side in (1, -1):
        canvas.fold([(side * (width - 0.08), -0.15), (side * (width - 0.16), 0.2)], 0.06, 0.5)
        canvas.fold([(side * (open_ + 0.1), -0.4), (side * (open_ + 0.13), 0.4)], 0.12, -0.3)


def dress(canvas: Canvas, rng: random.Random) -> None:
    bust, waist = rng.uniform(0.33, 0.39), rng.uniform(0.24, 0.29)
    flare, length = rng.uniform(0.56, 0.80), rng.uniform(0.86, 1.10)
    top, waist_y = -1.0, rng.uniform(-0.26, -0.14)
    straps = rng.random() < 0.4
    neck, drop = rng.uniform(0.15, 0.21), rng.uniform(0.14, 0.28)
    skirt = symmetric(
        (0, waist_y - 0.02),
        (waist, waist_y - 0.02),
        (waist + (flare - waist) * 0.48, waist_y + (length - waist_y) * 0.35, S),
        (flare, length),
        (flare * 0.66, length + 0.055, S),
        (flare * 0.33, length + 0.035, S),
        (0, length + 0.07, S),
    )
    if straps:
        bodice = symmetric(
            (0, top + 0.30, S),
            (bust * 0.72, top + 0.22),
            (bust, top + 0.40, S),
            (bust - 0.01, top + 0.52, S),
            (waist, waist_y),
            (0, waist_y),
        )
        for side in (1, -1):
            canvas.strap(
                [(side * bust * 0.68, top + 0.26), (side * bust * 0.55, top)],
                0.04,
                canvas.cloth.trim,
            )
    else:
        canvas.fill(
            curve((-neck, top), (0, top + 0.06, S), (neck, top), (0, top + drop, S)),
            canvas.cloth.inside,
        )
        cap = rng.uniform(0.0, 0.12)
        bodice = symmetric(
            (0, top + drop, S),
            (neck, top),
            (bust + 0.02 + cap, top + 0.10 + cap),
            (bust - 0.03 + cap, top + 0.24 + cap * 0.6),
            (bust - 0.04, top + 0.34, S),
            (bust, top + 0.48, S),
            (waist, waist_y),
            (0, waist_y),
        )
    canvas.fill(skirt)
    canvas.fill(bodice)
    band = rng.uniform(0.05, 0.09)
    canvas.fill(
        [
            (-waist - 0.01, waist_y - band / 2),
            (waist + 0.01, waist_y - band / 2),
            (waist + 0.02, waist_y + band / 2),
            (-waist - 0.02, waist_y + band / 2),
        ],
        canvas.cloth.trim,
    )
    if not straps:
        canvas.line(
            arc((-neck - 0.03, top + 0.02), (0, top + drop + 0.04), (neck + 0.03, top + 0.02)),
            0.008,
        )
    for pleat in range(-3, 4):
        x0, x1 = waist * 0.8 * pleat / 3, flare * 0.82 * pleat / 3
        start = waist_y + rng.uniform(0.06, 0.25)
        canvas.fold(
            arc((x0, start), ((x0 + x1) * 0.48, (start + length) / 2), (x1, length)),
            0.05,
            rng.uniform(0.35, 0.65),
        )
        canvas.fold(
            [((x0 + x1) * 0.5 + 0.08, (start + length) / 2), (x1 + 0.1, length)], 0.06, -0.4
        )
    for side in (1, -1):
        canvas.fold(
            arc(
                (side * bust * 0.9, top + 0.5),
                (side * bust * 0.5, top + 0.56),
                (side * waist * 0.5, waist_y - 0.05),
            ),
            0.05,
            0.4,
        )


def trousers(canvas: Canvas, rng: random.Random) -> None:
    waist, hip = rng.uniform(0.33, 0.38), rng.uniform(0.43, 0.49)
    top, crotch, bottom = -1.05, rng.uniform(-0.38, -0.30), rng.uniform(0.98, 1.1)
    hem = rng.uniform(0.20, 0.34)
    spread = rng.uniform(0.02, 0.10)
    band = 0.12
    canvas.fill(
        curve((-waist, top), (0, top + 0.05, S), (waist, top), (0, top + 0.1, S)),
        canvas.cloth.inside,
    )
    outer = hip - 0.02 + spread
    for side in (1, -1):
        leg = curve(
            (0.0, top + band),
            (waist + 0.01, top + band),
            (hip, crotch - 0.12, S),
            ((hip + outer) / 2 + 0.01, 0.2, S),
            (outer, bottom),
            (outer - hem, bottom + 0.02),
            (0.08 + spread * 0.5, 0.25, S),
            (0.0, crotch),
        )
        canvas.fill(leg if side == 1 else mirrored(leg), tone=1.0 if side == 1 else 0.97)
        canvas.line(
            [
                (side * (outer - hem + 0.005), bottom - 0.06),
                (side * (outer - 0.004), bottom - 0.08),
            ],
            0.008,
        )
        middle = outer - hem / 2
        canvas.fold(
            arc(
                (side * 0.24, crotch),
                (side * (0.24 + middle) / 2, 0.3),
                (side * middle, bottom - 0.1),
            ),
            0.07,
            -0.45,
        )
        canvas.fold(
            arc((side * 0.02, crotch), (side * 0.14, crotch + 0.10), (side * 0.28, crotch + 0.12)),
            0.04,
            0.5,
        )
        for knee in (0.28, 0.36):
            canvas.fold(
                [
                    (side * (0.12 + spread), knee),
                    (side * (0.24 + spread), knee + rng.uniform(-0.04, 0.05)),
                ],
                0.04,
                0.35,
            )
        canvas.fold(
            [(side * (0.06 + spread * 0.5), crotch + 0.1), (side * (outer - hem + 0.03), bottom)],
            0.07,
            0.4,
        )
        pocket = arc(
            (side * (waist * 0.55), top + band),
            (side * (waist * 0.72), top + 0.3),
            (side * (hip - 0.045), top + 0.36),
        )
        canvas.line(pocket, 0.012)
    canvas.fill(
        curve(
            (-waist, top),
            (0, top + 0.06, S),
            (waist, top),
            (waist + 0.012, top + band),
            (0, top + band + 0.06, S),
            (-waist - 0.012, top + band),
        ),
        canvas.cloth.trim,
    )
    for x in (-0.24, -0.1, 0.1, 0.24):
        canvas.line([(x, top + 0.05), (x, top + band + 0.035)], 0.026)
    canvas.disc(0, top + 0.10, 0.026, METAL)
    canvas.line([(0, top + band + 0.05), (0, crotch)], 0.012)
    canvas.stitches(
        arc((0.09, top + band + 0.05), (0.085, crotch - 0.2), (0.0, crotch - 0.08), steps=3)
    )


def skirt(canvas: Canvas, rng: random.Random) -> None:
    waist, flare = rng.uniform(0.30, 0.36), rng.uniform(0.58, 0.80)
    top, bottom = rng.uniform(-0.74, -0.62), rng.uniform(0.40, 0.82)
    band, pleats = rng.uniform(0.10, 0.15), rng.choice([3, 4])
    hem: list[Corner] = [(flare, bottom)]
    for step in range(1, 2 * pleats + 1):
        share = 1 - step / (2 * pleats)
        wave = 0.012 if step % 2 else -0.012
        hem.append((flare * share, bottom + wave + 0.07 * (1 - share * share), S))
    side_x = waist + (flare - waist) * 0.52
    canvas.fill(
        curve((-waist, top), (0, top + 0.04, S), (waist, top), (0, top + 0.08, S)),
        canvas.cloth.inside,
    )
    canvas.fill(
        symmetric(
            (0, top + band),
            (waist + 0.01, top + band),
            (side_x, top + (bottom - top) * 0.45, S),
            *hem,
        )
    )
    canvas.fill(
        curve(
            (-waist, top),
            (0, top + 0.05, S),
            (waist, top),
            (waist + 0.015, top + band),
            (0, top + band + 0.05, S),
            (-waist - 0.015, top + band),
        ),
        canvas.cloth.trim,
    )
    for pleat in range(-pleats, pleats + 1):
        x0, x1 = waist * 0.86 * pleat / pleats, flare * 0.88 * pleat / pleats
        canvas.fold(
            arc(
                (x0, top + band + 0.06),
                ((x0 + x1) * 0.49, (top + bottom) / 2),
                (x1, bottom + 0.05),
            ),
            0.045,
            rng.uniform(0.5, 0.75),
        )
        lit = 0.5 * flare / pleats
        canvas.fold(
            [((x0 + x1) * 0.5 + lit * 0.4, (top + bottom) / 2), (x1 + lit, bottom)], 0.07, -0.45
        )
        canvas.line(
            [(x0, top + band + 0.045), (x0 + (x1 - x0) * 0.3, top + (bottom - top) * 0.38)], 0.008
        )
    if rng.random() < 0.5:
        canvas.disc(waist * 0.6, top + band / 2 + 0.035, 0.028, (238, 236, 230))
    canvas.stitches(
        arc(
            (-flare + 0.03, bottom - 0.06),
            (0, bottom + 0.02),
            (flare - 0.03, bottom - 0.06),
            steps=5,
        )
    )
