"""Bags and shoes, one function a type: from proportions to parts on a canvas.

Each function takes a canvas and the generator that decides the proportions, and draws back to
front. Nothing here knows colours or patterns; a part says only which of the cloth's tones it has.
"""

from __future__ import annotations

import random

from ztcir_sdk.drawings.canvas import (
    METAL,
    Canvas,
    Point,
    S,
    arc,
    between,
    curve,
    mirrored,
    symmetric,
)


def handbag(canvas: Canvas, rng: random.Random) -> None:
    top, bottom = rng.uniform(-0.18, -0.06), rng.uniform(0.62, 0.76)
    narrow, wide = rng.uniform(0.52, 0.62), rng.uniform(0.68, 0.80)
    rise = rng.uniform(0.58, 0.78)
    reach = narrow * rng.uniform(0.52, 0.68)
    canvas.ground(-wide, wide, bottom + 0.01)

    def handle(lift: float, shift: float) -> list[Point]:
        return arc(
            (-reach + shift, top + 0.1),
            (-reach * 0.94 + shift, top - rise * 0.5),
            (-reach * 0.5 + shift, top - rise * 0.93 - lift),
            (shift, top - rise - lift),
            (reach * 0.5 + shift, top - rise * 0.93 - lift),
            (reach * 0.94 + shift, top - rise * 0.5),
            (reach + shift, top + 0.1),
            steps=6,
        )

    canvas.strap(handle(0.05, 0.05), 0.05, canvas.cloth.inside)
    body = symmetric(
        (0, top),
        (narrow, top),
        (wide, bottom - 0.14, S),
        (wide - 0.05, bottom - 0.02, S),
        (wide - 0.15, bottom, S),
        (0, bottom),
    )
    canvas.fill(body)
    flap = rng.random() < 0.5
    if flap:
        deep = top + (bottom - top) * rng.uniform(0.40, 0.52)
        canvas.fill(
            symmetric(
                (0, top - 0.03),
                (narrow + 0.01, top - 0.02),
                (narrow + 0.055, top + 0.12, S),
                (narrow * 0.82, deep - 0.06, S),
                (0, deep, S),
            ),
            tone=0.96,
        )
        canvas.fill(
            [(-0.07, deep - 0.10), (0.07, deep - 0.10), (0.07, deep + 0.05), (-0.07, deep + 0.05)],
            (214, 178, 92),
        )
        canvas.disc(0, deep - 0.01, 0.022, (140, 108, 40))
        canvas.fold(arc((-narrow * 0.8, deep), (0, deep + 0.07), (narrow * 0.8, deep)), 0.06, 0.6)
    else:
        band = 0.11
        canvas.fill(
            [
                (-narrow, top),
                (narrow, top),
                (narrow + 0.02, top + band),
                (-narrow - 0.02, top + band),
            ],
            canvas.cloth.trim,
        )
        canvas.stitches([(-narrow, top + band + 0.03), (narrow, top + band + 0.03)])
        canvas.line(
            [(-narrow + 0.06, top + 0.04), (narrow - 0.06, top + 0.04)], 0.024, (214, 178, 92)
        )
        pocket = curve(
            (-0.36, top + 0.34),
            (0.36, top + 0.34),
            (0.38, bottom - 0.18, S),
            (0.3, bottom - 0.1, S),
            (-0.3, bottom - 0.1, S),
            (-0.38, bottom - 0.18, S),
        )
        canvas.line([*pocket, pocket[0]], 0.01)
    canvas.fill(
        symmetric(
            (0, bottom - 0.1),
            (wide - 0.005, bottom - 0.1),
            (wide - 0.02, bottom - 0.03, S),
            (wide - 0.12, bottom, S),
            (0, bottom),
        ),
        canvas.cloth.trim,
    )
    canvas.strap(handle(0.0, 0.0), 0.055, canvas.cloth.trim)
    for side in (1, -1):
        canvas.fill(
            [
                (side * reach - 0.06, top + 0.02),
                (side * reach + 0.06, top + 0.02),
                (side * reach + 0.06, top + 0.15),
                (side * reach, top + 0.20),
                (side * reach - 0.06, top + 0.15),
            ],
            canvas.cloth.trim,
        )
        canvas.disc(side * reach, top + 0.09, 0.03, (214, 178, 92))
    canvas.fold([(-narrow * 0.5, top + 0.2), (-narrow * 0.55, bottom - 0.2)], 0.2, -0.45)


