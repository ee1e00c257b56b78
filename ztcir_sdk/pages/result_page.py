"""A self-contained HTML page of hits, with the thumbnails inside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from ztcir_sdk.index.hit import Hit
from ztcir_sdk.pages.thumbnails import image_tag, thumbnail

__all__ = ["result_page"]

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
        reference: path of the reference image.
        text: the modification text; may be empty.
        hits: from a search. An image that no longer exists becomes a grey cell.
    """
    cells = "\n".join(
        f"<li><figure>{_image(hit.path)}<figcaption>{hit.rank}. {hit.score:.3f}<br>"
        f"{html.escape(hit.path)}</figcaption></figure></li>"
        for hit in hits
    )
    title = html.escape(text or "similar images")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
<header>{_image(reference)}
<div><h1>{title}</h1><p>{len(hits)} images, nearest first</p></div></header>
<ol>
{cells}
</ol>
</html>
"""


def _image(path: str) -> str:
    return image_tag(thumbnail(path), Path(path).name)
