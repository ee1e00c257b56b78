"""A page of hits in one file: thumbnails inside it, nothing to load from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ztcir_sdk.errors import ImageError
from ztcir_sdk.preprocess import load_image
from ztcir_sdk.retriever import Hit
from ztcir_sdk.sources import read_picture

__all__ = ["image_tag", "result_page", "thumbnail"]

SIDE = 320
"""Longest side of a thumbnail, in pixels."""

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
header { display: flex; gap: 1.5rem; align-items: center; margin-bottom: 2rem; }
header img { max-height: 16rem; max-width: 40%; border-radius: .5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
ol { list-style: none; display: grid; gap: 1rem; padding: 0;
     grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
figure { margin: 0; }
figure img, .gone { width: 100%; aspect-ratio: 3 / 4; object-fit: contain;
     background: #8881; border-radius: .5rem; }
.gone { display: grid; place-items: center; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; opacity: .8; }
"""


def result_page(reference: str, text: str, hits: Sequence[Hit]) -> str:
    """Return an HTML page of a query and its hits, best first.

    Args:
        reference: path of the reference picture.
        text: the modification text; may be empty.
        hits: from a search. A picture that is not there any more becomes a grey cell.
    """
    cells = "\n".join(
        f"<li><figure>{_picture(hit.path)}<figcaption>{hit.rank}. {hit.score:.3f}<br>"
        f"{html.escape(hit.path)}</figcaption></figure></li>"
        for hit in hits
    )
    title = html.escape(text or "pictures like this one")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
<header>{_picture(reference)}
<div><h1>{title}</h1><p>{len(hits)} pictures, nearest first</p></div></header>
<ol>
{cells}
</ol>
</html>
"""


def thumbnail(path: str) -> Image.Image | None:
    """Return a picture at most `SIDE` large, also from an archive; None if it cannot be used."""
    try:
        image = load_image(read_picture(Path(path).absolute().parent, Path(path).name))
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def image_tag(image: Image.Image | None, name: str) -> str:
    """Return an RGB picture as an HTML element that holds it; a grey cell in place of None."""
    if image is None:
        return '<div class="gone">not there any more</div>'
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">'


def _picture(path: str) -> str:
    return image_tag(thumbnail(path), Path(path).name)
