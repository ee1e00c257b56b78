"""A CSV or Parquet file of pictures and captions, a row each; or of pairs, two pictures a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from train.data.image import FilePicture, Picture, TablePicture, TrainingImage, checked
from train.data.item import DataError, Item, is_known
from train.data.report import ReadReport
from train.data.tabular import Row, Table, choose_columns, open_table
from ztcir_sdk.errors import ImageError, UsageError
from ztcir_sdk.names import UNKNOWN_VALUE
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["IMAGE_FIELDS", "pair_name", "pair_picture_columns", "read_table"]

IMAGE_FIELDS = ("id", "path", "caption", "gender", "type", "colour", "pattern", "root")
"""What a row can say of an image; ``root`` is no column but the folder of relative paths."""

_CHUNK = 512


def read_table(path: Path, report: ReadReport, columns: Mapping[str, str]) -> list[TrainingImage]:
    """List the images of a CSV, TSV or Parquet file, in its order.

    Paths are relative to ``root``, or to the file's own folder; a Parquet column may hold the
    pictures themselves, or structs whose ``path`` says where those without ``bytes`` lie. An image
    is called by its ``id``, or else by its path as it is written, or by its row. A file of pairs,
    with pictures in the columns of a reference and a target, gives both images of each row, called
    as `pair_name` says.

    Args:
        path: the file.
        report: takes rows whose picture is missing or broken.
        columns: field of `IMAGE_FIELDS` -> column, where it has no usual name.

    Raises:
        DataError: the file is missing or damaged.
        UsageError: the columns are not there.
    """
    strange = columns.keys() - {*IMAGE_FIELDS, "reference", "target"}
    if strange:
        raise UsageError(
            f"There is no image field {min(strange)!r}; columns can be given for "
            f"{', '.join(IMAGE_FIELDS)}."
        )
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
    images = _once(images, report)
    report.read += len(images)
    if not images:
        raise DataError(f"No row of {path} has a picture that can be used.")
    return images


def _checked(image: TrainingImage) -> TrainingImage | ImageError:
    picture = image.load
    assert isinstance(picture, FilePicture | TablePicture)
    try:
        return replace(image, load=checked(picture))
    except ImageError as error:
        return error


def _once(images: list[TrainingImage], report: ReadReport) -> list[TrainingImage]:
    """Each picture once: tables of several captions a picture have a row for each of them."""
    seen: dict[tuple[str, int], TrainingImage] = {}
    for image in images:
        seen.setdefault((image.item.id, image.checksum), image)
    if more := len(images) - len(seen):
        report.notes.append(
            f"{more} of {len(images)} rows show a picture that an earlier row shows under the same "
            "name; of its captions the first one is used."
        )
    return list(seen.values())


def _images(table: Table, named: Mapping[str, str]) -> Iterator[TrainingImage]:
    root = Path(named["root"]) if named.get("root") else table.path.parent
    named = {field: column for field, column in named.items() if field != "root"}
    chosen = choose_columns(table, IMAGE_FIELDS[:-1], named, needed=("path",))
    cells = chosen["path"] in table.pictures
    wanted = [column for field, column in chosen.items() if not (cells and field == "path")]
    for row in table.rows(list(dict.fromkeys(wanted)) or [table.columns[0]]):
        written = "" if cells else _text(row, chosen, "path")
        name = _text(row, chosen, "id") or written or f"{table.path.stem}/{row.number}"
        picture: Picture
        if cells:
            column = chosen["path"]
            picture = TablePicture(name, str(table.path), column, row.group, row.place, str(root))
        else:
            picture = FilePicture(name, str(root / written))
        yield TrainingImage(_item(row, chosen, name), picture)


def _item(row: Row, chosen: Mapping[str, str], name: str) -> Item:
    def attribute(field: str) -> str:
        if field not in chosen:
            return ""
        value = _text(row, chosen, field)
        return value if is_known(value) else UNKNOWN_VALUE

    return Item(
        id=name,
        gender=attribute("gender"),
        type=attribute("type"),
        colour=attribute("colour"),
        pattern=attribute("pattern") or None,
        caption=_text(row, chosen, "caption"),
    )


def _text(row: Row, chosen: Mapping[str, str], field: str) -> str:
    return " ".join(row.text(chosen[field], field).split()) if field in chosen else ""


def pair_picture_columns(table: Table, named: Mapping[str, str]) -> dict[str, str]:
    """The columns of a reference's and a target's picture, where both hold pictures; else none."""
    named = {field: named[field] for field in ("reference", "target") if field in named}
    chosen = choose_columns(table, ("reference", "target"), named, needed=())
    return chosen if len({*chosen.values()} & table.pictures) == 2 else {}


def pair_name(path: Path, row: int, which: str) -> str:
    """What the reference or the target of a file of pairs is called: ``FILE/ROW/reference``."""
    return f"{path.stem}/{row}/{which}"


def _pairs(table: Table, chosen: Mapping[str, str]) -> Iterator[TrainingImage]:
    other = next((name for name in table.columns if name not in table.pictures), None)
    for row in table.rows([other or table.columns[0]]):
        for which, column in chosen.items():
            name = pair_name(table.path, row.number, which)
            item = Item(id=name, gender="", type="", colour="", pattern=None, caption="")
            place = (str(table.path), column, row.group, row.place, str(table.path.parent))
            yield TrainingImage(item, TablePicture(name, *place))
