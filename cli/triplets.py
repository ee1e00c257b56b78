"""`ztcir triplets`: synthesise Stage II triplets."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import as_json as json_option
from cli.output import emit_json, note, write_file
from ztcir_sdk.names import UNKNOWN_VALUE

if TYPE_CHECKING:
    from train.data.item import Item
    from train.triplets.report import TripletReport
    from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["triplets"]

PICTURES = 20  # triplets on a sheet


def columns_option(
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
    type=click.Choice(["attributes", "captions"]),
    required=True,
    help="Change one attribute and keep the others, or pair captions that differ in a phrase.",
)
@click.option(
    "--csv",
    "metadata",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A catalogue without pictures: a CSV, TSV or Parquet file with a row per item.",
)
@click.option(
    "--data",
    multiple=True,
    help="A collection with pictures: webdataset shards, a folder, or a CSV or Parquet file of "
    "paths, captions and attributes; a path or a pattern. Repeatable.",
)
@click.option(
    "--split",
    help="Which rows of --csv; 'all' for all. Default: 'train' where it has a column for it.",
)
@click.option(
    "--columns",
    callback=columns_option,
    metavar="FIELD=COLUMN,...",
    help="Where fields stand, as colour=baseColour,type=articleType,gender=gender,"
    "pattern=...,id=id,caption=caption,path=...,split=split; one without a column: gender=",
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
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Draw {PICTURES} of the triplets into a PNG to look at; needs --data.",
)
@json_option
def triplets(
    source: str,
    metadata: Path | None,
    data: tuple[str, ...],
    split: str | None,
    columns: dict[str, str] | None,
    output: Path,
    count: int | None,
    seed: int,
    held_out_wordings: bool,
    noise: float,
    fraction: float | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Synthesise Stage II triplets: a reference, a wish in words, and the right answers.

    No model and no network is needed. The development triplets never have noise.
    """
    from train.data.item import split_development
    from train.triplets.from_attributes import write_triplets
    from train.triplets.report import TripletReport, triplet_sheet

    if metadata is None and not data:
        raise click.UsageError("Name what to make them from, with --csv or --data.")
    if sheet is not None and not data:
        raise click.UsageError("A --sheet shows pictures; name what holds them with --data.")
    items, pictures = _read(source, metadata, data, split, columns)

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
    made: list[tuple[Path, list[Triplet]]] = []
    reports: dict[str, TripletReport] = {}
    for path, some, limit, wrong in parts:
        found, left_out, rejected = _make(
            source, some, pictures, seed=seed, limit=limit, held_out=held_out_wordings, noise=wrong
        )
        made.append((path, found))
        reports[str(path)] = TripletReport.of(
            found, held_out=held_out_wordings, left_out=left_out, rejected=rejected
        )
    for path, found in made:
        write_triplets(path, found)
        note(f"wrote {len(found)} triplets to {path}")
    if sheet is not None:
        captions = {item.id: item.caption for item in items}
        encoded = io.BytesIO()
        shown = triplet_sheet(
            made[0][1], pictures, captions, title=f"{output.name}: {source}", count=PICTURES
        )
        shown.save(encoded, "PNG")
        write_file(sheet, encoded.getvalue())
        note(f"drew {min(PICTURES, len(made[0][1]))} of them into {sheet}")
    if as_json:
        summary = {name: report.to_dict() for name, report in reports.items()}
        emit_json({"source": source, "seed": seed, "noise": noise, "files": summary})
        return
    for name, report in reports.items():
        click.echo(_in_words(name, report))


def _read(
    source: str,
    metadata: Path | None,
    data: Sequence[str],
    split: str | None,
    columns: dict[str, str] | None,
) -> tuple[list[Item], Mapping[str, Callable[[], Any]]]:
    """The items that triplets are made from, and the pictures of those that have one."""
    from train.data.catalogue import DEFAULT_COLUMNS, read_catalogue
    from train.data.csv_parquet import open_table
    from train.data.item import DataError
    from train.data.source import read_sources

    items: list[Item] = []
    pictures: dict[str, Callable[[], Any]] = {}
    if data:
        of_tables = columns if metadata is None else None
        images, report = read_sources(data, columns=of_tables)
        for sentence in report.sentences():
            note(sentence)
        if not images:
            raise DataError(f"No usable sample in {', '.join(data)}.")
        items = [image.item for image in images]
        pictures = {image.item.id: image.load for image in images}
    if metadata is not None:
        named = dict(columns or {})
        if source == "captions":  # which needs no attributes
            named = {"gender": "", "type": "", "colour": "", **named}
        if split is None:
            marked = named.get("split", DEFAULT_COLUMNS["split"])
            split = "train" if marked in open_table(metadata).columns else "all"
        if split == "all":
            named["split"] = ""
        items = read_catalogue(metadata, None if split == "all" else split, columns=named)
    return items, pictures


def _make(
    source: str,
    items: Sequence[Item],
    pictures: Mapping[str, Callable[[], Any]],
    *,
    seed: int,
    limit: int | None,
    held_out: bool,
    noise: float,
) -> tuple[list[Triplet], Mapping[str, int], Mapping[str, int]]:
    """The triplets, why items took no part, and why pairs of captions gave none."""
    from train.triplets.from_attributes import synthesise
    from train.triplets.from_captions import mine_captions
    from train.triplets.near_duplicates import SAME_LOOK, without_near_duplicates
    from ztcir_sdk.errors import ZtcirError

    if source == "captions":
        found, mining = mine_captions(
            items, seed=seed, limit=limit, held_out=held_out, noise=noise, pictures=pictures
        )
        wanted = len(items) if limit is None else limit
        if len(found) < wanted:
            note(f"{len(items)} captions gave {len(found)} triplets, not {wanted}.")
        return found, mining.left_out, mining.rejected
    unknown = Counter(
        f"no known {kind}"
        for item in items
        for kind in ("colour", "type", "gender", "pattern")
        if getattr(item, kind) == UNKNOWN_VALUE
    )
    found = synthesise(items, seed=seed, limit=limit, held_out=held_out, noise=noise)
    found, duplicates = without_near_duplicates(found, pictures)
    if not found:
        raise ZtcirError(
            f"In each of {duplicates} triplets {SAME_LOOK}, so there is nothing to ask; use a "
            "larger catalogue."
        )
    return found, unknown, {SAME_LOOK: duplicates} if duplicates else {}


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
    for what, reasons in (("items left out", report.left_out), ("pairs rejected", report.rejected)):
        if reasons:
            lines += [
                f"{what}: " + ", ".join(f"{number} ({why})" for why, number in reasons.items())
            ]
    lines += ["examples:"]
    lines += [
        f"  {example['kind']}: {example['text']}  "
        f"[reference {example['reference']}, {example['targets']} right]"
        for example in report.examples
    ]
    return "\n".join(lines)
