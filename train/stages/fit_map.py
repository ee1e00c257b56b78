"""`ztcir train map`, Stage I: the token learner and VSI learn to say an image as a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data.batches import Batches
from train.data.image import TrainingImage
from train.data.stream import ShardStream
from train.loop.engine import Compute, Engine
from train.loop.features import ImageFeatures, image_features, text_features
from train.loop.precision import autocast
from train.loop.record import data_fingerprint
from train.loop.run import Run, Schedule, parameter_groups
from train.model.composed_model import (
    ComposedModel,
    ModelConfig,
    describe_model,
    load_backbone,
    own_weights,
)
from train.model.prompts import mapped_ids, text_ids
from train.stages.losses import info_nce
from train.stages.map_batches import Captions, ListedBatches, StreamedBatches, is_captioned
from train.stages.word_bank import TextAlignment, WordBank, default_words
from ztcir_sdk.errors import UsageError

__all__ = ["MapTraining", "encode_captions", "fit_map"]


@dataclass(frozen=True)
class MapTraining:
    """Configuration of Stage I.

    Attributes:
        alignment: weight of the soft text alignment; 0 leaves it out.
        temperature: tau of InfoNCE and of the queries' distribution over texts.
        target_temperature: tau_t of the soft target.
    """

    epochs: int = 4
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    alignment: float = 0.5
    temperature: float = 0.05
    target_temperature: float = 0.05
    seed: int = 0


def fit_map(
    backbone: str,
    images: Sequence[TrainingImage] | ShardStream,
    development: Sequence[TrainingImage],
    config: MapTraining,
    parts: ModelConfig,
    out: Path,
    *,
    cache: Path | None = None,
    word_bank: WordBank | None = None,
    compute: Compute | None = None,
    patches: bool | None = None,
    tensorboard: bool | None = False,
    steps: int | None = None,
    stop_after: int | None = None,
) -> ComposedModel:
    """Train TL and VSI so that "a photo of $" finds its own image.

    Args:
        backbone: checkpoint of a backbone trained here, or "NAME:PRETRAINED" of open_clip.
        images: what is trained on; captions where there are any. A stream is not listed, and
            nothing of it is kept: its pictures are encoded at every step, and every process reads
            its own shards. It needs ``steps``.
        development: images that "a photo of $" must find among themselves; selects ``best``.
        config: the stage's numbers; parts: which parts the model has.
        out: the run's folder; a killed run goes on.
        cache: folder of image features, shared between runs; ``out/cache`` by default.
        word_bank: what images without captions are aligned with; by default what the data name (of
            a stream: what ``development`` names), common attributes and ImageNet's names of
            objects.
        compute: device, precision, micro-batches; several processes where they were started.
        patches: whether patch features are kept in the cache; ``None``: where the disk has room.
        tensorboard: whether TensorBoard's events are written; ``None``: where it is installed.
        steps: length of the run in place of ``config.epochs``, evaluated after each quarter.
        stop_after: stop at this step (for tests).

    Raises:
        UsageError: a stream without ``steps``.
        DataError: a stream without a usable sample.
    """
    if isinstance(images, ShardStream) and steps is None:
        raise UsageError("A stream does not say how long it is; give the steps to make, --steps.")
    torch.manual_seed(config.seed)
    frozen, origin = load_backbone(backbone)
    model = ComposedModel(frozen, parts)
    model.adapters.requires_grad_(False)  # Stage II's
    engine = Engine(compute)
    engine.prepare(model)
    cache = cache or out / "cache"
    collections = [development] if isinstance(images, ShardStream) else [development, images]
    held_out, *features = engine.workers.main_first(
        lambda: [
            image_features(model.backbone, some, cache, patches=patches) for some in collections
        ]
    )

    def embed(texts: Sequence[str]) -> Tensor:
        return encode_captions(model, texts, precision=engine.compute.precision)

    def embed_once(texts: Sequence[str]) -> NDArray[np.float32]:
        return engine.workers.main_first(
            lambda: text_features(model.backbone, texts, cache, lambda: embed(texts))
        )

    batches: ListedBatches | StreamedBatches
    if isinstance(images, ShardStream):
        assert steps is not None
        batches = StreamedBatches(
            engine,
            model.backbone,
            images,
            config.batch_size,
            steps=steps,
            lengths=out,
            embed=embed if config.alignment else None,
        )
        batches.fingerprint["features"] = held_out.source
    else:
        batches = ListedBatches(
            engine,
            images,
            features[0],
            _captions(images, model, embed_once) if config.alignment else None,
            Batches(len(images), config.batch_size, config.seed),
            epochs=config.epochs,
            steps=steps,
        )
    alignment: TextAlignment | None = None
    if not batches.needs_words:
        word_bank = None
    elif word_bank is None:
        named = development if isinstance(images, ShardStream) else images
        word_bank = WordBank(default_words(named))
    if config.alignment:
        alignment = _text_alignment(model, word_bank, config, embed_once)
    optimizer = torch.optim.AdamW(
        parameter_groups([model.token_learner, model.vsi], config.lr, config.weight_decay),
        betas=(0.9, 0.98),
    )
    ids = mapped_ids(batches.samples, tokens=parts.tokens, tower=model.backbone.tower)

    def encode(v: Tensor, p: Tensor) -> Tensor:
        with engine.autocast():
            return encode_mapped(model, v, p, ids).float()

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batches[number]
        queries = batch.encode(encode)
        loss = info_nce(queries, batch.embeds, 1 / config.temperature)
        figures = {"info_nce": loss.item()}
        if alignment is not None:
            aligned = alignment.loss(queries, batch.embeds, batch.told, batch.captions)
            figures["alignment"] = aligned.item()
            loss = loss + config.alignment * aligned
        return loss, figures

    run = Run(
        out,
        {
            **describe_model(model, "map"),
            "training": {**asdict(config), **batches.sort},
            **({} if steps is None else {"steps": steps}),
            "backbone_training": origin.get("training"),
            "seed": config.seed,
            **({} if word_bank is None else {"word_bank": word_bank.describe()}),
        },
        {"model": model},
        optimizer,
        Schedule(batches.total, warmup=min(100, batches.total // 10 + 1)),
        fixed=own_weights(model),
        engine=engine,
        data={
            "training": batches.fingerprint,
            "development": data_fingerprint(development),
        },
        tensorboard=tensorboard,
    )
    run.train(
        step,
        evaluate=lambda: evaluate_mapped(model, held_out, precision=engine.compute.precision),
        select_by="dev_self_R@1",
        evaluate_every=batches.evaluate_every,
        samples=batches.samples,
        stop_after=stop_after,
    )
    return model


def _captions(
    images: Sequence[TrainingImage],
    model: ComposedModel,
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
) -> Captions:
    told = np.array([is_captioned(image) for image in images])
    texts = [image.item.caption for image in images if is_captioned(image)]
    nothing = np.empty((0, model.backbone.embed_dim), np.float32)
    return Captions(embed(texts) if texts else nothing, told)


def _text_alignment(
    model: ComposedModel,
    bank: WordBank | None,
    config: MapTraining,
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
) -> TextAlignment:
    """The alignment with captions and, where some are missing, with words of a bank."""
    backbone = model.backbone
    words = None if bank is None else np.array(embed(bank.prompts()))
    return TextAlignment(
        None if words is None else torch.from_numpy(words).to(backbone.device),
        nearest=0 if bank is None else bank.nearest,
        temperature=config.temperature,
        target_temperature=config.target_temperature,
        word_temperature=1 / min(float(backbone.clip.logit_scale.exp()), 100.0),
    )


def encode_mapped(model: ComposedModel, v: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
    """``f_t("a photo of $")`` (R, D), adapters off, on the model's device."""
    count, device = len(v), model.backbone.device
    return model.encode_query(
        ids[:count].to(device),
        torch.arange(count, device=device),
        torch.zeros(count, device=device),
        *model.learn_token(v.to(device), patches.to(device)),
    )


