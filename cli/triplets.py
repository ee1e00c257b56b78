"""`ztcir triplets`: synthesise Stage II triplets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from train.triplets import TripletReport

__all__ = ["triplets"]


def _columns(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, str] | None:
    """``field=column`` pairs, comma-separated."""
    if value is None:
        return None
    pairs = [pair.partition("=") for pair in value.split(",")]
    if not all(field.strip() and equals for field, equals, _ in pairs):
        raise click.BadParameter(f"{value!r} is not like colour=baseColour,type=articleType.")
    return {field.strip(): column.strip() for field, _, column in pairs}


@click.command()
@click.option(
    "--from",
    "source",
    type=click.Choice(["attributes"]),
    required=True,
    help="What to make them from: a catalogue's attributes.",
)
@click.option(
    "--csv",
    "metadata",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The catalogue: a CSV file with a header and a row per item.",
)
@click.option("--split", default="train", show_default=True, help="Which rows; 'all' for all.")
@click.option(
    "--columns",
    callback=_columns,
    metavar="FIELD=COLUMN,...",
    help="Where fields stand, as colour=baseColour,type=articleType,gender=gender,"
    "pattern=...,id=id,caption=caption,split=split; an attribute without a column: gender=",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The triplets, one JSON object a line.",
)
@click.option(
    "--count", type=click.IntRange(min=1), help="How many triplets; default: one per item."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="An equal seed gives equal triplets.",
)
@click.option(
    "--held-out-wordings", is_flag=True, help="Ask in the wordings that never train, to measure."
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Fraction of the triplets that get a wrong target.",
)
@click.option(
    "--development",
    "fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Keep this fraction of the product names apart, and write the triplets of these items "
    "to NAME.development.jsonl beside NAME.jsonl, as many as the fraction says.",
)
@click.option("--json", "as_json", is_flag=True, help="Report one JSON object.")
def triplets(
    source: str,
    metadata: Path,
    split: str,
    columns: dict[str, str] | None,
    output: Path,
    count: int | None,
    seed: int,
    held_out_wordings: bool,
    noise: float,
    fraction: float | None,
    as_json: bool,
) -> None:
    """Synthesise Stage II triplets: a reference, a wish in words, and the right answers.

    Each changes one attribute of its reference and keeps the others. The development triplets
    never have noise.
    """
    from train.triplets import (
        TripletReport,
        read_catalogue,
        split_development,
        synthesise,
        write_triplets,
    )

    items = read_catalogue(metadata, None if split == "all" else split, columns=columns)
    parts = [(output, items, count, noise)]
    if fraction is not None:
        training, development = split_development(items, fraction, seed=seed)
        total = len(items) if count is None else count
        apart = output.with_name(f"{output.stem}.development{output.suffix}")
        parts = [
            (output, training, count, noise),
            (apart, development, max(1, round(total * fraction)), 0.0),
        ]
    # all are made before any is written: a failure leaves the files as they were
    made = [
        (path, synthesise(some, seed=seed, limit=limit, held_out=held_out_wordings, noise=wrong))
        for path, some, limit, wrong in parts
    ]
    for path, some in made:
        write_triplets(path, some)
        click.echo(f"wrote {len(some)} triplets to {path}", err=True)
    reports = {str(path): TripletReport.of(some, held_out=held_out_wordings) for path, some in made}
    if as_json:
        summary = {name: report.to_dict() for name, report in reports.items()}
        click.echo(json.dumps({"source": source, "seed": seed, "noise": noise, "files": summary}))
        return
    for name, report in reports.items():
        click.echo(_in_words(name, report))


def _in_words(path: str, report: TripletReport) -> str:
    targets = report.targets_per_query
    lines = [
        f"{path}: {report.count} triplets over {report.distinct_references} references, "
        f"{report.distinct_texts} different texts",
        "right answers per query: "
        + ", ".join(f"{name} {value:g}" for name, value in targets.items()),
    ]
    lines += [
        f"{kind}: {number} triplets; {report.wording_families[kind]} wording families, "
        f"{report.templates[kind]} templates{' (held out)' if report.held_out_wordings else ''}"
        for kind, number in report.per_kind.items()
    ]
    lines += ["examples:"]
    lines += [
        f"  {example['kind']}: {example['text']}  "
        f"[reference {example['reference']}, {example['targets']} right]"
        for example in report.examples
    ]
    return "\n".join(lines)
