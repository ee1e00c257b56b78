"""A self-contained HTML page of a benchmark's queries and hits, which can be sorted.

With the method "mapped" it corresponds to Figure 4 of the method's paper, the hits of "a photo of
$"; with "composed" to its Figure 5.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence

from ztcir_sdk.errors import ImageError
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage
from ztcir_sdk.evaluation.benchmarks.report import Answer, AnswerHit
from ztcir_sdk.pages.contact_sheet import RIGHT, UNKNOWN, WRONG
from ztcir_sdk.pages.thumbnails import image_tag

SIDE = 144
"""Longest side of a thumbnail, in pixels."""

_MARKS = {"right": "✓ right", "wrong": "✗ wrong", "reference": "the reference", "unknown": ""}
_NO_RANK = 1_000_000
"""Sorts queries without a right hit to the end."""


def _rgb(colour: tuple[int, int, int]) -> str:
    return f"rgb({colour[0]} {colour[1]} {colour[2]})"


_STYLE = f"""
:root {{ color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 100rem; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }}
h2 {{ font-size: 1rem; margin: 0 0 .5rem; }}
nav {{ display: flex; gap: 1.5rem; margin: 1rem 0 2rem; flex-wrap: wrap; }}
section {{ border-top: 1px solid #8884; padding: 1rem 0; }}
section[hidden] {{ display: none; }}
ol {{ list-style: none; display: flex; gap: .5rem; padding: 0; margin: 0; overflow-x: auto; }}
li {{ flex: 0 1 8.5rem; min-width: 5.5rem; }}
li:first-child {{ margin-right: 1.5rem; }}
figure {{ margin: 0; }}
figure img, .gone {{ box-sizing: border-box; width: 100%; aspect-ratio: 1; object-fit: contain;
     background: #8881; border: 4px solid {_rgb(UNKNOWN)}; border-radius: .4rem; }}
.gone {{ display: grid; place-items: center; text-align: center; }}
.right img, .right .gone {{ border-color: {_rgb(RIGHT)}; }}
.wrong img, .wrong .gone {{ border-color: {_rgb(WRONG)}; }}
.reference img, .reference .gone {{ border-style: dashed; }}
figcaption, small {{ font-size: .8rem; overflow-wrap: anywhere; opacity: .8; }}
"""

# Sections are written in the order of their category: the page is useful without a script too.
_SCRIPT = """
const all = [...document.querySelectorAll("section")];
const order = document.querySelector("#order"), only = document.querySelector("#only");
function show() {
  const by = order.value;
  const less = (a, b) => by === "category" ? a.dataset.category.localeCompare(b.dataset.category)
    : by === "rank" ? a.dataset.rank - b.dataset.rank : a.dataset.place - b.dataset.place;
  all.sort((a, b) => less(a, b) || a.dataset.place - b.dataset.place);
  for (const one of all) {
    const own = JSON.parse(one.dataset.categories);
    one.hidden = only.value !== "" && !own.includes(only.value);
    one.parentNode.append(one);
  }
}
order.addEventListener("change", show);
only.addEventListener("change", show);
"""
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()


def benchmark_page(title: str, subtitle: str, answers: Sequence[Answer]) -> str:
    """Return an HTML page of queries, each with its reference and its hits.

    A hit's frame and caption mark it as right (green), wrong (red) or unknown. The page can be
    sorted by category, by the rank of the first right image, and by the order of the annotations;
    it can be limited to one category.

    Args:
        title: the benchmark and the bundle.
        subtitle: the method, the prompt and other settings.
        answers: queries, in the order of the annotations. An image that no longer exists becomes a
            grey cell.
    """
    sections = [
        (answer.categories[0], place, _section(answer, place))
        for place, answer in enumerate(answers)
    ]
    body = "\n".join(section for _, _, section in sorted(sections, key=lambda one: one[:2]))
    names = sorted({category for answer in answers for category in answer.categories})
    options = "".join(f"<option>{html.escape(name)}</option>" for name in names)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(subtitle)}</p>
<nav>
<label>sort by <select id="order" autocomplete="off"><option value="category">category</option>
<option value="rank">rank of the first right image</option>
<option value="place">place in the annotations</option></select></label>
<label>show <select id="only" autocomplete="off"><option value="">every category</option>
{options}</select></label>
</nav>
<main>
{body}
</main>
<script>{_SCRIPT}</script>
</html>
"""


def _section(answer: Answer, place: int) -> str:
    ranks = [rank for rank, hit in enumerate(answer.hits, start=1) if hit.verdict == "right"]
    categories = json.dumps(answer.categories)
    cells = "\n".join(_cell(rank, hit) for rank, hit in enumerate(answer.hits, start=1))
    reference = f"<figure>{_image(answer.reference)}<figcaption>reference</figcaption></figure>"
    return (
        f'<section data-category="{html.escape(answer.categories[0])}" '
        f'data-categories="{html.escape(categories)}" '
        f'data-rank="{ranks[0] if ranks else _NO_RANK}" data-place="{place}">\n'
        f"<h2>{html.escape(answer.text)}</h2>\n"
        f"<ol>\n<li>{reference}</li>\n{cells}\n</ol>\n"
        f"<small>{html.escape(', '.join(answer.categories))}; query {html.escape(answer.id)}"
        "</small>\n</section>"
    )


def _cell(rank: int, hit: AnswerHit) -> str:
    mark = f"{_MARKS[hit.verdict]}<br>" if _MARKS[hit.verdict] else ""
    return (
        f'<li class="{hit.verdict}"><figure>{_image(hit.image)}<figcaption>{rank}. '
        f"{hit.score:.3f} {mark}{html.escape(hit.image.name)}</figcaption></figure></li>"
    )


def _image(image: BenchmarkImage) -> str:
    try:
        pixels = image.load()
    except ImageError:
        return image_tag(None, image.name)
    pixels.thumbnail((SIDE, SIDE))
    return image_tag(pixels, image.name)
