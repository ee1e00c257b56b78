"""`ztcir train map`, Stage I: the token learner and VSI learn to express an image as a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Batches, ShardStream, TrainingImage
from train.loop.engine import Engine
from train.loop.features import ImageFeatures, image_features, text_features
from train.loop.precision import autocast
from train.loop.record import data_fingerprint
from train.loop.run import Evaluation, Run, Schedule, Validation, parameter_groups
from train.model import (
    Backbone,
    ComposedModel,
    describe_model,
    load_backbone,
    mapped_ids,
    own_weights,
)
from train.progress import progress_bar
from train.settings import MapTraining, ModelConfig, StageSettings, described
from train.stages.composed_queries import evaluate_composed
from train.stages.frozen_captions import encode_captions
from train.stages.losses import info_nce
from train.stages.map_batches import Captions, ListedBatches, StreamedBatches, is_captioned
from train.stages.map_objectives import EmbedTexts, Reference, check_objectives, map_objectives
from train.stages.triplet_rows import TripletRows
from train.stages.word_bank import TextAlignment, WordBank, default_words
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.triplets import Triplet

__all__ = ["evaluate_mapped", "fit_map"]


def fit_map(
    backbone: str,
    images: Sequence[TrainingImage] | ShardStream,
    development: Sequence[TrainingImage],
    config: MapTraining,
    parts: ModelConfig,
    settings: StageSettings,
    *,
    word_bank: WordBank | None = None,
    selecting: Sequence[Triplet] = (),
) -> ComposedModel:
    """Train the token learner and VSI so that "a photo of $" retrieves its own image.

    Args:
        backbone: checkpoint of a backbone trained here, or "NAME:PRETRAINED" of open_clip.
        images: the training images, with captions where there are any. A stream needs
            ``settings.steps``; its images are encoded at every step, nothing is cached, and every
            process reads its own shards.
        development: images that select ``best/``.
        config: hyperparameters.
        parts: which parts the model has, and their sizes.
        settings: the run's folder, how it is computed, and its length.
        word_bank: words that align images without captions; by default those that the images (of a
            stream: ``development``) name, common attributes and ImageNet's class names.
        selecting: triplets of the development images, whose targets "a photo of $ that {text}" must
            find, as Stage II will need it; without any, "a photo of $" must find its own image,
            which soon is nearly always so.

    Returns:
        The trained model.

    Raises:
        CheckpointError: there is no such backbone, or the run cannot be resumed.
        UsageError: ``images`` is a stream, and ``settings.steps`` is not set; or a loss that is
            switched on does not fit the model or the stream.
        DataError: the stream has no usable sample.
    """
    if isinstance(images, ShardStream) and settings.steps is None:
        raise UsageError("The length of a stream is unknown: --stream needs --steps.")
    check_objectives(config, parts, images)
    torch.manual_seed(config.seed)
    frozen, origin = load_backbone(backbone)
    if settings.patch_grid is not None:
        parts = replace(parts, patch_grid=settings.patch_grid)
    model = ComposedModel(frozen, parts)
    for later in (model.adapters, model.combiner):  # Stage II trains them
        if later is not None:
            later.requires_grad_(False)
    engine = Engine(settings.compute)
    engine.prepare(model)
    precision = engine.compute.precision
    listed = [] if isinstance(images, ShardStream) else [images]
    held_out, *features = (
        image_features(
            frozen,
            some,
            settings.cache_folder,
            patches=settings.patches,
            storage=settings.patch_storage,
            workers=engine.workers,
        )
        for some in (development, *listed)
    )

    def embed(texts: Sequence[str]) -> Tensor:
        return encode_captions(model, texts, precision=precision)

    def embed_cached(texts: Sequence[str]) -> NDArray[np.float32]:
        return text_features(frozen, texts, settings.cache_folder, embed, workers=engine.workers)

    batches: ListedBatches | StreamedBatches
    if isinstance(images, ShardStream):
        assert settings.steps is not None
        batches = StreamedBatches(
            engine,
            frozen,
            images,
            config.batch_size,
            steps=settings.steps,
            lengths=settings.out,
            embed=embed if config.alignment else None,
        )
        batches.fingerprint["features"] = held_out.source
        named = development
    else:
        batches = ListedBatches(
            engine,
            images,
            features[0],
            _captions(images, frozen, embed_cached) if config.alignment else None,
            Batches(len(images), config.batch_size, config.seed),
            epochs=config.epochs,
            steps=settings.steps,
        )
        named = images
    bank = word_bank or WordBank(default_words(named)) if batches.needs_words else None
    alignment = _text_alignment(frozen, bank, config, embed_cached) if config.alignment else None
    ids = mapped_ids(batches.samples, tokens=parts.tokens, tower=frozen.tower)

    objectives = map_objectives(model, listed[0] if listed else [], config, embed_cached)
    width = frozen.embed_dim

    def encode(v: Tensor, patches: Tensor, rows: NDArray[np.int64]) -> Tensor:
        with engine.autocast():
            reference = model.learn_token(v, patches)
            queries = _encode_mapped(model, reference, ids)
            columns = [queries, *(one.encode(rows, reference) for one in objectives)]
        return torch.cat([some.float() for some in columns], dim=1)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batches[number]
        for objective in objectives:
            objective.begin(number, batch.rows)
        queries, *others = batch.encode(encode).split(
            [width, *(one.width for one in objectives)], 1
        )
        loss = info_nce(queries, batch.embeds, 1 / config.temperature)
        figures = {"info_nce": loss.item()}
        if alignment is not None:
            aligned = alignment.loss(queries, batch.embeds, batch.captioned, batch.captions)
            figures["alignment"] = aligned.item()
            loss = loss + config.alignment * aligned
        for objective, encoded in zip(objectives, others, strict=True):
            found = objective.loss(encoded, batch.rows)
            if found is not None:
                figures[objective.name] = found.item()
                loss = loss + objective.weight * found
        return loss, figures

    triplets = TripletRows.of(selecting, held_out.ids) if selecting else None

    def evaluate() -> Evaluation:
        figures = evaluate_mapped(model, held_out, precision=precision)
        if triplets is not None:
            figures["dev_mAP@10"] = evaluate_composed(
                model, held_out, triplets, scale=0.0, precision=precision
            )
        return Evaluation(figures)

    run = Run(
        settings.out,
        {
            **describe_model(model, "map"),
            "training": {**described(config), **batches.description},
            **settings.identity,
            "backbone_training": origin.get("training"),
            "seed": config.seed,
            **({} if bank is None else {"word_bank": bank.describe()}),
        },
        {"model": model},
        engine.optimizer(
            parameter_groups([model.token_learner, model.vsi], config.lr, config.weight_decay)
        ),
        Schedule(batches.total, warmup=min(100, batches.total // 10 + 1)),
        fixed=own_weights(model),
        engine=engine,
        data={"training": batches.fingerprint, "development": data_fingerprint(development)},
        tensorboard=settings.tensorboard,
        ema=config.ema,
        clip=config.clip,
    )
    run.train(
        step,
        Validation(
            evaluate,
            "dev_self_R@1" if triplets is None else "dev_mAP@10",
            every=batches.evaluate_every,
        ),
        samples=batches.samples,
        stop_after=settings.stop_after,
        out_of_time=settings.out_of_time,
    )
    return model


def _captions(images: Sequence[TrainingImage], backbone: Backbone, embed: EmbedTexts) -> Captions:
    captioned = np.array([is_captioned(image) for image in images])
    texts = [image.item.caption for image in images if is_captioned(image)]
    return Captions(
        embed(texts) if texts else np.empty((0, backbone.embed_dim), np.float32), captioned
    )


def _text_alignment(
    backbone: Backbone, bank: WordBank | None, config: MapTraining, embed: EmbedTexts
) -> TextAlignment:
    """Return the alignment with captions and, if some images lack one, with words of a bank."""
    words = None if bank is None else torch.from_numpy(np.array(embed(bank.prompts())))
    return TextAlignment(
        None if words is None else words.to(backbone.device),
        nearest=0 if bank is None else bank.nearest,
        temperature=config.temperature,
        target_temperature=config.target_temperature,
        word_temperature=1 / min(float(backbone.clip.logit_scale.exp()), 100.0),
    )


def encode_mapped(model: ComposedModel, v: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
    """Return ``f_t("a photo of $")`` (R, D) of some images, adapters off, on the model's device.

    ``v`` is (R, D), ``patches`` (R, N, d_v), and ``ids`` (R or more, T), the prompt in every row.
    """
    device = model.backbone.device
    return _encode_mapped(model, model.learn_token(v.to(device), patches.to(device)), ids)


def _encode_mapped(model: ComposedModel, reference: Reference, ids: Tensor) -> Tensor:
    count, device = len(reference[0]), model.backbone.device
    return model.encode_query(
        ids[:count].to(device), None, torch.zeros(count, device=device), *reference
    )


@torch.inference_mode()
def evaluate_mapped(
    model: ComposedModel, features: ImageFeatures, *, precision: str = "bf16"
) -> dict[str, float]:
    """Return how often "a photo of $" retrieves its own image among all of a collection (R@1)."""
    gallery = torch.from_numpy(features.embeds).to(model.backbone.device)
    found = 0
    for start in progress_bar(range(0, len(gallery), 512), what="evaluation", leave=False):
        rows = np.arange(start, min(start + 512, len(gallery)))
        v, patches = features.rows(rows)
        ids = mapped_ids(len(rows), tokens=model.config.tokens, tower=model.backbone.tower)
        with autocast(model.backbone.device, precision):
            queries = encode_mapped(model, v, patches, ids).float()
        found += int(((queries @ gallery.T).argmax(-1).cpu().numpy() == rows).sum())
    return {"dev_self_R@1": found / len(gallery)}
