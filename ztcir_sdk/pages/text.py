"""Text in any script and emoji, drawn with the first font that has each character.

Pillow's own font comes first, then DejaVu Sans, which travels in the package, then the fonts of the
system. A character that no font has becomes a box.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

_Face: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

_OWN = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
_FOLDERS = {
    "win32": [os.path.expandvars(r"%WINDIR%\Fonts")],
    "darwin": ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"],
}
_LINUX_FOLDERS = ["/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"]
_PREFERRED = ("noto", "emoji", "unicode", "cjk", "gothic", "ming", "segoe", "pingfang", "droid")
_MAX_FONTS = 500
_BITMAP_SIZES = (109, 128, 136, 160)
"""Sizes, in pixels, of colour emoji fonts that hold bitmaps of one size alone."""
_MISSING = "\U0010ffff"  # no font has this
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")


@dataclass(frozen=True)
class _Run:
    """Characters that one font draws."""

    text: str
    face: _Face
    scale: float
    """Size of the text over the size of `face`, below 1 for bitmaps."""

    @property
    def width(self) -> float:
        return self.face.getlength(self.text) * self.scale


class TextFont:
    """A font size that draws every character that this machine has a font for.

    Attributes:
        size: in pixels.
        line_height: distance of two lines, in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        _, top, _, bottom = _default(size).getbbox("Ágjy|")
        self.line_height = round(bottom - min(0, top)) + 3

    def length(self, text: str) -> float:
        """Return the width of one line of text, in pixels."""
        return sum(run.width for run in _runs(text, self.size))

    def draw(
        self, image: Image.Image, at: tuple[float, float], text: str, ink: tuple[int, int, int]
    ) -> None:
        """Draw one line of text into an RGB image, its upper left corner at `at`."""
        left, top = at
        drawing = ImageDraw.Draw(image)
        for run in _runs(text, self.size):
            if run.scale == 1:
                # all fonts stand on the line of the first
                shift = _ascent(_default(self.size)) - _ascent(run.face)
                drawing.text((left, top + shift), run.text, font=run.face, fill=ink)
            else:
                _draw_bitmap(image, run, (round(left), round(top)), self.size)
            left += run.width


def _draw_bitmap(image: Image.Image, run: _Run, at: tuple[int, int], size: int) -> None:
    width = max(1, round(run.face.getlength(run.text)))
    height = round(size / run.scale * 1.2)
    tile = Image.new("RGBA", (width, height))
    ImageDraw.Draw(tile).text((0, 0), run.text, font=run.face, embedded_color=True)
    small = tile.resize((max(1, round(run.width)), max(1, round(height * run.scale))))
    image.paste(small, at, small)


@functools.lru_cache(maxsize=2048)
def _runs(text: str, size: int) -> tuple[_Run, ...]:
    """Split text into runs of one font each; joiners stay with the emoji before them."""
    fonts: list[int | None] = []
    for char in text:
        stays = char in _JOINERS or unicodedata.combining(char) or char == " "
        joined = bool(fonts) and text[len(fonts) - 1] == "\u200d"
        if fonts and (stays or joined):
            fonts.append(fonts[-1])
        else:
            fonts.append(_font_of(char))
    runs = []
    for number, group in itertools.groupby(zip(text, fonts, strict=True), key=lambda pair: pair[1]):
        face, scale = _face(number or 0, size)
        runs.append(_Run("".join(char for char, _ in group), face, scale))
    return tuple(runs)


@functools.lru_cache(maxsize=8192)
def _font_of(char: str) -> int | None:
    """Return the number of the first font that has a character; None if none has."""
    if char.isascii():
        return 0
    return next((number for number in range(_font_count()) if _has(number, char)), None)


def _has(number: int, char: str) -> bool:
    try:
        face, _ = _face(number, 16)
        own, missing = face.getmask(char), face.getmask(_MISSING)
    except (OSError, ValueError):  # a damaged font of the system
        return False
    return (own.size, bytes(own)) != (missing.size, bytes(missing))


@functools.lru_cache(maxsize=1)
def _files() -> tuple[Path, ...]:
    folders = [Path(one).expanduser() for one in _FOLDERS.get(sys.platform, _LINUX_FOLDERS)]
    found = itertools.islice((file for one in folders for file in _fonts_in(one)), _MAX_FONTS)
    return _OWN, *sorted(found, key=_preference)


def _fonts_in(folder: Path) -> Iterator[Path]:
    try:
        yield from (file for file in folder.rglob("*.[tTo][tT][cCfF]") if file.is_file())
    except OSError:
        return


def _preference(file: Path) -> tuple[bool, bool, str]:
    name = file.name.lower()
    plain = not any(style in name for style in ("bold", "italic", "oblique", "mono", "serif"))
    return not any(part in name for part in _PREFERRED), not plain, name


def _font_count() -> int:
    return 1 + len(_files())


@functools.lru_cache(maxsize=256)
def _face(number: int, size: int) -> tuple[_Face, float]:
    """Open a font by its number; 0 is Pillow's own. Bitmap fonts open at their size alone.

    Raises:
        OSError: it cannot be opened.
    """
    if number == 0:
        return _default(size), 1.0
    file = str(_files()[number - 1])
    error: OSError | None = None
    for one in (size, *_BITMAP_SIZES):
        try:
            return ImageFont.truetype(file, one), size / one
        except OSError as failed:
            error = failed
    assert error is not None
    raise error


@functools.lru_cache(maxsize=16)
def _default(size: int) -> _Face:
    return ImageFont.load_default(size)


def _ascent(face: _Face) -> int:
    return face.getmetrics()[0] if isinstance(face, ImageFont.FreeTypeFont) else 0
