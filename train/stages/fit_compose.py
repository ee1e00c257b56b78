"""`ztcir train compose`, Stage II: the adapters learn to compose the pseudo-word with words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data import DataError, TrainingImage
from train.loop.engine import Engine
from train.loop.features import ImageFeatures, image_features, text_features
from train.loop.record import data_fingerprint, triplets_fingerprint
from train.loop.run import Evaluation, Run, Schedule, Validation, parameter_groups
from train.model import (
    ComposedModel,
    describe_model,
    load_model,
    own_weights,
)
from train.settings import ComposeTraining, StageSettings, described
from train.stages.composed_queries import encode_composed, evaluate_composed
from train.stages.frozen_captions import encode_captions
from train.stages.gallery import Gallery
from train.stages.hard_negatives import candidate_pool
from train.stages.losses import multi_positive_nce
from train.stages.map_batches import is_captioned
from train.stages.triplet_rows import TripletBatches, TripletRows
from train.triplets import StageTwoData
from train.triplets.open_requests import KEEP, TYPO
from train.word_counts import VOCABULARY_KEY, training_vocabulary
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.attribute_caption import attribute_caption
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.names import is_known

__all__ = ["fit_compose"]

FEW_STEPS = 80  # each row of the ablation takes as many
COMBINER_IMAGES = 20_000  # most images that the combiner's estimate of an image is fitted to


def fit_compose(
    stage_one: Path,
    images: Sequence[TrainingImage],
    data: StageTwoData,
    config: ComposeTraining,
    settings: StageSettings,
) -> ComposedModel:
    """Train the adapters alone: ``f_t("a photo of $ that {text}")`` is pulled to the targets.

    Args:
        stage_one: checkpoint of Stage I.
        images: the gallery of the training triplets; their embeddings never change.
        data: the triplets to train on. Its development triplets select ``best/`` by mAP@10, and
            the strength of the adapters in it; its unseen wordings are measured only.
        config: hyperparameters.
        settings: the run's folder, how it is computed, and its length.

    Returns:
        The trained model.

    Raises:
        CheckpointError: ``stage_one`` is not a checkpoint of Stage I, or the run cannot be resumed.
        DataError: the model has no adapters, or a triplet names an image that is not there.
        UsageError: Stage I was trained on patches pooled to another grid.
    """
    torch.manual_seed(config.seed)
    model, origin = load_model(stage_one, need="map")
    if not len(model.adapters):
        raise DataError(
            f"The model of {stage_one} has no adapters; train it with --adapter above 0."
        )
    if settings.patch_grid not in (None, model.config.patch_grid):
        own = model.config.patch_grid
        raise UsageError(
            f"Stage I of {stage_one} was trained on "
            f"{'all patches' if own is None else 'patches pooled to {}x{}'.format(*own)}; give "
            "Stage II the same --patches."
        )
    model.requires_grad_(False)
    mapping = [model.token_learner, model.vsi] if config.mapping_lr else []
    for module in (model.adapters, model.combiner, *mapping):
        if module is not None:
            module.requires_grad_(True)
    engine = Engine(settings.compute)
    engine.prepare(model)
    precision = engine.compute.precision
    features, held_out = (
        image_features(
            model.backbone,
            some,
            settings.cache_folder,
            patches=settings.patches,
            storage=settings.patch_storage,
            workers=engine.workers,
        )
        for some in (images, data.development)
    )
    gallery = Gallery(features.embeds, engine.workers, every=config.mine_every)
    captions = None
    if config.captions or model.config.combiner_captions:
        captions = _captions(model, images, settings, engine)
    if model.combiner is not None:
        _prepare_combiner(model, features, captions)
    batches = TripletBatches(TripletRows.of(data.triplets, features.ids), config, settings.steps)
    checks = {"dev": data.development_triplets, "dev_unseen_wordings": data.unseen_wordings}
    checked = {name: TripletRows.of(some, held_out.ids) for name, some in checks.items() if some}
    if settings.steps is None and batches.total < FEW_STEPS and engine.workers.is_main:
        print(
            f"{len(data.triplets)} triplets in {config.epochs} epochs give only {batches.total} "
            f"steps; use --steps {FEW_STEPS} to train longer.",
            file=sys.stderr,
        )

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if number + 1 < batches.total:
            features.announce(engine.workers.share(batches[number + 1].references))
        batch, gallery.step = batches[number], number
        queries = engine.encode(
            lambda part: encode_composed(
                model, features, batch, part, scale=1.0, precision=precision
            ),
            np.arange(len(batch)),
        )
        return contrastive_loss(queries, gallery, captions, batch, config, rng)

    def measure(name: str, strength: float) -> float:
        return evaluate_composed(
            model, held_out, checked[name], scale=strength, precision=precision
        )

    def evaluate() -> Evaluation:
        """Weaken the adapters as long as that helps; weights of that strength are to be kept."""
        strength, best = config.strengths[0], measure("dev", config.strengths[0])
        for weaker in config.strengths[1:]:
            found = measure("dev", weaker)
            if found <= best:
                break
            strength, best = weaker, found
        others = {f"{name}_mAP@10": measure(name, strength) for name in checked if name != "dev"}
        figures = {"dev_mAP@10": best, **others, "adapter_strength": strength}
        return Evaluation(figures, {"model": model.parts(strength=strength)})

    facts = {
        "triplets": len(data.triplets),
        "images": len(images),
        VOCABULARY_KEY: learned_words(images, data.triplets),
    }
    combining = []
    if model.combiner is not None:
        combining = parameter_groups([model.combiner], config.combiner_lr, config.weight_decay)
    run = Run(
        settings.out,
        {
            **describe_model(model, "compose"),
            "training": {**described(config), **facts},
            **settings.identity,
            "map_training": origin.get("training"),
            "backbone_training": origin.get("backbone_training"),
            "seed": config.seed,
        },
        {"model": model},
        engine.optimizer(
            [
                *parameter_groups([model.adapters], config.lr, config.weight_decay),
                *combining,
                *parameter_groups(mapping, config.mapping_lr, config.weight_decay),
            ]
        ),
        Schedule(batches.total, warmup=min(50, batches.total // 10 + 1)),
        fixed=own_weights(model),
        engine=engine,
        data={
            "training": {**data_fingerprint(images), "features": features.source},
            "development": data_fingerprint(data.development),
            "triplets": triplets_fingerprint(data.triplets),
            "development_triplets": triplets_fingerprint(data.development_triplets),
        },
        tensorboard=settings.tensorboard,
        ema=config.ema,
        clip=config.clip,
    )
    validation = Validation(
        evaluate,
        "dev_mAP@10",
        every=batches.evaluate_every,
        at_start=True,  # where triplets are few or noisy, Stage I alone may be better
    )
    run.train(
        step,
        validation,
        samples=batches.samples,
        stop_after=settings.stop_after,
        out_of_time=settings.out_of_time,
    )
    return model


def learned_words(images: Sequence[TrainingImage], triplets: Sequence[Triplet]) -> list[str]:
    """Return the words that a training on these teaches, the commonest first.

    Mistyped requests and those that no photo answers teach no words.
    """
    captions = [image.item.caption for image in images if is_captioned(image)]
    requests = [one.text for one in triplets if one.kind not in (TYPO, KEEP)]
    return training_vocabulary([*captions, *requests])


@torch.inference_mode()
def _prepare_combiner(
    model: ComposedModel, features: ImageFeatures, captions: _Captions | None
) -> None:
    """Show the combiner images and captions, before it is trained."""
    combiner = model.combiner
    assert combiner is not None
    rows = np.arange(len(features.ids))
    rows = rows[:: -(-len(rows) // COMBINER_IMAGES)]
    described = []
    for part in np.array_split(rows, -(-len(rows) // 256)):
        v, patches = (some.to(model.backbone.device) for some in features.rows(part))
        described.append(combiner.describe(*model.learn_token(v, patches)))
    combiner.fit(torch.cat(described), features.embeddings(rows).to(model.backbone.device))
    if captions is not None:
        combiner.remember(captions.commonest())


@dataclass(frozen=True)
class _Captions:
    """Embeddings (K, D) of the distinct captions of a gallery, and each image's caption (M,).

    -1 stands for an image without a caption.
    """

    embeds: Tensor
    of_image: Tensor

    def commonest(self) -> Tensor:
        """Return the embeddings (K, D), those of the commonest captions first."""
        counts = torch.bincount(self.of_image[self.of_image >= 0], minlength=len(self.embeds))
        return self.embeds[counts.argsort(descending=True, stable=True)]


def _captions(
    model: ComposedModel, images: Sequence[TrainingImage], settings: StageSettings, engine: Engine
) -> _Captions | None:
    """Return the captions that queries are pulled to; None if no image has one."""
    texts = [_caption(image) for image in images]
    distinct = sorted(set(texts) - {""})
    if not distinct:
        return None
    number = {text: place for place, text in enumerate(distinct)} | {"": -1}
    embeds = text_features(
        model.backbone,
        distinct,
        settings.cache_folder,
        lambda some: encode_captions(model, some, precision=engine.compute.precision),
        workers=engine.workers,
    )
    return _Captions(
        torch.from_numpy(np.array(embeds)).to(engine.device),
        torch.tensor([number[text] for text in texts], device=engine.device),
    )


def _caption(image: TrainingImage) -> str:
    """Return the description of an image's attributes, else its own caption."""
    item = image.item
    if all(is_known(value) for value in (item.colour, item.type, item.gender)):
        return attribute_caption(item.colour, item.type, item.gender)
    return item.caption if is_captioned(image) else ""


