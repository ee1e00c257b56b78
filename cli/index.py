"""`ztcir index`: build an index of images, or update it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.options import Command, Engine, as_json, output_option, with_engine
from cli.output import emit_json, note, progress_bar
from ztcir_sdk.path_patterns import expand_paths

__all__ = ["index"]


@click.command(cls=Command)
@click.argument("source", nargs=-1, required=True)
@output_option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="NAME.ztcir",
    help="Index to write; default: named after SOURCE, in the current folder.",
)
@with_engine
@as_json
def index(
    source: tuple[str, ...],
    output: Path | None,
    engine: Engine,
    as_json: bool,
) -> None:
    """Index the images of SOURCE: folders, tar archives or image files.

    Re-run at any time: only new and changed files are processed, and an interrupted run resumes.
    Files that cannot be used are listed at the end.

    \b
    Examples:
      ztcir index photos/
      ztcir index photos/ -o catalogue.ztcir
      ztcir index "shards/val-{0000..0001}.tar" --json
    """
    paths = expand_paths(source)
    target = _default_index(paths) if output is None else output
    retriever = engine.retriever()
    with progress_bar("Indexing") as progress:
        report = retriever.index(
            paths if len(paths) > 1 else paths[0], to=target, progress=progress
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
        )
        if count or name in ("added", "unchanged")
    )
    pace = f" ({speed:.0f} images/s)" if speed else ""
    click.echo(f"{target}: {report.total} images; {counts}; {report.seconds:.1f} s{pace}")
    for _, sentence in report.failed:
        note(f"failed: {sentence}")


def _default_index(paths: list[Path]) -> Path:
    """Return an index named after the source, or after the folder that holds all sources."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  (links stay)
    if len(absolute) > 1:
        common = Path(os.path.commonpath([path.parent for path in absolute]))
        return Path(f"{common.name or 'pictures'}.ztcir")
    only = absolute[0]
    name = only.name if only.is_dir() else only.name.split(".")[0]
    return Path(f"{name or 'pictures'}.ztcir")
