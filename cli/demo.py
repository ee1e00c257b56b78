"""`ztcir demo`: a drawn gallery, indexed, searched and checked."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import Engine, as_json, with_engine
from cli.output import emit_json, note, progress_bars, table

__all__ = ["demo"]

LEAST_PRECISION = 0.8
"""What the bundle inside the package reaches with a margin: less means that something is broken."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Where contact-sheet.png and the folder ztcir-demo go; default: the current folder.",
)
@with_engine
@as_json
def demo(
    out: Path,
    engine: Engine,
    as_json: bool,
) -> None:
    """Draw a small gallery, index it, search it, and show the result.

    Three queries are printed and put on contact-sheet.png; 120 more are checked, since what is
    right is known of drawings. Needs no network, and changes nothing but its own files.
    """
    from ztcir_sdk.demo import DEPTH, run_demo

    retriever = engine.retriever()
    with progress_bars() as progress:
        done = run_demo(retriever, out, progress=progress)
    if as_json:
        emit_json(done.to_dict())
    else:
        for answer in done.answers:
            click.echo(f'{Path(answer.reference).name} + "{answer.text}"')
            table(
                ("rank", "score", "picture", ""),
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
        click.echo(f"contact sheet: {done.contact_sheet}")
        reference = done.gallery / Path(done.answers[0].reference).name
        note(
            f'go on with: ztcir search {_from_here(reference)} "a dress in the same style" '
            f"--index {_from_here(done.index)}"
        )
    if engine.bundle is None and done.precision_at_10 < LEAST_PRECISION:
        raise click.ClickException(
            f"Only {done.precision_at_10 * DEPTH:.1f} of {DEPTH} hits are right, where "
            f"{LEAST_PRECISION * DEPTH:.0f} are expected; run `ztcir doctor`."
        )


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