def contrastive_loss(
    queries: Tensor,
    gallery: Gallery,
    captions: _Captions | None,
    batch: TripletRows,
    config: ComposeTraining,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch against its targets, references and hard negatives.

    Args:
        queries: (B, D) composed queries of the triplets in ``batch``, L2-normalised.
        gallery: embeddings of all images.
        captions: of all images.
        rng: chooses among the targets of each triplet.

    Returns:
        The loss, and the size of the candidate pool for the log.
    """
    chosen = [rng.choice(own, min(config.targets, len(own)), False) for own in batch.targets]
    targets = torch.from_numpy(np.concatenate(chosen)).to(gallery.device)
    first = np.array([own[0] for own in chosen])
    answers = batch.answers(first, gallery, config.near_duplicate)
    mined = None
    if config.mined:
        mined = gallery.mine(queries, answers, config.mined, positive_aware=config.positive_aware)
    pool = candidate_pool(targets, answers.references, mined)
    embeds = gallery[pool]
    logits = queries @ embeds.T / config.temperature
    right = answers.right(pool)
    loss = multi_positive_nce(logits, right, answers.ignored(embeds, pool))
    figures = {"pool": float(len(pool))}
    if captions is not None and config.captions:
        caption_loss = _caption_loss(queries, right, captions, pool, config.temperature)
        if caption_loss is not None:
            figures["captions"] = caption_loss.item()
            loss = loss + config.captions * caption_loss
    return loss, figures


def _caption_loss(
    queries: Tensor, right: Tensor, captions: _Captions, pool: Tensor, temperature: float
) -> Tensor | None:
    """Return the loss of queries (B, D) against the captions of a pool; None if none is right.

    ``right`` (B, C) bool says which images of the pool (C,) are right answers.
    """
    caption_of = captions.of_image[pool]
    described = caption_of >= 0
    distinct, place = torch.unique(caption_of[described], return_inverse=True)
    true = torch.zeros(len(queries), len(distinct), dtype=torch.bool, device=right.device)
    query, column = right[:, described].nonzero(as_tuple=True)
    true[query, place[column]] = True
    if not bool(true.any()):
        return None
    return multi_positive_nce(queries @ captions.embeds[distinct].T / temperature, true)
