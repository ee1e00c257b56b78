"""The demo: a drawn gallery, indexed and searched, whose right answers are known.

Drawings stand in for photos, so it needs no download, and it can check its own answers.
"""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ztcir_sdk.drawings.drawings import (
    DemoQuery,
    Drawing,
    demo_gallery,
    demo_queries,
    draw,
    showcase_queries,
)
from ztcir_sdk.errors import IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.files import write_whole
from ztcir_sdk.pages.contact_sheet import SheetCell, SheetRow, contact_sheet
from ztcir_sdk.retriever import Retriever

__all__ = ["CHECKED_QUERIES", "Demo", "DemoAnswer", "DemoHit", "file_names", "run_demo"]

CHECKED_QUERIES = 120
"""Each change of one attribute that the gallery allows, asked once."""
DEPTH = 10
SHEET = "contact-sheet.png"
FOLDER = "ztcir-demo"
_SOFTWARE = "ztcir demo"
"""Stands in our contact sheets, so that none but ours is ever replaced."""


@dataclass(frozen=True)
class DemoHit:
    """A drawing that was found."""

    path: str
    caption: str
    score: float
    rank: int
    right: bool
    """Whether it has the attribute that was asked for and keeps the others."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class DemoAnswer:
    """A query that is shown, with its first hits."""

    reference: str
    text: str
    kind: str
    hits: Sequence[DemoHit]

    @property
    def precision(self) -> float:
        """Fraction of the hits that are right."""
        return sum(hit.right for hit in self.hits) / max(1, len(self.hits))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "reference": self.reference,
            "text": self.text,
            "kind": self.kind,
            "precision_at_10": self.precision,
            "hits": [hit.to_dict() for hit in self.hits],
        }


@dataclass(frozen=True)
class Demo:
    """What the demo made and found."""

    answers: Sequence[DemoAnswer]
    queries: int
    """How many queries were checked."""
    precision_at_10: float
    """Mean fraction of right ones among the first ten hits; ten right ones exist each time."""
    per_kind: dict[str, float]
    contact_sheet: Path
    gallery: Path
    pictures: int
    index: Path

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "queries": [answer.to_dict() for answer in self.answers],
            "check": {
                "queries": self.queries,
                "precision_at_10": self.precision_at_10,
                "per_kind": self.per_kind,
            },
            "contact_sheet": str(self.contact_sheet),
            "gallery": str(self.gallery),
            "pictures": self.pictures,
            "index": str(self.index),
        }


def run_demo(
    retriever: Retriever,
    out: str | os.PathLike[str] = ".",
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Demo:
    """Draw a gallery, index it, ask it, check the answers, and make a contact sheet.

    In `out` come ``contact-sheet.png`` and ``ztcir-demo/``, with the drawings in ``photos/`` and
    their index ``photos.ztcir``. What an earlier demo made there is brought up to date.

    Args:
        retriever: the bundle that answers.
        out: a folder, made if it is not there.
        progress: called with what is being done, how much of it is done, and of how much.

    Raises:
        UsageError: something else than the demo's is where its files would go.
        ZtcirError: a file cannot be written.
    """

    def tell(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress(what, done, total)

    base = Path(out).absolute()
    photos, index, sheet = base / FOLDER / "photos", base / FOLDER / "photos.ztcir", base / SHEET
    gallery = demo_gallery()
    names = file_names(gallery)
    _require_ours(photos, names, sheet)
    try:
        photos.mkdir(parents=True, exist_ok=True)
        for place, (drawing, name) in enumerate(zip(gallery, names, strict=True), start=1):
            _write_if_new(photos / name, _jpeg(drawing))
            tell("Drawing", place, len(gallery))
    except OSError as error:
        raise ZtcirError(f"The demo cannot write to {photos}: {error.strerror}.") from error

    def indexing(done: int, total: int) -> None:
        tell("Indexing", done, total)

    try:
        retriever.index(photos, to=index, progress=indexing)
    except IndexMismatchError:  # the demo's own index of its own drawings, by another bundle
        shutil.rmtree(index)
        retriever.index(photos, to=index, progress=indexing)

    places = {name: place for place, name in enumerate(names)}

    def ask(query: DemoQuery) -> DemoAnswer:
        reference = str(photos / names[query.reference])
        hits = retriever.search(reference, query.text, k=DEPTH, index=index)
        found = [(hit, places[Path(hit.path).name]) for hit in hits]
        judged = [
            DemoHit(hit.path, gallery[at].caption, hit.score, hit.rank, at in query.targets)
            for hit, at in found
        ]
        return DemoAnswer(reference, query.text, query.kind, judged)

    answers = [ask(query) for query in showcase_queries(gallery)]
    checked: list[DemoAnswer] = []
    for query in demo_queries(gallery, CHECKED_QUERIES):
        checked.append(ask(query))
        tell("Checking", len(checked), CHECKED_QUERIES)
    precision = _mean(checked)
    title = (
        f"A picture and a wish: {precision * DEPTH:.1f} of the first {DEPTH} hits are right, "
        f"over {len(checked)} queries about {len(gallery)} drawings"
    )
    _write_sheet(sheet, answers, title)
    kinds = Counter(answer.kind for answer in checked)
    return Demo(
        answers=answers,
        queries=len(checked),
        precision_at_10=precision,
        per_kind={kind: _mean([a for a in checked if a.kind == kind]) for kind in kinds},
        contact_sheet=sheet,
        gallery=photos,
        pictures=len(gallery),
        index=index,
    )


def file_names(gallery: Sequence[Drawing]) -> list[str]:
    """Name each drawing after what it shows: ``red-striped-dress-03.jpg``."""
    counts: Counter[str] = Counter()
    names: list[str] = []
    for drawing in gallery:
        words = drawing.caption.replace(" ", "-")
        counts[words] += 1
        names.append(f"{words}-{counts[words]:02}.jpg")
    return names


def _mean(answers: Sequence[DemoAnswer]) -> float:
    return sum(answer.precision for answer in answers) / len(answers)


def _require_ours(photos: Path, names: Sequence[str], sheet: Path) -> None:
    """Refuse to mix the demo's files with anybody's own, or to overwrite them."""
    if photos.is_dir():
        strange = sorted({path.name for path in photos.iterdir()} - set(names))
        if strange:
            raise UsageError(
                f"{photos} holds {strange[0]}, which is not the demo's; name another folder "
                "with --out."
            )
    if sheet.exists():
        try:
            with Image.open(sheet) as image:
                ours = image.info.get("Software") == _SOFTWARE
        except (OSError, ValueError, SyntaxError):  # no picture that Pillow knows
            ours = False
        if not ours:
            raise UsageError(
                f"{sheet} is there and was not made by the demo; name another folder with --out."
            )


def _jpeg(drawing: Drawing) -> bytes:
    stream = io.BytesIO()
    draw(drawing).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _write_if_new(path: Path, data: bytes) -> None:
    """Write a file unless it is the same already, so that a second demo need not index again."""
    try:
        same = path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        same = False
    if not same:
        write_whole(path, data)


def _write_sheet(path: Path, answers: Sequence[DemoAnswer], title: str) -> None:
    rows = [
        SheetRow(
            answer.reference,
            answer.text,
            [
                SheetCell(hit.path, f"{hit.caption}\n{hit.score:.2f}", hit.right)
                for hit in answer.hits
            ],
        )
        for answer in answers
    ]
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", _SOFTWARE)
    stream = io.BytesIO()
    contact_sheet(rows, title=title, per_line=DEPTH).save(stream, "PNG", pnginfo=text)
    try:
        write_whole(path, stream.getvalue())
    except OSError as error:
        raise ZtcirError(
            f"The contact sheet {path} cannot be written: {error.strerror}."
        ) from error
