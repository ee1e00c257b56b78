"""A self-contained HTML page of hits, with the thumbnails inside it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ztcir_sdk.index.hit import Hit
from ztcir_sdk.pages.thumbnails import SIDE, image_tag, thumbnail

__all__ = ["result_page"]

LARGE = 900
"""Longest side of the images of a page of few hits, in pixels: they open in a large view."""
MAX_LARGE = 50

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
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
figcaption summary { cursor: pointer; opacity: .8; }
dl { margin: .25rem 0; display: grid; grid-template-columns: auto 1fr; gap: 0 .5rem; }
dt { opacity: .7; }
dd { margin: 0; }
.close { display: none; }
figure:target { position: fixed; inset: 0; z-index: 1; padding: 1rem; overflow: auto;
     background: Canvas; display: grid; grid-template-rows: 1fr auto; gap: .5rem; }
figure:target img { height: 100%; min-height: 0; aspect-ratio: auto; }
figure:target .close { display: inline; }
"""


def result_page(reference: str | Image.Image | None, text: str, hits: Sequence[Hit]) -> str:
    """Return an HTML page of a query and its hits, best first.

    Args:
        reference: the reference image, or its path; None for a search by words alone.
        text: what was asked for in words; may be empty.
        hits: from a search. An image that no longer exists becomes a grey cell.
    """
    side = LARGE if len(hits) <= MAX_LARGE else SIDE
    cells = "\n".join(f"<li>{_cell(hit, side)}</li>" for hit in hits)
    title = html.escape(text or "similar images")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
<header id="top">{"" if reference is None else _image(reference, SIDE)}
<div><h1>{title}</h1><p>{len(hits)} images, nearest first</p></div></header>
<ol>
{cells}
</ol>
</html>
"""


def _cell(hit: Hit, side: int) -> str:
    """Return a hit: its image, which opens a large view, its score, file and metadata."""
    anchor = f"hit-{hit.rank}"
    name = html.escape(_drawable(hit.path))
    metadata = "".join(
        f"<dt>{html.escape(_drawable(str(key)))}</dt><dd>{html.escape(_value(value))}</dd>"
        for key, value in (hit.metadata or {}).items()
    )
    if metadata:
        metadata = f"<details><summary>metadata</summary><dl>{metadata}</dl></details>"
    link = f'<a href="{html.escape(_file_link(hit.path))}">{name}</a>'
    return (
        f'<figure id="{anchor}"><a href="#{anchor}">{_image(hit.path, side, hit.root)}</a>'
        f"<figcaption>{hit.rank}. {hit.score:.3f} "
        f'<a class="close" href="#top">close</a><br>{link}{metadata}</figcaption></figure>'
    )


def _value(value: object) -> str:
    return _drawable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _drawable(text: str) -> str:
    """Replace lone surrogates, from file names that are not UTF-8, which a page cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _file_link(path: str) -> str:
    """Return a link to a file, or to the archive that holds it."""
    file = Path(path).absolute()
    found = next((one for one in (file, *file.parents) if one.is_file()), file)
    return found.as_uri()


def _image(source: str | Image.Image, side: int, inside: str = "") -> str:
    name = Path(source).name if isinstance(source, str) else "reference"
    return image_tag(thumbnail(source, side, inside=inside), _drawable(name))
