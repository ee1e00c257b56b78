"""Small images for pages: made from a file or an archive, and written into the page itself."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

from ztcir_sdk.decoding import load_image
from ztcir_sdk.errors import ImageError
from ztcir_sdk.sources import read_image

__all__ = ["image_tag", "thumbnail"]

SIDE = 320
"""Longest side of a thumbnail, in pixels."""


def thumbnail(path: str) -> Image.Image | None:
    """Return an image, also from an archive, at most `SIDE` large; None if it cannot be used."""
    try:
        image = load_image(read_image(Path(path).absolute().parent, Path(path).name))
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def image_tag(image: Image.Image | None, name: str) -> str:
    """Return an HTML element that contains an RGB image; for None, a grey cell that says so."""
    if image is None:
        return '<div class="gone">not found</div>'
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">'
