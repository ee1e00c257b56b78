"""`ztcir train map`, Stage I: the token learner and VSI learn to say an image as a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import Batches, TrainingImage
from train.engine import Compute, Engine
from train.features import ImageFeatures, image_features
from train.losses import info_nce, soft_text_alignment
from train.model import ComposedModel, ModelConfig, describe_model, load_backbone, own_weights
from train.precision import autocast
from train.prompts import mapped_ids, text_ids
from train.record import data_fingerprint
from train.run import Run, Schedule, parameter_groups

__all__ = ["MapTraining", "encode_captions", "fit_map"]


@dataclass(frozen=True)
class MapTraining:
    """Configuration of Stage I.

    Attributes:
        alignment: weight of the soft text alignment; 0 leaves it out.
        temperature: tau of InfoNCE and of the queries' distribution over texts.
        target_temperature: tau_t of the soft target.
    """

    epochs: int = 8
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    alignment: float = 0.5
    temperature: float = 0.05
    target_temperature: float = 0.05
    seed: int = 0


def fit_map(
    backbone: str,
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    config: MapTraining,
    parts: ModelConfig,
    out: Path,
    *,
    cache: Path | None = None,
    compute: Compute | None = None,
    tensorboard: bool | None = False,
    stop_after: int | None = None,
) -> ComposedModel:
    """Train TL and VSI so that "a photo of $" finds its own image.

    Args:
        backbone: checkpoint of a backbone trained here, or "NAME:PRETRAINED" of open_clip.
        images: what is trained on; captions where there are any.
        development: images that "a photo of $" must find among themselves; selects ``best``.
        config: the stage's numbers; parts: which parts the model has.
        out: the run's folder; a killed run goes on.
        cache: folder of image features, shared between runs; ``out/cache`` by default.
        compute: device, precision, micro-batches; several processes where they were started.
        tensorboard: whether TensorBoard's events are written; ``None``: where it is installed.
        stop_after: stop at this step (for tests).
    """
    torch.manual_seed(config.seed)
    frozen, origin = load_backbone(backbone)
    model = ComposedModel(frozen, parts)
    model.adapters.requires_grad_(False)  # Stage II's
    engine = Engine(compute)
    engine.prepare(model)
    cache = cache or out / "cache"
    features, held_out = engine.workers.main_first(
        lambda: [image_features(model.backbone, some, cache) for some in (images, development)]
    )
    captions = encode_captions(
        model, [image.item.caption for image in images], precision=engine.compute.precision
    )
    optimizer = torch.optim.AdamW(
        parameter_groups([model.token_learner, model.vsi], config.lr, config.weight_decay),
        betas=(0.9, 0.98),
    )
    order = Batches(len(images), config.batch_size, config.seed)
    steps = config.epochs * order.per_epoch
    ids = mapped_ids(order.size, tokens=parts.tokens, tower=model.backbone.tower)

    def encode(some: NDArray[np.int64]) -> Tensor:
        with engine.autocast():
            return encode_mapped(model, *features.rows(some), ids).float()

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(order[number])
        queries = engine.encode(encode, rows)
        v = features.embeddings(rows).to(engine.device)
        loss = info_nce(queries, v, 1 / config.temperature)
        figures = {"info_nce": loss.item()}
        if config.alignment:
            texts = captions[rows].to(engine.device)
            aligned = soft_text_alignment(
                queries, texts, texts, config.temperature, config.target_temperature
            )
            figures["alignment"] = aligned.item()
            loss = loss + config.alignment * aligned
        return loss, figures

    run = Run(
        out,
        {
            **describe_model(model, "map"),
            "training": {**asdict(config), "images": len(images)},
            "backbone_training": origin.get("training"),
            "seed": config.seed,
        },
        {"model": model},
        optimizer,
        Schedule(steps, warmup=min(100, steps // 10 + 1)),
        fixed=own_weights(model),
        engine=engine,
        data={"training": data_fingerprint(images), "development": data_fingerprint(development)},
        tensorboard=tensorboard,
    )
    run.train(
        step,
        evaluate=lambda: evaluate_mapped(model, held_out, precision=engine.compute.precision),
        select_by="dev_self_R@1",
        evaluate_every=2 * order.per_epoch,
        samples=order.size,
        stop_after=stop_after,
    )
    return model


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
