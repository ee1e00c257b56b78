"""`ztcir train compose`, Stage II: the adapters learn to compose the pseudo-word with words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import DataError, TrainingImage
from train.loop.engine import Engine
from train.loop.features import ImageFeatures, image_features
from train.loop.precision import autocast
from train.loop.record import data_fingerprint, triplets_fingerprint
from train.loop.run import Evaluation, Run, Schedule, Validation, parameter_groups
from train.model import (
    ComposedModel,
    describe_model,
    encode_by_length,
    load_model,
    own_weights,
    prompt_ids,
)
from train.progress import progress_bar
from train.settings import ComposeTraining, StageSettings
from train.stages.hard_negatives import candidate_pool, mine
from train.stages.losses import multi_positive_nce
from train.stages.triplet_rows import TripletBatches, TripletRows
from train.triplets import StageTwoData
from ztcir_sdk.evaluation.metrics import average_precision_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank

__all__ = ["encode_composed", "evaluate_composed", "fit_compose"]

FEW_STEPS = 80  # each row of the ablation takes as many


def fit_compose(
    mapping: Path,
    images: Sequence[TrainingImage],
    data: StageTwoData,
    config: ComposeTraining,
    settings: StageSettings,
) -> ComposedModel:
    """Train the adapters alone: ``f_t("a photo of $ that {text}")`` is pulled to the targets.

    Args:
        mapping: checkpoint of Stage I.
        images: the gallery of the training triplets; their embeddings never change.
        data: the triplets to train on. Its development triplets select ``best/`` by mAP@10, and
            the strength of the adapters in it; its unseen wordings are measured only.
        config: hyperparameters.
        settings: the run's folder, how it is computed, and its length.

    Returns:
        The trained model.

    Raises:
        CheckpointError: ``mapping`` is not a checkpoint of Stage I, or the run cannot be resumed.
        DataError: the model has no adapters, or a triplet names an image that is not there.
    """
    torch.manual_seed(config.seed)
    model, origin = load_model(mapping, need="map")
    if not len(model.adapters):
        raise DataError(f"The model of {mapping} has no adapters; train it with --adapter above 0.")
    model.requires_grad_(False)
    model.adapters.requires_grad_(True)
    engine = Engine(settings.compute)
    engine.prepare(model)
    device, precision = engine.device, engine.compute.precision
    features, held_out = engine.workers.main_first(
        lambda: [
            image_features(model.backbone, some, settings.cache_folder, patches=settings.patches)
            for some in (images, data.development)
        ]
    )
    gallery = torch.from_numpy(features.embeds).to(device)
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
        batch = batches[number]
        queries = engine.encode(
            lambda part: encode_composed(
                model, features, batch, part, scale=1.0, precision=precision
            ),
            np.arange(len(batch)),
        )
        return contrastive_loss(queries, gallery, batch, config, rng)

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

    sizes = {"triplets": len(data.triplets), "images": len(images)}
    run = Run(
        settings.out,
        {
            **describe_model(model, "compose"),
            "training": {**asdict(config), **sizes},
            **settings.identity,
            "map_training": origin.get("training"),
            "backbone_training": origin.get("backbone_training"),
            "seed": config.seed,
        },
        {"model": model},
        torch.optim.AdamW(
            parameter_groups([model.adapters], config.lr, config.weight_decay), betas=(0.9, 0.98)
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
    )
    validation = Validation(
        evaluate,
        "dev_mAP@10",
        every=batches.evaluate_every,
        at_start=True,  # where triplets are few or noisy, Stage I alone may be better
    )
    run.train(step, validation, samples=batches.samples, stop_after=settings.stop_after)
    return model


def contrastive_loss(
    queries: Tensor,
    gallery: Tensor,
    batch: TripletRows,
    config: ComposeTraining,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch against its targets, references and hard negatives.

    Args:
        queries: (B, D) composed queries of the triplets in ``batch``, L2-normalised.
        gallery: (M, D) embeddings of all images.
        rng: chooses among the targets of each triplet.

    Returns:
        The loss, and the size of the candidate pool for the log.
    """
    chosen = [rng.choice(own, min(config.targets, len(own)), False) for own in batch.targets]
    targets = torch.from_numpy(np.concatenate(chosen)).to(gallery.device)
    first = np.array([own[0] for own in chosen])
    answers = batch.answers(first, gallery, config.near_duplicate)
    mined = mine(queries, gallery, answers, config.mined) if config.mined else None
    pool = candidate_pool(targets, answers.references, mined)
    embeds = gallery[pool]
    logits = queries @ embeds.T / config.temperature
    loss = multi_positive_nce(logits, answers.right(pool), answers.ignored(embeds, pool))
    return loss, {"pool": float(len(pool))}


def encode_composed(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    batch: NDArray[np.int64],
    *,
    scale: float,
    precision: str = "bf16",
) -> Tensor:
    """Return composed queries (B, D) float32 of the triplets at the positions ``batch`` (B,).

    Args:
        features: of the references.
        scale: strength of the adapters.
        precision: of `TRAINING_PRECISIONS`.
    """
    return encode_by_length(
        [len(rows.texts[row]) for row in batch],
        lambda part: _encode_padded(model, features, rows.take(batch[part]), scale, precision),
    )


def _encode_padded(
    model: ComposedModel, features: ImageFeatures, rows: TripletRows, scale: float, precision: str
) -> Tensor:
    v, patches = features.rows(rows.references)
    ids = prompt_ids(rows.texts, tokens=model.config.tokens, tower=model.backbone.tower)
    count, device = len(rows), model.backbone.device
    with autocast(device, precision):
        with torch.no_grad():
            reference = model.learn_token(v.to(device), patches.to(device))
        queries = model.encode_query(
            ids.to(device),
            torch.arange(count, device=device),
            torch.full((count,), scale, device=device),
            *reference,
        )
    return queries.float()


@torch.inference_mode()
def evaluate_composed(
    model: ComposedModel,
    features: ImageFeatures,
    rows: TripletRows,
    *,
    scale: float = 1.0,
    precision: str = "bf16",
) -> float:
    """Return mAP@10 of triplets over a collection; each ranking leaves out its reference.

    Args: see `encode_composed`.
    """
    batches = np.array_split(np.arange(len(rows)), -(-len(rows) // 256))
    queries = [
        encode_composed(model, features, rows, batch, scale=scale, precision=precision)
        .cpu()
        .numpy()
        for batch in progress_bar(batches, what="evaluation", leave=False)
    ]
    ranking = rank(
        np.concatenate(queries), features.embeds, 10, excluded=[[row] for row in rows.references]
    )
    counts = [len(targets) for targets in rows.targets]
    right = relevance(ranking, [targets.tolist() for targets in rows.targets])
    return float(average_precision_at_k(right, counts, 10).mean())
