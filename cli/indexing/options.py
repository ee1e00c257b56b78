"""Options of `ztcir index` and `ztcir embed`: what of a collection is taken."""

from __future__ import annotations

from typing import Any

import click

from cli.options import pass_as

__all__ = ["with_collection"]


def _collection(**values: Any) -> dict[str, Any]:
    """Keywords of `Retriever.index`; None where a repeatable option is not given."""
    given = {name: None if value == () else value for name, value in values.items()}
    return {"collection": given}


with_collection = pass_as(
    _collection,
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave out files and folders of this name, or, with a slash, at this path from the "
        "collection's root, as in .gitignore. Repeatable; '' clears the list.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Index only what matches. Repeatable; '' clears the list.",
    ),
    click.option(
        "--default-excludes/--no-default-excludes",
        default=None,
        help="Leave out hidden names, recycle bins, and folders of thumbnails such as @eaDir (the "
        "default).",
    ),
    click.option(
        "--video-every",
        type=float,
        metavar="SECONDS",
        help="Also index a frame of each video every so many seconds; 0: none (the default).",
    ),
    click.option(
        "--metadata",
        metavar="TABLE",
        help="CSV, TSV or Parquet file with a row for each image, named in a column such as path, "
        "filename or id; '' for none.",
    ),
)
