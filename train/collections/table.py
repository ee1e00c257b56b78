"""A CSV or Parquet file of pictures and captions, a row each; or of pairs, two pictures a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from train.collections.image import (
    DataError,
    FilePicture,
    Picture,
    TablePicture,
    TrainingImage,
    checked,
)
from train.collections.report import ReadReport
from train.collections.tabular import Row, Table, choose_columns, open_table
from train.triplets import UNKNOWN, Item, is_known
from ztcir_sdk.errors import ImageError, UsageError
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
    except ValueError as error:  # a path with a NUL in it
        return ImageError(f"its path cannot be one ({error}).")


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


@dataclass(frozen=True, slots=True)
class _CellPicture(TablePicture):
    """A cell that may only say where its picture is, as `datasets` saves what is not embedded."""

    root: str = ""

    def read(self) -> bytes:
        """The encoded picture."""
        try:
            return TablePicture.read(self)
        except ImageError as error:
            try:
                path = _cell_paths(self.path, self.group, self.column).get(self.row)
            except (OSError, ValueError):
                path = None
            if not path:
                raise error from None
        return FilePicture(self.name, str(Path(self.root) / path)).read()


@lru_cache(maxsize=2)
def _cell_paths(path: str, group: int, column: str) -> Mapping[int, str]:
    """The paths that a row group's structs have beside their bytes, by row."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        rows = table.read_row_group(group, columns=[f"{column}.path"]).to_pylist()
    return {number: row[column]["path"] for number, row in enumerate(rows) if row.get(column)}


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
            place = (str(table.path), column, row.group, row.place)
            picture = _CellPicture(name, *place, root=str(root))
        else:
            picture = FilePicture(name, str(root / written))
        yield TrainingImage(_item(row, chosen, name), picture)


def _item(row: Row, chosen: Mapping[str, str], name: str) -> Item:
    def attribute(field: str) -> str:
        if field not in chosen:
            return ""
        value = _text(row, chosen, field)
        return value if is_known(value) else UNKNOWN

    return Item(
        id=name,
        gender=attribute("gender"),
        type=attribute("type"),
        colour=attribute("colour"),
        pattern=attribute("pattern") or None,
        caption=_text(row, chosen, "caption"),
    )


def _text(row: Row, chosen: Mapping[str, str], field: str) -> str:
    """A cell as text: of a list its first entry, of a whole number no fraction.

    Raises:
        UsageError: it holds neither text nor a number.
    """
    value = row.values.get(chosen[field]) if field in chosen else None
    if isinstance(value, list):
        value = next((entry for entry in value if entry is not None), None)
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, float):  # as whole numbers are where some cells are empty
        value = "" if value != value else int(value) if value.is_integer() else value
    if isinstance(value, list | dict):
        raise UsageError(
            f"The column {chosen[field]!r} holds no text for the {field}; name another one with "
            f"--columns {field}=COLUMN."
        )
    return "" if value is None else " ".join(str(value).split())


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
            place = (str(table.path), column, row.group, row.place)
            yield TrainingImage(item, _CellPicture(name, *place, root=str(table.path.parent)))
