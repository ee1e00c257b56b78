"""`ztcir adapt`: photos and a backbone become a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import (
    Command,
    as_json,
    output_option,
    parse_columns,
    seed_option,
    small_option,
)
from cli.output import emit_json, note, table
from ztcir_sdk.names import DEFAULT_BUNDLE

__all__ = ["adapt"]


@click.command(cls=Command)
@click.argument("photos", metavar="PHOTOS...", nargs=-1, required=True)
@click.option(
    "--backbone",
    default=DEFAULT_BUNDLE,
    show_default=True,
    metavar="MODEL",
    help="NAME:PRETRAINED of an open_clip model, such as ViT-B-32:openai; a checkpoint of `ztcir "
    "train backbone`; or a bundle's folder, its name, or hf://org/repo. The backbone of a "
    "fashion-lite bundle is read back from its graphs; of another bundle, the open_clip model and "
    "tag that its card names are loaded, and a bundle without a tag of open_clip is refused.",
)
@output_option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Bundle to write.",
)
@click.option(
    "--words",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="More words to tag the photos with, one on a line or separated by commas, in any script; "
    "a line such as [colours] begins a kind of words that exclude each other. Repeatable.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Time that the whole run may take; default: as long as it needs.",
)
@click.option(
    "--columns",
    callback=parse_columns,
    metavar="FIELD=COLUMN,...",
    help="Columns of a table's fields, such as path=file,caption=title,colour=shade.",
)
@click.option("--name", help="Name of the bundle; default: that of its folder.")
@click.option(
    "--config",
    "recipe",
    metavar="NAME|FILE",
    help="Recipe of the hyperparameters; default: that of the backbone.",
)
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Sheet of twenty held-out queries and their hits; default: FOLDER.png.",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the run, from which it resumes; default: the bundle's with -run behind it.",
)
@click.option("--keep", is_flag=True, help="Keep the folder of the run when it is done.")
@small_option
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@as_json
def adapt(
    photos: tuple[str, ...],
    backbone: str,
    output: Path,
    words: tuple[Path, ...],
    minutes: float | None,
    columns: dict[str, str] | None,
    name: str | None,
    recipe: str | None,
    sheet: Path | None,
    work: Path | None,
    keep: bool,
    small: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Adapt a backbone to PHOTOS: folders, webdataset shards or tables, with captions or without.

    The photos are encoded once and tagged with the backbone's own words. Pairs of near photos that
    differ in a tag, with wordings that name it, train both stages; captions and attributes are used
    where there are any. Then the bundle is exported, and measured on photos that were held out. If
    composed queries are not better there than the backbone's plain answers, the bundle answers with
    the sum of image and text. A killed run resumes when its command is repeated. Needs the packages
    of ztcir[train].

    \b
    Examples:
      ztcir adapt photos/ --to my-bundle
      ztcir adapt photos/ --backbone ViT-B-32:openai --to my-bundle
      ztcir adapt photos/ --words words.txt --minutes 10 --to my-bundle
      ztcir adapt "catalogue/*.tar" --to my-bundle --sheet queries.png
    """
    from export.adapt.clock import duration
    from export.adapt.run import adapt as run
    from export.adapt.settings import AdaptSettings

    beside = output.resolve()
    settings = AdaptSettings(
        sources=photos,
        backbone=backbone,
        out=output,
        work=work or beside.with_name(f"{beside.name}-run"),
        words=words,
        minutes=minutes,
        columns=columns,
        name=name,
        recipe=recipe,
        small=small,
        overwrite=overwrite,
        sheet=sheet or beside.with_name(f"{beside.name}.png"),
        keep=keep,
        seed=seed,
    )
    found = run(settings, note)
    if as_json:
        emit_json(found.to_dict())
        return
    if found.gains is not None:
        metrics = tuple(next(iter(found.gains.scores.values())))
        rows = [
            (method, *(f"{scores[metric]:.3f}" for metric in metrics))
            for method, scores in found.gains.scores.items()
        ]
        table(("method", *metrics), rows)
    click.echo(found.why)
    size = sum(record.bytes for record in found.bundle.manifest.files.values())
    click.echo(
        f"{found.bundle.path}: {size / 1e6:.1f} MB, every graph within 1e-4 of PyTorch, answers "
        f"with {found.answers}; {duration(found.seconds)} for {found.photos} photos"
    )
    if found.sheet is not None:
        click.echo(f"{found.sheet}: held-out queries and their hits, to look at")
