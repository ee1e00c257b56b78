"""One image of queries and their hits.

Each row is a card: the reference with its modification text below, an arrow, then the hits in
order. The frame of a hit marks it as right (green, ticked), wrong (red, crossed) or unknown.
"""

from __future__ import annotations

import bisect
import math
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw

from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import ImageError, UsageError
from ztcir_sdk.pages.text import TextFont

Picture: TypeAlias = "Image.Image | str | os.PathLike[str]"
_Rgb = tuple[int, int, int]

RIGHT: _Rgb = (26, 152, 80)
WRONG: _Rgb = (214, 62, 52)
UNKNOWN: _Rgb = (198, 202, 210)

_PAGE, _CARD, _EDGE, _MAT = (242, 243, 246), (255, 255, 255), (222, 225, 231), (250, 250, 251)
_INK, _MUTED, _ARROW = (28, 31, 38), (104, 110, 122), (150, 156, 168)

_MARGIN = 20  # around the page and inside a card
_GAP = 12  # between cells, and between cards
_FRAME = 4
_ARROW_SPACE = 60
_CAPTION_LINES, _TEXT_LINES = 3, 5
PER_LINE = 10
"""Hits beside each other."""
CELL = (120, 160)
"""Width and height of a hit, in pixels."""
_MAX_TEXT = 400  # characters; more would not fit


@dataclass(frozen=True)
class SheetCell:
    """A hit: an image or its path, a caption, and whether it is right (None: unknown).

    The caption may have line breaks. Long lines are wrapped; only three lines are shown.
    """

    image: Picture | None
    caption: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class SheetRow:
    """A query: its reference (an image or a path, if any), its text, and its hits, best first."""

    reference: Picture | None
    text: str
    hits: Sequence[SheetCell]


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    title: str = "",
    per_line: int = PER_LINE,
    cell: tuple[int, int] = CELL,
) -> Image.Image:
    """Lay out rows of queries and hits as one RGB image, to be viewed at full size.

    A row takes as many lines of ``per_line`` hits as it needs. Each hit is fitted into ``cell``
    (width, height in pixels) without distortion, each reference into a cell of 1.5 times that size.
    An image that cannot be opened becomes a grey cell with the reason.

    Raises:
        UsageError: ``per_line`` is below 1, or a side of ``cell`` is below 40 pixels.
    """
    if per_line < 1 or min(cell) < 40:
        raise UsageError(
            f"A contact sheet needs per_line of at least 1 and cells of at least 40 x 40 pixels, "
            f"not {per_line} and {cell[0]} x {cell[1]}."
        )
    columns = max(1, min(per_line, max((len(row.hits) for row in rows), default=1)))
    hits_width = columns * (cell[0] + 2 * _FRAME + _GAP) - _GAP
    hits_width = max(hits_width, 2 * cell[0])
    card_width = 2 * _MARGIN + _reference_size(cell)[0] + 2 * _FRAME + _ARROW_SPACE + hits_width
    cards = [_card(row, columns, cell, card_width) for row in rows]

    title_font = TextFont(24)
    title_lines = _wrapped(title, title_font, card_width, 2)
    title_height = len(title_lines) * title_font.line_height + (_GAP if title_lines else 0)
    height = 2 * _MARGIN + title_height + sum(card.height + _GAP for card in cards)
    sheet = Image.new("RGB", (card_width + 2 * _MARGIN, height - (_GAP if cards else 0)), _PAGE)
    _write(sheet, title_lines, title_font, _MARGIN, _MARGIN, _INK)
    top = _MARGIN + title_height
    for card in cards:
        sheet.paste(card, (_MARGIN, top))
        top += card.height + _GAP
    return sheet


def sheet_height(hits: int, *, per_line: int = PER_LINE, cell: tuple[int, int] = CELL) -> int:
    """Return at least how high the sheet of one query is, in pixels, without captions."""
    return 2 * _MARGIN + math.ceil(hits / per_line) * (cell[1] + 2 * _FRAME + _GAP)