def backpack(canvas: Canvas, rng: random.Random) -> None:
    width, top, bottom = rng.uniform(0.52, 0.60), rng.uniform(-0.86, -0.76), rng.uniform(0.78, 0.90)
    pocket_top = rng.uniform(0.06, 0.18)
    arch = rng.uniform(0.30, 0.42)
    canvas.ground(-width, width, bottom)
    loop = arc(
        (-0.15, top + 0.06),
        (-0.13, top - 0.14),
        (0, top - 0.2),
        (0.13, top - 0.14),
        (0.15, top + 0.06),
    )
    canvas.strap(loop, 0.055, canvas.cloth.trim)
    for side in (1, -1):
        strap = arc(
            (side * 0.3, top + 0.1),
            (side * (width + 0.1), top + 0.5),
            (side * (width + 0.14), 0.25),
            (side * (width - 0.05), bottom - 0.16),
        )
        canvas.strap(strap, 0.10, canvas.cloth.inside)
        mesh = curve(
            (width - 0.05, 0.22),
            (width + 0.12, 0.28),
            (width + 0.13, bottom - 0.16, S),
            (width - 0.05, bottom - 0.06),
        )
        canvas.fill(mesh if side == 1 else mirrored(mesh), canvas.cloth.trim)
    body = symmetric(
        (0, top, S),
        (width * 0.62, top + 0.05, S),
        (width * 0.95, top + arch, S),
        (width, 0.0, S),
        (width + 0.02, bottom - 0.16, S),
        (width - 0.06, bottom - 0.02, S),
        (width - 0.18, bottom, S),
        (0, bottom),
    )
    canvas.fill(body)
    zip_ = arc(
        (-width * 0.86, 0.0),
        (-width * 0.82, top + arch + 0.02),
        (-width * 0.54, top + 0.17),
        (0, top + 0.12),
        (width * 0.54, top + 0.17),
        (width * 0.82, top + arch + 0.02),
        (width * 0.86, 0.0),
    )
    canvas.line(zip_, 0.035)
    canvas.line(zip_, 0.013, METAL)
    inner = width - 0.09
    pocket = symmetric(
        (0, pocket_top),
        (inner - 0.1, pocket_top, S),
        (inner, pocket_top + 0.1, S),
        (inner + 0.01, bottom - 0.18, S),
        (inner - 0.1, bottom - 0.08, S),
        (0, bottom - 0.07),
    )
    canvas.fold(pocket, 0.08, 0.6)
    canvas.fill(pocket, tone=0.97)
    canvas.line([(-inner + 0.05, pocket_top + 0.11), (inner - 0.05, pocket_top + 0.11)], 0.035)
    canvas.line(
        [(-inner + 0.05, pocket_top + 0.11), (inner - 0.05, pocket_top + 0.11)], 0.013, METAL
    )
    canvas.line([(inner - 0.12, pocket_top + 0.11), (inner - 0.12, pocket_top + 0.24)], 0.03)
    label_y = (top + 0.12 + pocket_top) / 2 + 0.06
    canvas.fill(
        [
            (-0.12, label_y - 0.06),
            (0.12, label_y - 0.06),
            (0.12, label_y + 0.06),
            (-0.12, label_y + 0.06),
        ],
        canvas.cloth.trim,
    )
    canvas.fold([(-width * 0.5, top + 0.3), (-width * 0.55, bottom - 0.3)], 0.2, -0.45)