@torch.inference_mode()
def encode_captions(
    model: ComposedModel, captions: Sequence[str], batch: int = 512, *, precision: str = "bf16"
) -> Tensor:
    """Frozen text embeddings (M, D) float32 of captions, adapters off, on the CPU."""
    backbone, config = model.backbone, model.config
    layers = 0 if model.vsi is None else len(model.vsi.layers)
    nothing = torch.zeros(1, config.tokens, backbone.text_width, device=backbone.device)
    empty = torch.zeros(1, layers, backbone.num_patches, config.vsi_width, device=backbone.device)
    embeds = []
    for start in range(0, len(captions), batch):
        ids = text_ids(captions[start : start + batch], tower=backbone.tower).to(backbone.device)
        zeros = torch.zeros(len(ids), device=backbone.device)
        with autocast(backbone.device, precision):
            texts = model.encode_query(ids, zeros.long(), zeros, nothing, empty, empty)
        embeds.append(texts.float().cpu())
    return torch.cat(embeds)


@torch.inference_mode()
def evaluate_mapped(
    model: ComposedModel, features: ImageFeatures, *, precision: str = "bf16"
) -> dict[str, float]:
    """How often "a photo of $" finds the image it was made from, among all of a collection."""
    gallery = torch.from_numpy(features.embeds).to(model.backbone.device)
    found = 0
    for start in range(0, len(gallery), 512):
        rows = np.arange(start, min(start + 512, len(gallery)))
        v, patches = features.rows(rows)
        ids = mapped_ids(len(rows), tokens=model.config.tokens, tower=model.backbone.tower)
        with autocast(model.backbone.device, precision):
            queries = encode_mapped(model, v, patches, ids).float()
        found += int(((queries @ gallery.T).argmax(-1).cpu().numpy() == rows).sum())
    return {"dev_self_R@1": found / len(gallery)}