def _reference_size(cell: tuple[int, int]) -> tuple[int, int]:
    return cell[0] * 3 // 2, cell[1] * 3 // 2


def _card(row: SheetRow, columns: int, cell: tuple[int, int], width: int) -> Image.Image:
    text_font, caption_font = TextFont(18), TextFont(14)
    reference_size = _reference_size(cell)
    reference_width = reference_size[0] + 2 * _FRAME
    quoted = f"“{row.text.strip()}”" if row.text.strip() else ""
    text_lines = _wrapped(quoted, text_font, reference_width, _TEXT_LINES)
    captions = [
        _wrapped(hit.caption, caption_font, cell[0] + 2 * _FRAME, _CAPTION_LINES)
        for hit in row.hits
    ]
    caption_height = max(map(len, captions), default=0) * caption_font.line_height
    line_height = cell[1] + 2 * _FRAME + (6 if caption_height else 0) + caption_height + _GAP
    lines = math.ceil(len(row.hits) / columns)
    left_height = reference_size[1] + 2 * _FRAME + 10 + len(text_lines) * text_font.line_height
    hits_height = lines * line_height - _GAP
    height = 2 * _MARGIN + max(left_height, hits_height)

    card = Image.new("RGB", (width, height), _PAGE)
    _stamp(card, (0, 0), card.size, _EDGE, lambda draw, s: _rounded(draw, s, card.size, 0))
    _stamp(card, (0, 0), card.size, _CARD, lambda draw, s: _rounded(draw, s, card.size, 1))
    text_top = _MARGIN
    if row.reference is not None:
        _framed(card, row.reference, (_MARGIN, _MARGIN), reference_size, UNKNOWN)
        text_top += reference_size[1] + 2 * _FRAME + 10
    _write(card, text_lines, text_font, _MARGIN, text_top, _INK, reference_width)

    arrow_left = _MARGIN + reference_width
    arrow_height = (cell[1] if lines < 2 else reference_size[1]) // 2 + _FRAME + _MARGIN
    _stamp(card, (arrow_left, arrow_height - 12), (_ARROW_SPACE, 24), _ARROW, _arrow)
    first = arrow_left + _ARROW_SPACE
    if not row.hits:
        _write(card, ["no hits"], text_font, first, arrow_height - 11, _MUTED)
    for position, (hit, caption) in enumerate(zip(row.hits, captions, strict=True)):
        left = first + position % columns * (cell[0] + 2 * _FRAME + _GAP)
        top = _MARGIN + position // columns * line_height
        frame = UNKNOWN if hit.right is None else RIGHT if hit.right else WRONG
        _framed(card, hit.image, (left, top), cell, frame)
        if hit.right is not None:
            mark = _tick if hit.right else _cross
            at = (left + cell[0] + 2 * _FRAME - 22, top)
            card.paste(frame, (*at, at[0] + 22, at[1] + 22))
            _stamp(card, at, (22, 22), _CARD, mark)
        below = top + cell[1] + 2 * _FRAME + 6
        _write(card, caption, caption_font, left, below, _MUTED, cell[0] + 2 * _FRAME)
    return card


def _framed(
    card: Image.Image,
    picture: Picture | None,
    at: tuple[int, int],
    size: tuple[int, int],
    frame: _Rgb,
) -> None:
    left, top = at
    outer = (left, top, left + size[0] + 2 * _FRAME, top + size[1] + 2 * _FRAME)
    card.paste(frame, outer)
    card.paste(_fitted(picture, size), (left + _FRAME, top + _FRAME))


