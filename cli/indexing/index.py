"""`ztcir index`: build an index of images, or update it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cli.indexing.care import Care, care_options, split_index
from cli.indexing.options import with_collection
from cli.options import (
    Command,
    Engine,
    IndexName,
    as_json,
    output_option,
    pass_as,
    with_engine,
)
from cli.output import absolute_name, emit_json, note, print_line, progress_bar
from ztcir_sdk.names import INDEX_SUFFIX, STORAGES
from ztcir_sdk.path_patterns import expand_paths

__all__ = ["index"]


@click.command(cls=Command)
@click.argument("source", nargs=-1)
@output_option(
    "--to",
    type=IndexName(),
    metavar="NAME.ztcir",
    help="Index to write, or milvus://host:port/collection; default: named after SOURCE, in the "
    "current folder.",
)
@with_collection
@click.option(
    "--storage",
    type=click.Choice(STORAGES),
    help="How vectors are stored: f32 keeps every bit (the default at first); f16 and i8 take half "
    "the space, and i8 is searched fastest. An existing index is converted.",
)
@click.option(
    "--add", is_flag=True, help="Add SOURCE to an index of other folders, which stay in it."
)
@click.option(
    "--root",
    metavar="[OLD=]NEW",
    help="The collection was moved: its root is NEW now; or one of its folders, OLD. Nothing is "
    "encoded again. With Parquet files: where the images are here.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Remove missing images even if they are more than half of the index.",
)
@pass_as(lambda **values: {"care": Care(**values)}, *care_options)
@with_engine
@as_json
def index(
    source: tuple[str, ...],
    output: Path | str | None,
    storage: str | None,
    add: bool,
    root: str | None,
    prune: bool,
    engine: Engine,
    as_json: bool,
    collection: dict[str, Any],
    care: Care,
) -> None:
    """Index the images of SOURCE: folders, tar archives or image files.

    SOURCE may also be Parquet files of `ztcir embed` or --export, which are not encoded again. With
    an option such as --info or --remove it is an index; default: as for `ztcir search`.

    Re-run at any time: only new and changed files are processed, and an interrupted run resumes.
    Files that cannot be used are listed at the end, and those that are no images are counted.
    The index remembers what is excluded and included, and the table of metadata.

    \b
    Examples:
      ztcir index photos/
      ztcir index photos/ -o catalogue.ztcir
      ztcir index photos/ --exclude drafts --exclude "*.png"
      ztcir index scans/ --to photos.ztcir --add
      ztcir index --root moved/photos/ --to photos.ztcir
      ztcir index "shards/val-{0000..0001}.tar" --json
      ztcir index photos.ztcir --info
      ztcir index photos.ztcir --fields
      ztcir index photos.ztcir --remove photos/3.jpg
      ztcir index photos.ztcir --export vectors.parquet
    """
    from ztcir_sdk.gallery.report import excluded_sentence, skipped_sentence
    from ztcir_sdk.gallery.vector_files import find_vector_files
    from ztcir_sdk.index.default import default_index_path

    care.check()
    named, others = split_index(source)
    if care.wanted:
        care.run(named or output or default_index_path(), others, prune=prune, as_json=as_json)
        return
    if named is not None:
        raise click.UsageError(
            f"{named} is an index: name what to index and pass the index with --to, or add an "
            "option such as --info or --remove."
        )
    if not source and root is None:
        raise click.UsageError("Missing argument 'SOURCE...': name folders, archives or images.")
    paths = expand_paths(source)
    target = _target(paths, output)
    vectors = bool(paths and find_vector_files(paths))
    if root is not None and not vectors:
        _relocate(target, root, prune=prune, as_json=as_json and not source)
        if not source:
            return
    retriever = engine.retriever()
    with progress_bar("Indexing") as progress:
        report = retriever.index(
            paths if len(paths) > 1 else paths[0],
            to=target,
            progress=progress,
            storage=storage,
            add=add,
            prune=prune,
            root=root if vectors else None,
            **collection,
        )
    encoded = report.added + report.updated
    speed = encoded / report.seconds if encoded else None
    if as_json:
        emit_json({"index": absolute_name(target), **report.to_dict(), "images_per_second": speed})
        return
    counts = ", ".join(
        f"{count} {name}"
        for name, count in (
            ("added", report.added),
            ("updated", report.updated),
            ("renamed", report.renamed),
            ("removed", report.removed),
            ("unchanged", report.unchanged),
            ("failed", len(report.failed)),
            ("without their metadata", len(report.ignored_metadata)),
        )
        if count or name in ("added", "unchanged")
    )
    pace = f" ({speed:.0f} images/s)" if speed else ""
    print_line(f"{target}: {report.total} images; {counts}; {report.seconds:.1f} s{pace}")
    for _, sentence in report.failed:
        note(f"failed: {sentence}")
    for _, sentence in report.ignored_metadata:
        note(f"ignored: {sentence}")
    if report.excluded:
        note(excluded_sentence(report.excluded))
    if report.skipped:
        note(skipped_sentence(report.skipped))
    for sentence in report.notes:
        note(sentence)


def _target(paths: list[Path], output: Path | str | None) -> Path | str:
    """Return the index that is named, else the one of the paths, else the only one here."""
    from ztcir_sdk.index.default import default_index_path

    if output is not None:
        return output
    return _default_index(paths) if paths else default_index_path()


def _relocate(target: Path | str, root: str, *, prune: bool, as_json: bool) -> None:
    from ztcir_sdk.gallery import move_folder, parse_move, relocate_index

    old, new = parse_move(root)
    if old is None:
        found, total = relocate_index(target, new, prune=prune)
        what = "the root"
    else:
        found, total = move_folder(target, old, new, prune=prune)
        what = old
    if as_json:
        values = {"index": absolute_name(target), "root": str(Path(new).absolute())}
        moved = {} if old is None else {"moved": old}
        emit_json({**values, **moved, "found": found, "total": total})
    else:
        note(f"{target}: {what} is {new} now; {found} of {total} images are there")


def _default_index(paths: list[Path]) -> Path:
    """Return an index named after the source, or after the folder that holds all sources."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  (links stay)
    if len(absolute) > 1:
        common = Path(os.path.commonpath([path.parent for path in absolute]))
        return Path(f"{common.name or 'pictures'}{INDEX_SUFFIX}")
    only = absolute[0]
    name = only.name if only.is_dir() else only.name.split(".")[0]
    return Path(f"{name or 'pictures'}{INDEX_SUFFIX}")