def sneaker(canvas: Canvas, rng: random.Random) -> None:
    canvas.flip = rng.choice([1.0, -1.0])
    heel, toe, floor = -0.84, 0.86, rng.uniform(0.42, 0.50)
    sole = rng.uniform(0.16, 0.21)
    high = rng.uniform(0.70, 0.86)  # height of the collar above the sole
    ankle = floor - sole - high
    throat = rng.uniform(0.02, 0.12)
    canvas.ground(heel, toe, floor + 0.01)
    base = floor - sole
    # tongue and inside
    canvas.fill(
        curve(
            (-0.28, ankle + 0.12),
            (-0.14, ankle - 0.10, S),
            (-0.0, ankle - 0.12, S),
            (throat + 0.06, ankle + 0.1),
            (throat, ankle + 0.3),
        ),
        canvas.cloth.trim,
    )
    canvas.fill(
        curve(
            (heel + 0.08, ankle + 0.06),
            (-0.4, ankle + 0.02, S),
            (-0.1, ankle + 0.08),
            (-0.3, ankle + 0.2, S),
            (heel + 0.12, ankle + 0.16),
        ),
        canvas.cloth.inside,
    )
    toe_y = base - rng.uniform(0.24, 0.30)
    upper = curve(
        (heel + 0.04, base + 0.03),
        (heel + 0.0, base - high * 0.45, S),
        (heel + 0.05, ankle + 0.03, S),
        (heel + 0.16, ankle + 0.02, S),
        (-0.42, ankle + 0.15, S),
        (-0.14, ankle + 0.08),
        (throat, ankle + 0.2),
        (0.22, toe_y - 0.16, S),
        (0.50, toe_y, S),
        (toe - 0.12, toe_y + 0.07, S),
        (toe - 0.01, base - 0.08, S),
        (toe - 0.02, base + 0.03),
    )
    canvas.fill(upper)
    # toe cap, heel counter
    canvas.fill(
        curve(
            (0.56, base + 0.02),
            (0.50, base - 0.14, S),
            (0.56, toe_y + 0.015),
            (toe - 0.12, toe_y + 0.07, S),
            (toe - 0.01, base - 0.08, S),
            (toe - 0.02, base + 0.02),
        ),
        canvas.cloth.trim if rng.random() < 0.6 else (240, 240, 238),
    )
    canvas.fill(
        curve(
            (heel + 0.04, base + 0.02),
            (heel, base - high * 0.45, S),
            (heel + 0.03, base - high * 0.72, S),
            (heel + 0.16, base - high * 0.6, S),
            (heel + 0.26, base - 0.2, S),
            (heel + 0.30, base + 0.02),
        ),
        canvas.cloth.trim,
    )
    canvas.line(
        arc((heel + 0.14, ankle + 0.08), (-0.44, ankle + 0.21), (-0.15, ankle + 0.14)), 0.009
    )
    # lacing: eyelet stay and laces
    start, end = (throat - 0.08, ankle + 0.24), (0.36, toe_y - 0.04)
    stay = curve(
        (-0.13, ankle + 0.09),
        (throat + 0.01, ankle + 0.2),
        (0.22, toe_y - 0.15, S),
        (0.42, toe_y - 0.03),
        (0.30, toe_y + 0.08, S),
        (0.06, toe_y - 0.02, S),
        (-0.16, ankle + 0.32, S),
    )
    canvas.fill(stay, canvas.cloth.trim)
    laces = (
        (246, 246, 244)
        if canvas.cloth.base[0] + canvas.cloth.base[1] + canvas.cloth.base[2] < 660
        else (120, 124, 132)
    )
    for row in range(5):
        x, y = between(start, end, row / 4)
        canvas.line([(x - 0.06, y + 0.10), (x + 0.09, y - 0.06)], 0.04)
        canvas.line([(x - 0.06, y + 0.10), (x + 0.09, y - 0.06)], 0.026, laces)
    # sole
    rubber = (247, 247, 245)
    canvas.fill(
        curve(
            (heel + 0.01, base, S),
            (-0.3, base + 0.02, S),
            (0.3, base + 0.03, S),
            (toe - 0.02, base - 0.03, S),
            (toe + 0.02, base + 0.04, S),
            (toe - 0.06, floor, S),
            (0.0, floor + 0.005, S),
            (heel + 0.06, floor, S),
            (heel - 0.03, floor - 0.06, S),
        ),
        rubber,
    )
    canvas.line(arc((heel, floor - 0.04), (0, floor - 0.03), (toe - 0.02, floor - 0.05)), 0.01)
    canvas.fold(arc((0.42, toe_y + 0.04), (0.40, base - 0.2), (0.34, base - 0.08)), 0.05, 0.4)
    canvas.fold(arc((heel + 0.3, base - 0.1), (-0.2, base - 0.12), (0.3, base - 0.1)), 0.08, 0.3)
    canvas.fold([(-0.45, ankle + 0.4), (0.1, base - 0.3)], 0.12, -0.4)


