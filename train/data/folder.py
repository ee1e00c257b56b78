"""A folder of pictures, with captions in files beside them where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train.data.image import FilePicture, TrainingImage, checked
from train.data.report import ReadReport
from train.data.shards import BROKEN, item_of
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import is_tar
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.sources import SourceFile, list_pictures

__all__ = ["read_folder"]


def read_folder(folder: Path, report: ReadReport) -> list[TrainingImage]:
    """List the pictures of a folder and its subfolders, ordered by path; archives are left out.

    An image is called by its path relative to the folder, with forward slashes. ``NAME.txt`` or
    ``caption`` of ``NAME.json`` beside ``NAME.jpg`` is its caption; `item_of` says which counts.

    Raises:
        ZtcirError: the folder cannot be listed.
    """
    listing = list_pictures(folder)
    for name, why in listing.failed:
        report.skip(name, why)
    files = [file for file in listing.files if file.offset is None]
    if not files and any(is_tar(path.name) for path in folder.iterdir()):
        report.notes.append(
            f"{folder} holds shards, which are not read as part of a folder; name them themselves, "
            f"as '{folder}/*.tar'."
        )
    images: list[TrainingImage] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for file, found in zip(files, pool.map(_read, files), strict=True):
            if isinstance(found, Exception):
                report.skip(file.path, found)
            else:
                images.append(found)
    report.read += len(images)
    return images


def _read(file: SourceFile) -> TrainingImage | Exception:
    picture = FilePicture(file.path, str(file.file))
    try:
        picture = checked(picture)
        texts = dict(_sidecars(file.file))
        return TrainingImage(item_of(file.path, texts), picture)
    except (*BROKEN, OSError, ZtcirError) as error:
        return error


def _sidecars(picture: Path) -> Iterator[tuple[str, bytes]]:
    for suffix in ("txt", "json"):
        beside = picture.with_suffix(f".{suffix}")
        if beside.is_file():
            yield suffix, beside.read_bytes()
