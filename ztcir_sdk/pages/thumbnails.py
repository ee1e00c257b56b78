"""Small images for pages: made from a file or an archive, and written into the page itself."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

from ztcir_sdk.decoding import load_image, load_small
from ztcir_sdk.errors import ImageError
from ztcir_sdk.files import is_inside
from ztcir_sdk.sources import read_image

SIDE = 320
"""Longest side of a thumbnail, in pixels."""


def thumbnail(
    source: str | Image.Image, side: int = SIDE, *, inside: str = ""
) -> Image.Image | None:
    """Return a small copy of an image, also of one in an archive; None if it cannot be used.

    Args:
        source: a path or an image.
        side: longest side of the copy, in pixels.
        inside: a folder; a path that leads out of it, through links too, is not used.
    """
    try:
        if isinstance(source, str):
            if inside and not is_inside(source, inside):
                return None
            path = Path(source).absolute()
            return load_small(read_image(path.parent, path.name), side, name=path.name)
        image = load_image(source)
    except ImageError:
        return None
    image.thumbnail((side, side))
    return image


def image_tag(image: Image.Image | None, name: str) -> str:
    """Return an HTML element that contains an RGB image; for None, a grey cell that says so."""
    if image is None:
        return '<div class="gone">not found</div>'
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">'
