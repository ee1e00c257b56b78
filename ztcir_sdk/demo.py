"""The demo: a drawn gallery, indexed and searched, and its hits checked.

Drawings replace photos, so nothing is downloaded, and the right hits are known.
"""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ztcir_sdk.drawings.drawings import (
    DemoQuery,
    Drawing,
    demo_gallery,
    demo_queries,
    drawn_jpeg,
    showcase_queries,
)
from ztcir_sdk.errors import IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.files import write_whole
from ztcir_sdk.pages.contact_sheet import SheetCell, SheetRow, contact_sheet
from ztcir_sdk.retriever import Retriever

__all__ = ["CHECKED_QUERIES", "Demo", "DemoAnswer", "DemoHit", "file_names", "run_demo"]

CHECKED_QUERIES = 120
"""One for each change of one attribute that the gallery allows."""
DEPTH = 10
SHEET = "contact-sheet.png"
FOLDER = "ztcir-demo"
_SOFTWARE = "ztcir demo"
"""Written into the demo's contact sheets, so that no other file is ever replaced."""


@dataclass(frozen=True)
class DemoHit:
    """A drawing that was found."""

    path: str
    caption: str
    score: float
    rank: int
    right: bool
    """Whether it has the new attribute and keeps the others."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class DemoAnswer:
    """A query with its first hits."""

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
    """The files and results of a demo."""

    answers: Sequence[DemoAnswer]
    queries: int
    """How many queries were checked."""
    precision_at_10: float
    """Mean fraction of right images among the first ten hits; each query has ten targets."""
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
    """Draw a gallery, index it, search it, check the hits, and write a contact sheet.

    Writes ``contact-sheet.png`` and ``ztcir-demo/`` with the drawings in ``photos/`` and their
    index ``photos.ztcir``. The files of an earlier demo are updated.

    Args:
        retriever: the retriever to index and search with.
        out: the folder to write to, created if necessary.
        progress: called with a title, the number of steps done, and of all.

    Raises:
        UsageError: `out` has other files where the demo's would go.
        ZtcirError: a file cannot be written.
    """
    progress = progress or (lambda what, done, total: None)
    base = Path(out).absolute()
    photos, index, sheet = base / FOLDER / "photos", base / FOLDER / "photos.ztcir", base / SHEET
    gallery = demo_gallery()
    names = file_names(gallery)
    _refuse_other_files(photos, names, sheet)
    _write_gallery(photos, gallery, names, partial(progress, "Drawing"))
    try:
        retriever.index(photos, to=index, progress=partial(progress, "Indexing"))
    except IndexMismatchError:  # the index of an earlier demo with another bundle
        shutil.rmtree(index)
        retriever.index(photos, to=index, progress=partial(progress, "Indexing"))
    search = partial(_search, retriever, index, photos, dict(zip(names, gallery, strict=True)))
    answers = [search(query) for query in showcase_queries(gallery)]
    checked: list[DemoAnswer] = []
    for query in demo_queries(gallery, CHECKED_QUERIES):
        checked.append(search(query))
        progress("Checking", len(checked), CHECKED_QUERIES)
    precision = _mean(checked)
    title = (
        f"An image and a text: {precision * DEPTH:.1f} of the first {DEPTH} hits are right, "
        f"in {len(checked)} queries over {len(gallery)} drawings"
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


def _write_gallery(
    folder: Path,
    gallery: Sequence[Drawing],
    names: Sequence[str],
    progress: Callable[[int, int], None],
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (drawing, name) in enumerate(zip(gallery, names, strict=True), start=1):
            _write_if_new(folder / name, drawn_jpeg(drawing))
            progress(number, len(gallery))
    except OSError as error:
        raise ZtcirError(
            f"{folder} cannot be written ({error.strerror}): choose another folder with --output."
        ) from error


def _search(
    retriever: Retriever,
    index: Path,
    photos: Path,
    gallery: Mapping[str, Drawing],
    query: DemoQuery,
) -> DemoAnswer:
    """Answer a query about the gallery, whose drawings have their file names as keys."""
    names = list(gallery)
    targets = {names[target] for target in query.targets}
    reference = str(photos / names[query.reference])
    hits = [
        DemoHit(hit.path, gallery[name].caption, hit.score, hit.rank, name in targets)
        for hit in retriever.search(reference, query.text, k=DEPTH, index=index)
        for name in [Path(hit.path).name]
    ]
    return DemoAnswer(reference, query.text, query.kind, hits)


def file_names(gallery: Sequence[Drawing]) -> list[str]:
    """Return a name for each drawing, such as ``red-striped-dress-03.jpg``."""
    counts: Counter[str] = Counter()
    names: list[str] = []
    for drawing in gallery:
        words = drawing.caption.replace(" ", "-")
        counts[words] += 1
        names.append(f"{words}-{counts[words]:02}.jpg")
    return names


def _mean(answers: Sequence[DemoAnswer]) -> float:
    return sum(answer.precision for answer in answers) / len(answers)


def _refuse_other_files(photos: Path, names: Sequence[str], sheet: Path) -> None:
    """Refuse to mix the demo's files with others, or to overwrite others."""
    if photos.is_dir():
        others = sorted({path.name for path in photos.iterdir()} - set(names))
        if others:
            raise UsageError(
                f"{photos} contains {others[0]}, which is not a file of the demo: choose another "
                "folder with --output."
            )
    if sheet.exists():
        try:
            with Image.open(sheet) as image:
                ours = image.info.get("Software") == _SOFTWARE
        except (OSError, ValueError, SyntaxError):  # not an image that Pillow knows
            ours = False
        if not ours:
            raise UsageError(
                f"{sheet} exists and is not a file of the demo: choose another folder with "
                "--output."
            )


def _write_if_new(path: Path, data: bytes) -> None:
    """Write a file unless it has this content, so that a second demo does not index it again."""
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
            f"The contact sheet {path} cannot be written ({error.strerror}): choose another folder "
            "with --output."
        ) from error
