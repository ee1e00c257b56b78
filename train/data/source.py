"""What ``--data`` may name, and how each kind is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import has_magic, iglob
from pathlib import Path

from webdataset.shardlists import expand_urls

from train.data.folder import read_folder
from train.data.image import TrainingImage
from train.data.item import DataError
from train.data.report import ReadReport
from train.data.shards import read_shard_list
from train.data.table import read_table
from train.data.tabular import TABLE_SUFFIXES
from ztcir_sdk.names import is_tar

__all__ = ["expand", "read_sources"]


def expand(patterns: Sequence[str]) -> list[Path]:
    """The files and folders of paths, brace patterns (``{00000..00331}``) and ``*``, in order.

    Raises:
        DataError: a ``*`` that fits nothing.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for one in [pattern] if Path(pattern).exists() else expand_urls(pattern):
            if has_magic(one) and not Path(one).exists():
                found = sorted(iglob(one))  # noqa: PTH207  (an absolute pattern too)
                if not found:
                    raise DataError(f"Nothing fits {one}; check the path.")
                paths += map(Path, found)
            else:
                paths.append(Path(one))
    return paths


def read_sources(
    patterns: Sequence[str], *, columns: Mapping[str, str] | None = None
) -> tuple[list[TrainingImage], ReadReport]:
    """Read all images that some sources have, in order.

    Args:
        patterns: webdataset shards, folders, and CSV, TSV or Parquet files; each a path, a brace
            pattern or a pattern with ``*``.
        columns: field -> column of the tables; see `read_table`.

    Raises:
        DataError: a source is missing, or of no known kind.
    """
    report = ReadReport()
    images: list[TrainingImage] = []
    paths = expand(patterns)
    shards: list[Path] = []
    for path in [*paths, None]:
        if path is not None and is_tar(path.name) and not path.is_dir():
            shards.append(path)
            continue
        if shards:  # shards that follow each other are one data set
            images += read_shard_list(shards, report)
            shards = []
        if path is None:
            break
        if path.is_dir():
            images += read_folder(path, report)
        elif path.suffix.lower() in TABLE_SUFFIXES:
            images += read_table(path, report, columns or {})
        elif path.exists():
            raise DataError(
                f"{path} is neither a folder, nor a shard (.tar), nor a table "
                f"({', '.join(TABLE_SUFFIXES)})."
            )
        else:
            raise DataError(f"{path} does not exist; check --data.")
    return images, report
