"""Images that a CSV or Parquet file lists: one image per row, or a pair of images per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from train.data.csv_parquet import Table, check_fields, choose_columns, open_table
from train.data.image import FilePicture, Picture, TablePicture, TrainingImage, checked
from train.data.item import DataError, Item
from train.data.report import ReadReport
from ztcir_sdk.errors import ImageError
from ztcir_sdk.runtime.cores import available_cores

_FIELDS = ("id", "path", "caption", "gender", "type", "colour", "pattern")
_PAIR_FIELDS = ("reference", "target")
_CHUNK = 512  # rows that threads decode at a time


def read_table(path: Path, report: ReadReport, columns: Mapping[str, str]) -> list[TrainingImage]:
    """List the images of a CSV, TSV or Parquet file, in order.

    A Parquet column may hold the encoded images, or structs whose ``path`` names those without
    ``bytes``. An image's id is its ``id`` column, else its path as written, else ``FILE/ROW``. A
    file with images in the columns of a reference and a target gives both images of each row; see
    `pair_id`.

    Args:
        path: the file.
        report: receives the rows whose image is missing or broken.
        columns: field -> column, for columns without a usual name. ``root`` is not a column but the
            folder that paths are relative to; by default it is the file's own folder.

    Raises:
        DataError: the file is missing or damaged.
        UsageError: a column is missing.
    """
    check_fields(columns, (*_FIELDS, "root", *_PAIR_FIELDS), "an image")
    table = open_table(path)
    pairs = pair_picture_columns(table, columns)
    listed = _pairs(table, pairs) if pairs else _images(table, columns)
    images: list[TrainingImage] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        while chunk := list(islice(listed, _CHUNK)):
            for image, found in zip(chunk, pool.map(_checked, chunk), strict=True):
                if isinstance(found, ImageError):
                    report.skip(image.item.id, found)
                else:
                    images.append(found)
    images = _without_repeats(images, report)
    report.read += len(images)
    if not images:
        raise DataError(f"No row of {path} has a usable image.")
    return images


def _checked(image: TrainingImage) -> TrainingImage | ImageError:
    assert isinstance(image.load, Picture)
    try:
        return replace(image, load=checked(image.load))
    except ImageError as error:
        return error


def _without_repeats(images: list[TrainingImage], report: ReadReport) -> list[TrainingImage]:
    """Keep the first row of each image: some tables have one row per caption."""
    first: dict[tuple[str, int], TrainingImage] = {}
    for image in images:
        first.setdefault((image.item.id, image.checksum), image)
    if repeats := len(images) - len(first):
        report.notes.append(
            f"{repeats} of {len(images)} rows repeat an image of an earlier row; only the first "
            "caption of an image is used."
        )
    return list(first.values())


def _images(table: Table, named: Mapping[str, str]) -> Iterator[TrainingImage]:
    root = Path(named.get("root") or table.path.parent)
    chosen = choose_columns(table, _FIELDS, named, needed=("path",))
    embedded = chosen["path"] in table.pictures
    wanted = [column for field, column in chosen.items() if not (embedded and field == "path")]
    for row in table.rows(list(dict.fromkeys(wanted)) or [table.columns[0]]):
        written = "" if embedded else row.line(chosen, "path")
        name = row.line(chosen, "id") or written or f"{table.path.stem}/{row.number}"
        picture: Picture
        if embedded:
            column = chosen["path"]
            picture = TablePicture(name, str(table.path), column, row.group, row.place, str(root))
        else:
            picture = FilePicture(name, str(root / written))
        yield TrainingImage(row.item(chosen, name), picture)


def pair_picture_columns(table: Table, named: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of the reference's and the target's image; empty if they hold no images.

    Args:
        table: the file.
        named: ``reference`` and ``target`` -> column, for columns without a usual name.
    """
    chosen = choose_columns(table, _PAIR_FIELDS, named, needed=())
    return chosen if len({*chosen.values()} & table.pictures) == 2 else {}


def pair_id(path: Path, row: int, role: str) -> str:
    """Return the id of a row's reference or target: ``FILE/ROW/reference``."""
    return f"{path.stem}/{row}/{role}"


def _pairs(table: Table, chosen: Mapping[str, str]) -> Iterator[TrainingImage]:
    other = next((name for name in table.columns if name not in table.pictures), None)
    for row in table.rows([other or table.columns[0]]):
        for role, column in chosen.items():
            name = pair_id(table.path, row.number, role)
            item = Item(id=name, gender="", type="", colour="", pattern=None, caption="")
            place = (str(table.path), column, row.group, row.place, str(table.path.parent))
            yield TrainingImage(item, TablePicture(name, *place))
