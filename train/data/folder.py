"""A folder of images, with captions in files beside them if there are any."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train.data.image import FilePicture, TrainingImage, checked
from train.data.report import ReadReport
from train.data.shards import SAMPLE_ERRORS, TEXT_EXTENSIONS, parse_item
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import is_tar
from ztcir_sdk.runtime.cores import available_cores
from ztcir_sdk.sources import SourceFile, list_images
from ztcir_sdk.sources.metadata import MAX_METADATA_BYTES


def read_folder(folder: Path, report: ReadReport) -> list[TrainingImage]:
    """List the images of a folder and its subfolders, ordered by path; archives are left out.

    An image's id is its path relative to the folder, with forward slashes. Its caption is
    ``NAME.txt``, or ``caption`` of ``NAME.json``, beside ``NAME.jpg``; see `parse_item`.

    Args:
        folder: the folder.
        report: receives the files that cannot be used.

    Raises:
        ZtcirError: the folder cannot be listed.
    """
    listing = list_images(folder)
    for name, why in listing.failed:
        report.skip(name, why)
    if listing.formats:
        report.notes += listing.fixes
    files = [file for file in listing.files if file.offset is None]
    if not files and any(is_tar(path.name) for path in folder.iterdir()):
        report.notes.append(
            f"{folder} contains shards, which are not read as part of a folder; name the shards, "
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
    try:
        picture = checked(FilePicture(file.path, str(file.file)))
        return TrainingImage(parse_item(file.path, dict(_texts_beside(file.file))), picture)
    except (*SAMPLE_ERRORS, OSError, ZtcirError) as error:
        return error


def _texts_beside(picture: Path) -> Iterator[tuple[str, bytes]]:
    for extension in TEXT_EXTENSIONS:
        beside = picture.with_suffix(f".{extension}")
        if beside.is_file():
            with beside.open("rb") as stream:
                yield extension, stream.read(MAX_METADATA_BYTES + 1)
