"""`ztcir demo`: a drawn gallery, indexed, searched and checked."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import Command, Engine, as_json, output_option, with_engine
from cli.output import emit_json, note, printable, progress_bars, relative_to_here, table

MIN_PRECISION = 0.8
"""The bundle inside the package reaches more; a lower precision means that something is broken."""


@click.command(cls=Command)
@output_option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    default=".",
    help="Folder for contact-sheet.png and ztcir-demo/; default: the current folder.",
)
@click.option(
    "--serve",
    "serve_page",
    is_flag=True,
    help="Then open the web page to search the drawings with.",
)
@with_engine
@as_json
def demo(output: Path, serve_page: bool, engine: Engine, as_json: bool) -> None:
    """Draw a small gallery, index it, search it, and show the result.

    Three queries are printed and drawn on contact-sheet.png. The hits of 120 more are counted as
    right or wrong, which is known for drawings. Needs no network.

    \b
    Examples:
      ztcir demo
      ztcir demo -o trial/ --json
      ztcir demo --serve
    """
    from ztcir_sdk.demo import DEPTH, run_demo

    retriever = engine.retriever()
    with progress_bars() as progress:
        done = run_demo(retriever, output, progress=progress)
    if as_json:
        emit_json(done.to_dict())
    else:
        for answer in done.answers:
            click.echo(printable(f'{Path(answer.reference).name} + "{answer.text}"'))
            table(
                ("rank", "score", "image", ""),
                [
                    (
                        str(hit.rank),
                        f"{hit.score:.3f}",
                        Path(hit.path).name,
                        "right" if hit.right else "wrong",
                    )
                    for hit in answer.hits
                ],
                header=False,
            )
        click.echo(
            f"{done.queries} queries checked: {done.precision_at_10 * DEPTH:.1f} of the first "
            f"{DEPTH} hits are right on average"
        )
        click.echo(printable(f"contact sheet: {done.contact_sheet}"))
        reference = done.gallery / Path(done.answers[0].reference).name
        note(
            f'Next: ztcir search {relative_to_here(reference)} "a dress in the same style" '
            f"--index {relative_to_here(done.index)}"
        )
    if engine.bundle is None and done.precision_at_10 < MIN_PRECISION:
        raise click.ClickException(
            f"Only {done.precision_at_10 * DEPTH:.1f} of {DEPTH} hits are right, instead of at "
            f"least {MIN_PRECISION * DEPTH:.0f}: run `ztcir doctor`."
        )
    if serve_page:
        from cli.serve import serve_index

        serve_index(engine, done.index, {"port": 0}, open_page=True)
