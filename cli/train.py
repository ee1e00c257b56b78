"""`ztcir train backbone|map|compose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Group, output_option
from cli.train_options import FolderPath, compute_options, configuration_option
from cli.triplets import parse_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train.data import ShardStream, TrainingImage
    from train.settings import Compute
    from train.stages.recipes import Recipe

__all__ = ["train"]

HELD_OUT = 1000  # pictures of a stream that select the checkpoint
OUT = FolderPath(file_okay=False, path_type=Path)
SOME = click.IntRange(min=1)
ANY = click.IntRange(min=0)
SHARE = click.FloatRange(0, 1)
WEIGHT = click.FloatRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)
SHARDS = click.option(
    "--data",
    required=True,
    multiple=True,
    help="Webdataset shards, a folder of pictures, or a CSV or Parquet file of paths and captions; "
    "a path, a brace pattern as cc3m/{00000..00331}.tar, or one with *. Repeatable.",
)
COLUMNS = click.option(
    "--columns",
    callback=parse_columns,
    metavar="FIELD=COLUMN,...",
    help="Where a table's fields stand, as path=file,caption=text,colour=shade,root=photos/, if "
    "its columns have no usual names.",
)
DRAWINGS = click.option(
    "--drawings",
    type=ANY,
    default=0,
    show_default=True,
    help="Code-drawn pictures to train on as well.",
)
STEPS = click.option(
    "--steps",
    type=SOME,
    help="Length of the run in steps, in place of --epochs; evaluated after each quarter.",
)
SEED = click.option(
    "--seed", type=ANY, default=0, show_default=True, help="Of everything that is random."
)


@click.group(cls=Group)
def train() -> None:
    """Train the two stages, or a small backbone for them. Needs the extra `train`."""


@train.command()
@SHARDS
@COLUMNS
@DRAWINGS
@SEED
@output_option(
    "--out", "out", type=OUT, default="runs/backbone", show_default=True, help="The run's folder."
)
@click.option("--epochs", type=SOME, default=10, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=SOME, default=512, show_default=True, help="Samples a step.")
@click.option(
    "--word-vectors",
    type=click.Choice(["minilm", "none"]),
    default="minilm",
    show_default=True,
    help="Start token rows from a packaged sentence encoder.",
)
@click.option(
    "--instances",
    type=WEIGHT,
    default=0.0,
    show_default=True,
    help="Weight of telling every photo from all others, so that what no text says is kept.",
)
@click.option(
    "--instance-temperature",
    type=POSITIVE,
    default=0.1,
    show_default=True,
    help="Of that comparison.",
)
@click.option(
    "--image-lr",
    type=POSITIVE,
    default=6e-4,
    show_default=True,
    help="Peak learning rate, of images.",
)
@click.option(
    "--text-lr",
    type=POSITIVE,
    default=1e-3,
    show_default=True,
    help="Peak learning rate, of the rest.",
)
@click.option(
    "--caption-share",
    type=SHARE,
    default=0.4,
    show_default=True,
    help="Share of texts that are captions; the others describe attributes.",
)
@click.option(
    "--start",
    type=click.Path(exists=True, file_okay=False),
    help="A backbone trained here to go on from, as runs/backbone/clip.",
)
@click.option("--cache", type=OUT, default=None, help="Folder of the frozen stages' output.")
def backbone(
    data: tuple[str, ...],
    columns: dict[str, str] | None,
    drawings: int,
    seed: int,
    out: Path,
    epochs: int,
    batch_size: int,
    word_vectors: str,
    instances: float,
    instance_temperature: float,
    image_lr: float,
    text_lr: float,
    caption_share: float,
    start: str | None,
    cache: Path | None,
) -> None:
    """Train the small CLIP `fashion-lite` on a catalogue; resumes where it was killed."""
    from train.data import read_collection
    from train.settings import BackboneTraining, RunSettings
    from train.stages.fit_backbone import fit_backbone

    images, development = read_collection(data, drawings=drawings, columns=columns)
    config = BackboneTraining(
        epochs=epochs,
        batch_size=batch_size,
        image_lr=image_lr,
        text_lr=text_lr,
        caption_share=caption_share,
        word_vectors=word_vectors,
        instances=instances,
        instance_temperature=instance_temperature,
        start=start,
        seed=seed,
    )
    fit_backbone(images, development, config, RunSettings(out, cache))
    click.echo(f"The backbone is in {out / 'clip'}", err=True)


@train.command(name="map")
@SHARDS
@COLUMNS
@DRAWINGS
@SEED
@click.option(
    "--backbone",
    required=True,
    help="Checkpoint of a backbone trained here, or `NAME:PRETRAINED` of an open_clip model.",
)
@output_option(
    "--out", "out", type=OUT, default="runs/map", show_default=True, help="The run's folder."
)
@click.option(
    "--stream",
    is_flag=True,
    help="Read shards in a shuffled order with nothing listed and no training feature kept: for "
    "more pictures than a list can hold, and for shards behind https:// or pipe:. Needs --steps.",
)
@click.option("--epochs", type=SOME, default=4, show_default=True, help="Passes over the data.")
@STEPS
@click.option("--batch-size", type=SOME, default=512, show_default=True, help="Samples a step.")
@click.option("--lr", type=POSITIVE, default=1e-3, show_default=True, help="Peak learning rate.")
@click.option(
    "--alignment", type=WEIGHT, default=0.5, show_default=True, help="Soft text alignment; 0: none."
)
@click.option("--tokens", type=SOME, default=1, show_default=True, help="Pseudo-words an image.")
@click.option(
    "--depth", type=ANY, default=1, show_default=True, help="Token learner blocks; 0: projection."
)
@click.option("--vsi/--no-vsi", default=True, show_default=True, help="Visual semantic injection.")
@click.option(
    "--adapter", type=ANY, default=256, show_default=True, help="Width of the adapters; 0: none."
)
@click.option("--cache", type=OUT, default=None, help="Folder of frozen features to share.")
@click.option(
    "--word-bank",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Words, one a line, for images without captions; default: what the data name, common "
    "attributes and ImageNet's objects.",
)
@configuration_option("map")
@compute_options
def train_map(
    data: tuple[str, ...],
    columns: dict[str, str] | None,
    drawings: int,
    seed: int,
    backbone: str,
    out: Path,
    stream: bool,
    epochs: int,
    steps: int | None,
    batch_size: int,
    lr: float,
    alignment: float,
    tokens: int,
    depth: int,
    vsi: bool,
    adapter: int,
    cache: Path | None,
    word_bank: Path | None,
    configuration: Recipe,
    compute: Compute,
    patches: bool | None,
    tensorboard: bool | None,
) -> None:
    """Stage I: the token learner and VSI learn to say an image as a word.

    In many processes: `accelerate launch -m cli train map ...`. A killed run goes on where it was.
    """
    from train.data import ShardStream, read_collection, read_held_out, stream_shards
    from train.model import check_backbone
    from train.settings import StageSettings
    from train.stages.fit_map import fit_map
    from train.stages.word_bank import WordBank, read_words

    check_backbone(backbone)  # before minutes of reading
    images: Sequence[TrainingImage] | ShardStream
    if stream:
        if steps is None:
            raise click.UsageError("A stream does not say how long it is; give --steps.")
        if drawings or columns:
            raise click.UsageError("--drawings and --columns are not for a --stream, of shards.")
        shards = stream_shards(data)
        images, development = ShardStream(shards, seed=seed), read_held_out(shards, HELD_OUT)
    else:
        images, development = read_collection(data, drawings=drawings, columns=columns)
    config = configuration.mapping(
        epochs=epochs, batch_size=batch_size, lr=lr, alignment=alignment, seed=seed
    )
    parts = configuration.parts(
        tokens=tokens,
        token_learner_depth=depth,
        vsi_layers=configuration.model.get("vsi_layers") if vsi else (),
        adapter_bottleneck=adapter,
    )
    fit_map(
        backbone,
        images,
        development,
        config,
        parts,
        StageSettings(
            out,
            cache,
            compute=compute,
            patches=patches,
            tensorboard=tensorboard,
            steps=steps,
        ),
        word_bank=None if word_bank is None else WordBank(read_words(word_bank)),
    )
    click.echo(f"Stage I is in {out}", err=True)


@train.command()
@SHARDS
@COLUMNS
@DRAWINGS
@SEED
@click.option(
    "--map",
    "mapping",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint or run of Stage I.",
)
@output_option(
    "--out", "out", type=OUT, default="runs/compose", show_default=True, help="The run's folder."
)
@click.option(
    "--triplets",
    type=click.Path(path_type=Path),
    multiple=True,
    help="JSONL of `ztcir triplets`, or of reference, text and target; FashionIQ's, CIRR's or "
    "LaSCo's training file; a CSV or Parquet file. Repeatable. Without it, triplets are made from "
    "the data's attributes.",
)
@click.option(
    "--triplet-columns",
    callback=parse_columns,
    metavar="FIELD=COLUMN,...",
    help="Where a triplet's fields stand, as reference=from,text=wish,target=to.",
)
@click.option(
    "--skip-missing", is_flag=True, help="Leave out triplets whose images are not in the data."
)
@click.option("--count", type=SOME, default=80000, show_default=True, help="Triplets to make.")
@click.option(
    "--noise", type=SHARE, default=0.0, show_default=True, help="Share of them with a wrong target."
)
@click.option("--epochs", type=SOME, default=3, show_default=True, help="Passes over the triplets.")
@STEPS
@click.option("--batch-size", type=SOME, default=256, show_default=True, help="Samples a step.")
@click.option("--lr", type=POSITIVE, default=6e-3, show_default=True, help="Peak learning rate.")
@click.option(
    "--mined", type=ANY, default=32, show_default=True, help="Hard negatives a query; 0: none."
)
@click.option("--cache", type=OUT, default=None, help="Folder of frozen features to share.")
@configuration_option("compose")
@compute_options
def compose(
    data: tuple[str, ...],
    columns: dict[str, str] | None,
    drawings: int,
    seed: int,
    mapping: Path,
    out: Path,
    triplets: tuple[Path, ...],
    triplet_columns: dict[str, str] | None,
    skip_missing: bool,
    count: int,
    noise: float,
    epochs: int,
    steps: int | None,
    batch_size: int,
    lr: float,
    mined: int,
    cache: Path | None,
    configuration: Recipe,
    compute: Compute,
    patches: bool | None,
    tensorboard: bool | None,
) -> None:
    """Stage II: the adapters learn to compose the pseudo-word with words.

    In many processes: `accelerate launch -m cli train compose ...`. A killed run goes on where it
    was.
    """
    from train.data import read_collection
    from train.model import check_stage
    from train.settings import StageSettings
    from train.stages.fit_compose import fit_compose
    from train.triplets import read_training_triplets, stage_two_data

    # before minutes of reading and of making triplets
    origin = check_stage(mapping, "map", backbone=configuration.backbone)
    images, development = read_collection(
        data,
        drawings=drawings,
        columns=columns,
        streamed="stream" in origin.get("training", {}),
    )
    given = [
        triplet
        for path in triplets
        for triplet in read_training_triplets(path, columns=triplet_columns)
    ]
    parts = stage_two_data(
        images,
        development,
        given if triplets else None,
        count=count,
        seed=seed,
        noise=noise,
        skip_missing=skip_missing,
    )
    config = configuration.composing(
        epochs=epochs, batch_size=batch_size, lr=lr, mined=mined, seed=seed
    )
    fit_compose(
        mapping,
        images,
        parts,
        config,
        StageSettings(
            out,
            cache,
            compute=compute,
            patches=patches,
            tensorboard=tensorboard,
            steps=steps,
        ),
    )
    click.echo(f"Stage II is in {out}", err=True)
