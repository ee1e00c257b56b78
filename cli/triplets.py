"""`ztcir triplets`: synthesise Stage II triplets."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Command, output_option, parse_columns, seed_option
from cli.options import as_json as json_option
from cli.output import emit_json, note, printable, write_file
from ztcir_sdk.names import CATALOGUE_COLUMNS, UNKNOWN_VALUE

if TYPE_CHECKING:
    from train.data import Item
    from train.triplets import TripletReport
    from ztcir_sdk.evaluation.triplets import Triplet


@click.command(cls=Command)
@click.option(
    "--from",
    "source",
    type=click.Choice(["attributes", "captions", "requests"]),
    required=True,
    help="Change one attribute of a catalogue; pair captions that differ in one phrase; or ask as "
    "people type: typing errors, refusals, two changes, details, long texts, other languages.",
)
@click.option(
    "--csv",
    "metadata",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Catalogue without images: a CSV, TSV or Parquet file with one row per item.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="SOURCE",
    help="Collection with images: a webdataset shard, a folder, or a CSV, TSV or Parquet file of "
    "paths, captions and attributes; also as a pattern. Repeatable.",
)
@click.option(
    "--split",
    metavar="NAME",
    help="Rows of --csv to use, or 'all'; default: 'train' if the file has a column for it.",
)
@click.option(
    "--columns",
    callback=parse_columns,
    metavar="FIELD=COLUMN,...",
    help="Columns of the fields id, path, caption, gender, type, colour, pattern and split, for "
    "example colour=baseColour,type=articleType; gender= if there is no such column.",
)
@output_option(
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File for the triplets, one JSON object per line.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of triplets; default: one per item.",
)
@seed_option
@click.option(
    "--held-out-wordings",
    is_flag=True,
    help="Use the wordings that are never trained on, to measure with.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the triplets with a wrong target.",
)
@click.option(
    "--development",
    "fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of the products whose triplets go to NAME.development.jsonl beside NAME.jsonl.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file that shows some of the triplets; needs --data.",
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
    """Synthesise Stage II triplets: a reference, a modification text, and targets.

    No model is needed. The triplets of --development have no noise.

    \b
    Examples:
      ztcir triplets --from attributes --csv catalogue.csv -o triplets.jsonl
      ztcir triplets --from requests --csv catalogue.csv -o requests.jsonl
      ztcir triplets --from captions --data photos/ --sheet sheet.png -o out.jsonl
      ztcir triplets --from captions --data photos/ --development 0.1 -o out.jsonl
    """
    from train.data import split_development
    from train.triplets import TripletReport, triplet_sheet, write_triplets

    if metadata is None and not data:
        raise click.UsageError("There is nothing to make triplets from: give --csv or --data.")
    if held_out_wordings and source == "requests":
        raise click.UsageError("--from requests has no held-out wordings.")
    if sheet is not None and not data:
        raise click.UsageError("--sheet shows images: give them with --data.")
    items, pictures = _read(source, metadata, data, split, columns)

    parts = [(output, items, count, noise)]
    if fraction is not None:
        training, development = split_development(items, fraction, seed=seed)
        total = len(items) if count is None else count
        beside = output.with_name(f"{output.stem}.development{output.suffix}")
        part = max(1, round(total * fraction))
        parts = [(output, training, count, noise), (beside, development, part, 0.0)]
    # make all before writing any, so that a failure leaves the files as they were
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
        found = made[0][1]
        title = f"{output.name}: {source}"
        drawn = triplet_sheet(found, pictures, captions, title=title)
        drawn.save(encoded, "PNG")
        write_file(sheet, encoded.getvalue())
        note(f"drew some of the triplets into {sheet}")
    if as_json:
        summary = {name: report.to_dict() for name, report in reports.items()}
        emit_json({"source": source, "seed": seed, "noise": noise, "files": summary})
        return
    for name, report in reports.items():
        click.echo("\n".join(map(printable, _summary(name, report))))


def _read(
    source: str,
    metadata: Path | None,
    data: Sequence[str],
    split: str | None,
    columns: dict[str, str] | None,
) -> tuple[list[Item], Mapping[str, Callable[[], Any]]]:
    """Return the items to make triplets from, and id -> function that loads the image."""
    from train.data import DEFAULT_COLUMNS, DataError, open_table, read_catalogue, read_sources

    items: list[Item] = []
    pictures: dict[str, Callable[[], Any]] = {}
    if data:
        images, report = read_sources(data, columns=columns if metadata is None else None)
        for sentence in report.sentences():
            note(sentence)
        if not images:
            raise DataError(f"No usable sample in {', '.join(data)}.")
        items = [image.item for image in images]
        pictures = {image.item.id: image.load for image in images}
    if metadata is not None:
        named = dict(columns or {})
        if source == "captions":  # attributes are not needed
            named = {**dict.fromkeys(CATALOGUE_COLUMNS, ""), **named}
        if split is None:
            column = named.get("split", DEFAULT_COLUMNS["split"])
            split = "train" if column in open_table(metadata).columns else "all"
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
    """Return the triplets; reason -> items left out; reason -> pairs that gave no triplet."""
    from train.triplets import (
        NEAR_DUPLICATE,
        mine_captions,
        synthesise,
        synthesise_requests,
        without_near_duplicates,
    )
    from train.wordings import KINDS
    from ztcir_sdk.errors import ZtcirError

    if source == "captions":
        found, mining = mine_captions(
            items, seed=seed, limit=limit, held_out=held_out, noise=noise, pictures=pictures
        )
        wanted = len(items) if limit is None else limit
        if len(found) < wanted:
            note(f"{len(items)} captions give only {len(found)} of {wanted} triplets.")
        return found, mining.left_out, mining.rejected
    values = ((kind, getattr(item, kind)) for item in items for kind in KINDS)
    unknown = Counter(f"no known {kind}" for kind, value in values if value == UNKNOWN_VALUE)
    if source == "requests":
        found = synthesise_requests(items, seed=seed, limit=limit, noise=noise)
    else:
        found = synthesise(items, seed=seed, limit=limit, held_out=held_out, noise=noise)
    found, duplicates = without_near_duplicates(found, pictures)
    if not found:
        raise ZtcirError(
            f"In all {duplicates} triplets {NEAR_DUPLICATE}, so none is left; use a larger "
            "catalogue."
        )
    return found, unknown, {NEAR_DUPLICATE: duplicates} if duplicates else {}


def _summary(path: str, report: TripletReport) -> list[str]:
    targets = report.targets_per_query
    lines = [
        f"{path}: {report.count} triplets over {report.distinct_references} references, "
        f"{report.distinct_texts} different texts",
        "targets per query: " + ", ".join(f"{name} {value:g}" for name, value in targets.items()),
    ]
    lines += [
        f"{kind}: {number} triplets{_wordings(kind, report)}"
        for kind, number in report.per_kind.items()
    ]
    for what, reasons in (("items left out", report.left_out), ("pairs rejected", report.rejected)):
        if reasons:
            counts = ", ".join(f"{number} ({why})" for why, number in reasons.items())
            lines.append(f"{what}: {counts}")
    lines.append("examples:")
    lines += [
        f"  {example['kind']}: {example['text']}  "
        f"[reference {example['reference']}, {example['targets']} targets]"
        for example in report.examples
    ]
    return lines


def _wordings(kind: str, report: TripletReport) -> str:
    """Return what the texts of a kind are drawn from, where they have families of wordings."""
    if kind not in report.wording_families:
        return ""
    held_out = " (held out)" if report.held_out_wordings else ""
    return (
        f"; {report.wording_families[kind]} wording families, "
        f"{report.templates[kind]} templates{held_out}"
    )
