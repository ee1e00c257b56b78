"""`ztcir train backbone|map|compose`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Group
from cli.output import note
from cli.train_data_options import (
    Collection,
    TripletOptions,
    collection_options,
    triplet_options,
)
from cli.train_options import (
    backbone_training,
    compose_training,
    map_training,
    run_settings,
    stage_settings,
)

if TYPE_CHECKING:
    from train.settings import (
        BackboneTraining,
        ComposeTraining,
        MapTraining,
        ModelConfig,
        RunSettings,
        StageSettings,
    )

__all__ = ["train"]


@click.group(cls=Group)
def train() -> None:
    """Train the two stages, or a small CLIP for them. Needs the packages of ztcir[train].

    An interrupted run resumes when its command is repeated.

    \b
    Examples:
      ztcir train map --backbone ViT-B-32:openai --data "cc3m/*.tar"
      ztcir train compose --map runs/map --data photos/ --triplets triplets.jsonl
    """


@train.command()
@collection_options()
@backbone_training
@run_settings("runs/backbone")
def backbone(collection: Collection, config: BackboneTraining, settings: RunSettings) -> None:
    """Train the small CLIP `fashion-lite` on a catalogue, on a CPU.

    The finished model is in the folder clip of the run.

    \b
    Examples:
      ztcir train backbone --data "catalogue/*.tar" --drawings 6000
      ztcir train backbone --data photos/ --start runs/backbone/clip --instances 3
    """
    from train.model import check_stage
    from train.stages.fit_backbone import fit_backbone

    if config.start is not None:
        check_stage(Path(config.start), "backbone")  # before data are read, which takes minutes
    images, development = collection.read(cache=settings.cache_folder)
    fit_backbone(images, development, config, settings)
    _report(f"The backbone is in {settings.out / 'clip'}")


@train.command(name="map")
@collection_options(stream=True)
@click.option(
    "--backbone",
    required=True,
    metavar="BACKBONE",
    help="Checkpoint of `ztcir train backbone`, or NAME:PRETRAINED of an open_clip model.",
)
@click.option(
    "--word-bank",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Words for images without captions, one per line; default: the data's attributes, common "
    "attributes, and ImageNet's class names.",
)
@map_training
@stage_settings("runs/map")
def train_map(
    collection: Collection,
    backbone: str,
    word_bank: Path | None,
    config: MapTraining,
    parts: ModelConfig,
    settings: StageSettings,
) -> None:
    """Train Stage I: the token learner and VSI learn to express an image as a word.

    To train on several GPUs, start it with `accelerate launch --no_python ztcir train map ...`.

    \b
    Examples:
      ztcir train map --backbone ViT-B-32:openai --data "cc3m/*.tar"
      ztcir train map --config vit-b-32-openai --data "cc3m/{00000..00331}.tar"
      ztcir train map --backbone runs/backbone/clip --data photos/ -o runs/photos
    """
    if collection.stream and settings.steps is None:
        raise click.UsageError("The length of a stream is unknown: --stream needs --steps.")
    from train.model_names import check_name

    if not Path(backbone).exists() and not {os.sep, "/"} & {*backbone.partition(":")[0]}:
        check_name(backbone.partition(":")[0])  # PyTorch takes seconds to load
    from train.model import check_backbone
    from train.stages.fit_map import fit_map
    from train.stages.word_bank import WordBank, read_words
    from train.triplets.stage_two import selecting_triplets

    check_backbone(backbone)  # before data are read, which takes minutes
    bank = None if word_bank is None else WordBank(read_words(word_bank))
    images, development = (
        collection.read_stream(config.seed)
        if collection.stream
        else collection.read(cache=settings.cache_folder)
    )
    fit_map(
        backbone,
        images,
        development,
        config,
        parts,
        settings,
        word_bank=bank,
        selecting=selecting_triplets(development),
    )
    _report(f"Stage I is in {settings.out}")


@train.command()
@collection_options()
@click.option(
    "--map",
    "mapping",
    type=click.Path(path_type=Path),
    required=True,
    metavar="CHECKPOINT",
    help="Checkpoint or run of Stage I.",
)
@triplet_options
@compose_training
@stage_settings("runs/compose")
def compose(
    collection: Collection,
    mapping: Path,
    triplets: TripletOptions,
    config: ComposeTraining,
    recipe_backbone: str | None,
    settings: StageSettings,
) -> None:
    """Train Stage II: the adapters learn to compose the pseudo-word with words.

    To train on several GPUs, start it with `accelerate launch --no_python ztcir train compose ...`.

    \b
    Examples:
      ztcir train compose --map runs/map --data "catalogue/*.tar"
      ztcir train compose --map runs/map --data photos/ --triplets triplets.jsonl
    """
    from train.model import check_stage
    from train.stages.fit_compose import fit_compose

    # before data are read and triplets made, which takes minutes
    origin = check_stage(mapping, "map", backbone=recipe_backbone)
    images, development = collection.read(
        streamed="stream" in origin.get("training", {}), cache=settings.cache_folder
    )
    data = triplets.read(images, development, seed=config.seed)
    fit_compose(mapping, images, data, config, settings)
    _report(f"Stage II is in {settings.out}")


def _report(sentence: str) -> None:
    """Print a sentence, in the main process only."""
    if os.environ.get("RANK", "0") == "0":
        note(sentence)