def _fitted(picture: Picture | None, size: tuple[int, int]) -> Image.Image:
    """Fit an image into ``size`` without distortion; an unusable one becomes a grey cell."""
    if picture is None:
        return _unusable("", size)
    try:
        image = load_image(picture)
    except ImageError:
        return _unusable(picture, size)
    ratio = min(size[0] / image.width, size[1] / image.height)
    fitted = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    cell = Image.new("RGB", size, _MAT)
    at = (size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2
    cell.paste(image.resize(fitted, Image.Resampling.LANCZOS), at)
    return cell


def _unusable(picture: Picture, size: tuple[int, int]) -> Image.Image:
    cell = Image.new("RGB", size, (224, 226, 230))
    path = None if isinstance(picture, Image.Image) else Path(picture)
    name = "image" if path is None else path.name
    reason = "cannot be opened" if path is None or path.exists() else "file not found"
    font = TextFont(14)
    lines = [*_wrapped(name, font, size[0] - 12, 3), *_wrapped(reason, font, size[0] - 12, 2)]
    top = (size[1] - len(lines) * font.line_height) // 2
    _write(cell, lines, font, 6, top, _MUTED, size[0] - 12)
    return cell


def _plain(text: str) -> str:
    """Return one line of characters that can be drawn; a glyph missing in all fonts is a box."""
    # lone surrogates, from file names that are not UTF-8, cannot be drawn
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    return " ".join(text.split())


def _wrapped(text: str, font: TextFont, width: int, most: int) -> list[str]:
    """Wrap ``text`` to at most ``most`` lines of ``width`` pixels; an ellipsis marks a cut.

    Words longer than a line are broken.
    """
    lines: list[str] = []
    for paragraph in text[:_MAX_TEXT].splitlines():
        line = ""
        for word in _plain(paragraph).split():
            candidate = f"{line} {word}" if line else word
            if font.length(candidate) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            while font.length(word) > width and len(word) > 1:
                ends = range(1, len(word))
                fits = bisect.bisect_right(
                    ends, width, key=lambda end: math.ceil(font.length(word[:end]))
                )
                fits = _break_at(word, max(1, fits))
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        if line:
            lines.append(line)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.length(last + "…") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + "…"]


def _break_at(word: str, fits: int) -> int:
    """Return where to break a word of which `fits` characters fit: behind a separator if it can."""
    separators = [place + 1 for place in range(fits // 3, fits) if word[place] in "/\\_-.,@+"]
    return separators[-1] if separators else fits


def _write(
    image: Image.Image,
    lines: Sequence[str],
    font: TextFont,
    left: int,
    top: int,
    ink: _Rgb,
    centred_in: int | None = None,
) -> None:
    for line in lines:
        shift = 0 if centred_in is None else max(0, round((centred_in - font.length(line)) / 2))
        font.draw(image, (left + shift, top), line, ink)
        top += font.line_height


_Shape = Callable[[ImageDraw.ImageDraw, int], None]


def _stamp(
    image: Image.Image, at: tuple[int, int], size: tuple[int, int], ink: _Rgb, shape: _Shape
) -> None:
    """Paint ``shape`` with smooth edges; it is called with the factor to enlarge it by."""
    factor = 3
    mask = Image.new("L", (size[0] * factor, size[1] * factor))
    shape(ImageDraw.Draw(mask), factor)
    image.paste(ink, at, mask.reduce(factor))


def _rounded(draw: ImageDraw.ImageDraw, factor: int, size: tuple[int, int], inset: int) -> None:
    near = inset * factor
    right, bottom = (side * factor - near - 1 for side in size)
    draw.rounded_rectangle((near, near, right, bottom), 10 * factor, fill=255)


def _arrow(draw: ImageDraw.ImageDraw, factor: int) -> None:
    draw.line([(14 * factor, 12 * factor), (40 * factor, 12 * factor)], 255, 3 * factor)
    draw.polygon(
        [(37 * factor, 4 * factor), (48 * factor, 12 * factor), (37 * factor, 20 * factor)],
        fill=255,
    )


def _tick(draw: ImageDraw.ImageDraw, factor: int) -> None:
    points = [(5, 11), (9.5, 15.5), (17, 6.5)]
    draw.line([(x * factor, y * factor) for x, y in points], 255, 2 * factor + 1, joint="curve")


def _cross(draw: ImageDraw.ImageDraw, factor: int) -> None:
    for points in ([(6, 6), (16, 16)], [(16, 6), (6, 16)]):
        draw.line([(x * factor, y * factor) for x, y in points], 255, 2 * factor + 1)
