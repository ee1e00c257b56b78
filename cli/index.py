"""`ztcir index`: build an index of images, or update it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.options import Command, Engine, as_json, output_option, with_engine
from cli.output import emit_json, note, print_line, progress_bar
from ztcir_sdk.names import STORAGES
from ztcir_sdk.path_patterns import expand_paths

__all__ = ["index"]


@click.command(cls=Command)
@click.argument("source", nargs=-1)
@output_option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="NAME.ztcir",
    help="Index to write; default: named after SOURCE, in the current folder.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave out files and folders of this name, or, with a slash, at this path from the "
    "collection's root, as in .gitignore. Repeatable; '' clears the list.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="GLOB",
    help="Index only what matches. Repeatable; '' clears the list.",
)
@click.option(
    "--default-excludes/--no-default-excludes",
    default=None,
    help="Leave out hidden names, recycle bins, and folders of thumbnails such as @eaDir (the "
    "default).",
)
@click.option(
    "--video-every",
    type=float,
    metavar="SECONDS",
    help="Also index a frame of each video every so many seconds; 0: none (the default).",
)
@click.option(
    "--metadata",
    metavar="TABLE",
    help="CSV, TSV or Parquet file with a row for each image, named in a column such as path, "
    "filename or id; '' for none.",
)
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
    "encoded again.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Remove missing images even if they are more than half of the index.",
)
@with_engine
@as_json
def index(
    source: tuple[str, ...],
    output: Path | None,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    default_excludes: bool | None,
    video_every: float | None,
    metadata: str | None,
    storage: str | None,
    add: bool,
    root: str | None,
    prune: bool,
    engine: Engine,
    as_json: bool,
) -> None:
    """Index the images of SOURCE: folders, tar archives or image files.

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
      ztcir index --root scans=/mnt/scans --to photos.ztcir
      ztcir index "shards/val-{0000..0001}.tar" --json
    """
    from ztcir_sdk.gallery.report import excluded_sentence, skipped_sentence

    if not source and root is None:
        raise click.UsageError("Missing argument 'SOURCE...': name folders, archives or images.")
    paths = expand_paths(source)
    target = _target(paths, output)
    if root is not None:
        _relocate(target, root, prune=prune, as_json=as_json and not source)
        if not source:
            return
    retriever = engine.retriever()
    with progress_bar("Indexing") as progress:
        report = retriever.index(
            paths if len(paths) > 1 else paths[0],
            to=target,
            progress=progress,
            exclude=exclude or None,
            include=include or None,
            default_excludes=default_excludes,
            video_every=video_every,
            metadata=metadata,
            storage=storage,
            add=add,
            prune=prune,
        )
    encoded = report.added + report.updated
    speed = encoded / report.seconds if encoded else None
    if as_json:
        emit_json({"index": str(target.absolute()), **report.to_dict(), "images_per_second": speed})
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


def _target(paths: list[Path], output: Path | None) -> Path:
    """Return the index that is named, else the one of the paths, else the only one here."""
    from ztcir_sdk.index.default import default_index_path

    if output is not None:
        return output
    return _default_index(paths) if paths else default_index_path()


def _relocate(target: Path, root: str, *, prune: bool, as_json: bool) -> None:
    from ztcir_sdk.gallery import move_folder, parse_move, relocate_index

    old, new = parse_move(root)
    if old is None:
        found, total = relocate_index(target, new, prune=prune)
        what = "the root"
    else:
        found, total = move_folder(target, old, new, prune=prune)
        what = old
    if as_json:
        values = {"index": str(target.absolute()), "root": str(Path(new).absolute())}
        moved = {} if old is None else {"moved": old}
        emit_json({**values, **moved, "found": found, "total": total})
    else:
        note(f"{target}: {what} is {new} now; {found} of {total} images are there")


def _default_index(paths: list[Path]) -> Path:
    """Return an index named after the source, or after the folder that holds all sources."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  (links stay)
    if len(absolute) > 1:
        common = Path(os.path.commonpath([path.parent for path in absolute]))
        return Path(f"{common.name or 'pictures'}.ztcir")
    only = absolute[0]
    name = only.name if only.is_dir() else only.name.split(".")[0]
    return Path(f"{name or 'pictures'}.ztcir")
