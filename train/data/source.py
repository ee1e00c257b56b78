"""What ``--data`` may name, and how each kind of source is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from train.data.folder import read_folder
from train.data.image import TrainingImage
from train.data.item import DataError
from train.data.report import ReadReport
from train.data.shards import read_shard_list
from train.data.table import read_table
from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import TABLE_SUFFIXES, is_tar
from ztcir_sdk.path_patterns import expand_paths


def expand_sources(patterns: Sequence[str]) -> list[Path]:
    """Return the files and folders that patterns name, in order; see `expand_paths`.

    A path that is named twice is returned twice.

    Raises:
        DataError: wildcards match nothing.
    """
    try:
        return [path for pattern in patterns for path in expand_paths([pattern])]
    except UsageError as error:
        raise DataError(str(error)) from error


def read_sources(
    patterns: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    cache: Path | None = None,
) -> tuple[list[TrainingImage], ReadReport]:
    """List all images of some sources, in order.

    Args:
        patterns: webdataset shards, folders, and CSV, TSV or Parquet files; each is a path, a brace
            pattern or a pattern with ``*``.
        columns: field -> column of the tables; see `read_table`.
        cache: folder of lists of shards; see `read_shard_list`.

    Raises:
        DataError: a source is missing, or its kind is unknown.
    """
    report = ReadReport()
    images: list[TrainingImage] = []
    shards: list[Path] = []
    for path in [*expand_sources(patterns), None]:
        if path is not None and is_tar(path.name) and not path.is_dir():
            shards.append(path)
            continue
        if shards:  # consecutive shards are one data set
            images += read_shard_list(shards, report, cache)
            shards = []
        if path is None:
            break
        if path.is_dir():
            images += read_folder(path, report)
        elif path.suffix.lower() in TABLE_SUFFIXES:
            images += read_table(path, report, columns or {})
        elif path.exists():
            raise DataError(
                f"{path} is not a folder, a shard (.tar) or a table ({', '.join(TABLE_SUFFIXES)})."
            )
        else:
            raise DataError(f"{path} does not exist; check --data.")
    return images, report