def boot(canvas: Canvas, rng: random.Random) -> None:
    canvas.flip = rng.choice([1.0, -1.0])
    floor, top = rng.uniform(0.82, 0.92), rng.uniform(-0.98, -0.70)
    back, front = rng.uniform(-0.56, -0.50), rng.uniform(0.04, 0.12)
    toe = rng.uniform(0.66, 0.74)
    heel, sole = rng.uniform(0.12, 0.24), 0.07
    base = floor - sole
    back_base = floor - heel
    canvas.ground(back, toe, floor)
    instep = base - rng.uniform(0.42, 0.5)
    canvas.fill(
        curve(
            (back, top),
            ((back + front) / 2, top - 0.05, S),
            (front, top),
            ((back + front) / 2, top + 0.06, S),
        ),
        canvas.cloth.inside,
    )
    shaft = curve(
        (back, top),
        ((back + front) / 2, top + 0.05, S),
        (front, top),
        (front + 0.02, instep - 0.22, S),
        (front + 0.12, instep, S),
        (0.42, base - 0.27, S),
        (toe - 0.08, base - 0.17, S),
        (toe, base - 0.05, S),
        (toe - 0.02, base + 0.01),
        (0.15, base - 0.01),
        (-0.12, back_base + 0.01),
        (back + 0.02, back_base + 0.01),
        (back - 0.03, back_base - 0.2, S),
        (back + 0.05, instep - 0.05, S),
    )
    canvas.fill(shaft)
    canvas.fill(
        curve(
            (back - 0.005, top - 0.005),
            ((back + front) / 2, top + 0.05, S),
            (front + 0.005, top - 0.005),
            (front + 0.01, top + 0.11),
            ((back + front) / 2, top + 0.17, S),
            (back + 0.005, top + 0.11),
        ),
        canvas.cloth.trim,
    )
    canvas.fill(
        curve(
            (0.44, base),
            (0.40, base - 0.12, S),
            (0.46, base - 0.25),
            (toe - 0.08, base - 0.17, S),
            (toe, base - 0.05, S),
            (toe - 0.02, base),
        ),
        canvas.cloth.trim,
    )
    canvas.fill(
        curve(
            (back + 0.02, back_base),
            (back - 0.03, back_base - 0.2, S),
            (back + 0.01, back_base - 0.27),
            (back + 0.13, back_base - 0.2, S),
            (back + 0.2, back_base),
        ),
        canvas.cloth.trim,
    )
    laced = rng.random() < 0.55
    if laced:
        rows = 6
        for row in range(rows):
            share = row / (rows - 1)
            x, y = (
                front + 0.02 + 0.12 * max(0.0, share - 0.6) * 2.5,
                top + 0.22 + (instep - top - 0.2) * share,
            )
            canvas.line([(x - 0.16, y + 0.03), (x + 0.02, y - 0.05)], 0.04)
            canvas.line([(x - 0.16, y + 0.03), (x + 0.02, y - 0.05)], 0.024, (236, 230, 214))
            canvas.disc(x - 0.18, y + 0.035, 0.02, METAL)
    else:
        x = (back + front) / 2 - 0.02
        canvas.line([(x, top + 0.15), (x + 0.02, back_base - 0.34)], 0.036)
        canvas.line([(x, top + 0.15), (x + 0.02, back_base - 0.34)], 0.013, METAL)
    dark = (44, 40, 40) if sum(canvas.cloth.base) > 200 else (86, 74, 64)
    canvas.fill(
        curve(
            (back + 0.0, back_base),
            (-0.12, back_base),
            (0.12, base - 0.01),
            (toe - 0.03, base - 0.01),
            (toe + 0.03, base + 0.02, S),
            (toe - 0.04, floor, S),
            (0.16, floor),
            (-0.08, floor - heel * 0.45),
            (-0.12, floor),
            (back + 0.03, floor),
        ),
        dark,
    )
    canvas.fold(
        arc(
            (front + 0.06, instep - 0.06),
            (front - 0.12, instep + 0.02),
            (back + 0.2, instep - 0.04),
        ),
        0.05,
        0.5,
    )
    canvas.fold(
        arc((front + 0.16, instep + 0.04), (front, instep + 0.13), (front - 0.14, instep + 0.13)),
        0.04,
        0.4,
    )
    canvas.fold([(back + 0.16, top + 0.25), (back + 0.18, instep - 0.1)], 0.12, -0.5)
    canvas.fold([(0.1, base - 0.06), (0.45, base - 0.05)], 0.06, 0.3)
