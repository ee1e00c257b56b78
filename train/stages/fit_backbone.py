"""`ztcir train backbone`: a small CLIP from a catalogue, on a CPU.

The image trunk starts from ImageNet's weights. Its lower stages stay frozen, so their output is
computed once for a few views of every image. The upper stages, both projections and the text tower
learn from two kinds of text: the product's own caption, which belongs to one image, and
descriptions of its attributes in varied words, which belong to every image that they are true of.
Optionally, two views of a photo must also find each other among all photos, so that the embedding
keeps what no text describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from train.data import Batches, TrainingImage
from train.loop.record import data_fingerprint
from train.loop.run import Evaluation, Run, Schedule, Validation
from train.model import (
    Backbone,
    BackboneConfig,
    create_backbone,
    encode_by_length,
    load_backbone,
    read_checkpoint,
    write_checkpoint,
)
from train.progress import progress_bar
from train.settings import BackboneTraining, RunSettings
from train.stages.attribute_classifiers import AttributeClassifiers
from train.stages.attribute_texts import Texts, tokenize
from train.stages.fast_trunk import forward_upper_stages
from train.stages.losses import info_nce, multi_positive_nce
from train.stages.lower_stages import cache_lower_stages, load_imagenet, recalibrate_norms
from train.stages.word_vectors import SemanticTokenEmbedding, sentence_encoder_rows
from ztcir_sdk.evaluation.attribute_caption import attribute_caption
from ztcir_sdk.evaluation.metrics import average_precision_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["fit_backbone"]

TEXTS = 128  # encoded at a time


class _Trained(nn.Module):
    """The modules that a backbone run trains and saves."""

    def __init__(
        self,
        backbone: Backbone,
        tokens: SemanticTokenEmbedding | None,
        attributes: AttributeClassifiers | None,
    ) -> None:
        super().__init__()
        self.clip = backbone.clip
        self.tokens = tokens
        self.attributes = attributes


def fit_backbone(
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    config: BackboneTraining,
    settings: RunSettings,
) -> Backbone:
    """Train a small CLIP; ``last/`` and ``best/`` hold checkpoints, ``clip/`` the finished model.

    Args:
        images: the training images.
        development: images that select ``best/``: attribute captions must retrieve them.
        config: hyperparameters.
        settings: the run's folder; its cache holds the frozen stages' output.

    Returns:
        The trained backbone.

    Raises:
        CheckpointError: there is no backbone to start from, or the run cannot be resumed.
        MissingDependencyError: a package with initial weights is not installed.
    """
    torch.manual_seed(config.seed)
    cache = settings.cache_folder
    backbone = _initial_backbone(images, config)
    trunk = backbone.clip.visual.trunk
    lower = cache_lower_stages(backbone, images, config, cache / "lower.npy", views=config.views)
    texts = Texts(images, config)
    held_out = _Development(backbone, development, config, cache / "development.npy")

    tokens = _token_rows(backbone, texts, config, cache / "words.npy")
    if tokens is not None or config.start is not None:
        backbone.text.token_embedding.weight.requires_grad_(False)
    classifiers = None
    if config.attributes:
        classifiers = AttributeClassifiers(texts.values, backbone.embed_dim, backbone.patch_dim)
    trained = _Trained(backbone, tokens, classifiers)
    for module in (trunk.conv_stem, trunk.bn1, trunk.blocks[: config.first_stage]):
        module.requires_grad_(False)
    order = Batches(len(images), config.batch_size, config.seed)
    steps = config.epochs * order.per_epoch
    head = backbone.clip.visual.head

    def encode_views(views: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return L2-normalised embeddings (B, D) and mean patches of one view of each image."""
        features = np.stack([lower[v, r] for v, r in zip(views, rows, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            patches = forward_upper_stages(
                trunk, torch.from_numpy(features).float(), config.first_stage
            )
            pooled = patches.mean(1)
            return F.normalize(head(pooled).float(), dim=-1), pooled.float()

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        trunk.train()
        rows = np.sort(order[number])
        views = rng.integers(0, config.views, len(rows))
        is_caption = rng.random(len(rows)) < config.caption_share
        columns = np.where(is_caption, 0, rng.integers(1, 1 + config.descriptions, len(rows)))
        ids = texts.ids[rows, columns]
        lengths = ids.argmax(-1) + 1  # end-of-text has the highest id
        image_embeds, pooled = encode_views(views, rows)
        with torch.autocast("cpu", torch.bfloat16):
            text_embeds = encode_by_length(
                lengths.tolist(),
                lambda part: encode_text(backbone, ids[part, : int(lengths[part].max())], tokens),
                most=TEXTS,
            )
        scale = backbone.clip.logit_scale.exp().clamp(max=100)
        logits = scale * text_embeds.float() @ image_embeds.T
        positive = texts.positives(rows, columns)
        domain = torch.from_numpy(texts.domain[rows])
        other_domain = domain[:, None] != domain[None, :]
        loss = multi_positive_nce(logits, positive, other_domain)
        loss = (loss + multi_positive_nce(logits.T, positive.T, other_domain.T)) / 2
        if config.instances:
            others = (views + rng.integers(1, config.views, len(rows))) % config.views
            other_embeds, _ = encode_views(others, rows)
            instances = info_nce(image_embeds, other_embeds, 1 / config.instance_temperature)
            loss = loss + config.instances * instances
        if classifiers is not None:
            read = classifiers.loss(rows, image_embeds, pooled, config.label_smoothing)
            loss = loss + config.attributes * read
        return loss, {"scale": scale.item()}

    run = Run(
        settings.out,
        {"kind": "backbone", **asdict(config), "images": len(images)},
        {"model": trained},
        _optimizer(trained, trunk, config),
        Schedule(steps, warmup=min(100, steps // 10 + 1)),
        save_every=50,
        data={"training": data_fingerprint(images), "development": data_fingerprint(development)},
    )
    run.train(
        step,
        Validation(
            lambda: Evaluation(held_out.evaluate(tokens)), "dev_mAP@10", every=2 * order.per_epoch
        ),
        samples=order.size,
        stop_after=settings.stop_after,
    )
    if settings.stop_after is None:
        _, best = read_checkpoint(settings.out / "best")
        trained.load_state_dict(best["model"])
        trunk.eval()
        if tokens is not None:
            backbone.text.token_embedding.weight.data.copy_(tokens.materialise())
        _write_clip(settings.out / "clip", backbone, config)
    return backbone


def _initial_backbone(images: Sequence[TrainingImage], config: BackboneTraining) -> Backbone:
    """Return the backbone that a run starts from."""
    if config.start is not None:
        backbone, _ = load_backbone(config.start)
        backbone.clip.requires_grad_(True)
        return backbone
    backbone = create_backbone(BackboneConfig(config.backbone))
    trunk = backbone.clip.visual.trunk
    load_imagenet(trunk)
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    sample = np.random.default_rng([config.seed, 4]).permutation(len(images))[:2048]
    recalibrate_norms(trunk, torch.from_numpy(preprocess([images[i].load() for i in sample])))
    return backbone


def _token_rows(
    backbone: Backbone, texts: Texts, config: BackboneTraining, path: Path
) -> SemanticTokenEmbedding | None:
    """Return the token rows to train, from a sentence encoder's or the start's; None trains none.

    A sentence encoder's are kept in the file ``path``.
    """
    if config.start is not None:
        if not config.train_tokens:
            return None
        rows = backbone.text.token_embedding.weight.detach().clone()
        return SemanticTokenEmbedding(rows, torch.unique(texts.ids))
    if config.word_vectors != "minilm":
        return None
    if not path.is_file():
        np.save(path, sentence_encoder_rows(backbone.text_width).numpy())
    return SemanticTokenEmbedding(torch.from_numpy(np.load(path)), torch.unique(texts.ids))


def _optimizer(
    trained: _Trained, trunk: nn.Module, config: BackboneTraining
) -> torch.optim.Optimizer:
    """Return AdamW with a learning rate for the trunk and one for the rest."""
    image_part = [p for p in trunk.parameters() if p.requires_grad]
    known = {id(p) for p in image_part}
    other = [p for p in trained.parameters() if p.requires_grad and id(p) not in known]
    groups = []
    for parameters, lr in ((image_part, config.image_lr), (other, config.text_lr)):
        gains = [p for p in parameters if p.ndim < 2]  # and biases, which do not decay either
        groups += [
            {"params": [p for p in parameters if p.ndim > 1], "lr": lr},
            {"params": gains, "lr": lr, "weight_decay": 0},
        ]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, betas=(0.9, 0.98))


def _write_clip(folder: Path, backbone: Backbone, config: BackboneTraining) -> None:
    """Write the finished backbone as a checkpoint that the stages start from."""
    write_checkpoint(
        folder,
        {
            "kind": "backbone",
            "backbone": asdict(backbone.config),
            "quick_gelu": backbone.quick_gelu,
            "training": asdict(config),
        },
        {"backbone": backbone.clip.state_dict()},
    )


def encode_text(backbone: Backbone, ids: Tensor, tokens: SemanticTokenEmbedding | None) -> Tensor:
    """Return L2-normalised text embeddings (B, D) of ids (B, T)."""
    x = tokens(ids) if tokens is not None else backbone.embed_tokens(ids)
    x = backbone.add_positions(x)
    mask = backbone.causal_mask(ids.shape[1])
    for layer in range(backbone.text_layers):
        x = backbone.text_block(layer, x, mask)
    return backbone.pool_text(x, ids)


class _Development:
    """Measures whether attribute captions retrieve the development images that they are true of."""

    def __init__(
        self,
        backbone: Backbone,
        images: Sequence[TrainingImage],
        config: BackboneTraining,
        path: Path,
    ) -> None:
        self.backbone, self.config = backbone, config
        self.features = cache_lower_stages(backbone, images, config, path, views=1)[0]
        captions = [
            attribute_caption(image.item.colour, image.item.type, image.item.gender)
            for image in images
        ]
        unique = sorted(set(captions))
        self.ids = tokenize(unique)
        self.targets = [[i for i, own in enumerate(captions) if own == one] for one in unique]

    @torch.inference_mode()
    def evaluate(self, tokens: SemanticTokenEmbedding | None) -> dict[str, float]:
        """Return mAP@10 of attribute captions over the development images."""
        trunk = self.backbone.clip.visual.trunk
        trunk.eval()
        embeds = []
        starts = range(0, len(self.features), 512)
        with torch.autocast("cpu", torch.bfloat16):
            for start in progress_bar(starts, what="evaluation", leave=False):
                lower = torch.from_numpy(self.features[start : start + 512].astype(np.float32))
                patches = forward_upper_stages(trunk, lower, self.config.first_stage)
                embeds.append(F.normalize(self.backbone.clip.visual.head(patches.mean(1)), dim=-1))
            text = torch.cat(
                [encode_text(self.backbone, ids, tokens) for ids in torch.split(self.ids, 512)]
            )
        ranking = rank(text.float().numpy(), torch.cat(embeds).float().numpy(), 10)
        found = relevance(ranking, self.targets)
        counts = [len(rows) for rows in self.targets]
        return {"dev_mAP@10": float(average_precision_at_k(found, counts, 10).mean())}
