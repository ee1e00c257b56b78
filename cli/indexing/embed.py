"""`ztcir embed`: encode a part of a collection to Parquet files, one of many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.indexing.options import with_collection
from cli.options import Command, Engine, as_json, output_option, with_engine
from cli.output import emit_json, note, print_line, progress_bar
from ztcir_sdk.path_patterns import expand_paths

__all__ = ["embed"]


@click.command(cls=Command)
@click.argument("source", nargs=-1, required=True)
@output_option(
    "--to",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the Parquet files; the machines may share it.",
)
@click.option(
    "--shard",
    default="1/1",
    show_default=True,
    metavar="I/N",
    help="Encode part I of N; every image belongs to one part.",
)
@with_collection
@with_engine
@as_json
def embed(
    source: tuple[str, ...],
    output: Path,
    shard: str,
    engine: Engine,
    as_json: bool,
    collection: dict[str, Any],
) -> None:
    """Encode the images of SOURCE to Parquet files, without an index.

    Many machines can share one collection: each encodes its own part, and an interrupted run
    resumes. `ztcir index FOLDER` then makes an index of all parts, without encoding.

    \b
    Examples:
      ztcir embed photos/ --to embeddings/
      ztcir embed photos/ --shard 3/16 --to embeddings/
    """
    from ztcir_sdk.gallery import Shard, embed_images

    part, paths = Shard.parse(shard), expand_paths(source)
    with progress_bar("Encoding") as progress:
        report = embed_images(
            paths if len(paths) > 1 else paths[0],
            output,
            engine.retriever(),
            shard=part,
            progress=progress,
            **collection,
        )
    speed = report.encoded / report.seconds if report.encoded else None
    if as_json:
        emit_json(
            {"folder": str(output.absolute()), **report.to_dict(), "images_per_second": speed}
        )
        return
    pace = f" ({speed:.0f} images/s)" if speed else ""
    print_line(
        f"{output}: {report.total} images of shard {part.number}/{part.count}; {report.encoded} "
        f"encoded, {report.kept} kept, {len(report.failed)} failed, {report.others} of other "
        f"shards; {report.seconds:.1f} s{pace}"
    )
    for _, sentence in report.failed:
        note(f"failed: {sentence}")
