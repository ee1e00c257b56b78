"""A tiny CLIP and drawn images, for training runs that take seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from train.data import TrainingImage, drawn_images
from train.model import Backbone, BackboneConfig, ModelConfig, create_backbone, write_checkpoint
from train.settings import MapTraining

PARTS = ModelConfig(
    token_learner_width=32, token_learner_depth=1, vsi_width=16, adapter_bottleneck=8
)
TRAINING = MapTraining(epochs=2, batch_size=16)
PIXELS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "longest",
    "fill_color": 255,
}


def write_configuration(folder: Path, *, text: Any = None, **model: Any) -> Path:
    """Write an open_clip configuration of a tiny CLIP; ``text`` changes its text tower."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
    tower = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
    fields = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {**tower, **(text or {})}, **model}
    content = json.dumps({"model_cfg": fields, "preprocess_cfg": PIXELS})
    (folder / "open_clip_config.json").write_text(content, encoding="utf-8")
    return folder


def write_backbone(folder: Path, *, text: Any = None, seed: int = 0, **model: Any) -> Path:
    """Write the checkpoint of a tiny backbone with random weights; return its folder."""
    configuration = write_configuration(folder / "configuration", text=text, **model)
    torch.manual_seed(seed)
    backbone = create_backbone(BackboneConfig(str(configuration)))
    save_backbone(backbone, folder / "clip")
    return folder / "clip"


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write a checkpoint like that of `ztcir train backbone`."""
    config = backbone.config
    write_checkpoint(
        folder,
        {
            "kind": "backbone",
            "backbone": {"model": config.model, "pretrained": config.pretrained},
            "quick_gelu": backbone.quick_gelu,
            "training": {},
        },
        {"backbone": backbone.clip.state_dict()},
    )


def drawings(count: int) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Return drawn images to train on, and 20 more as development images."""
    images = drawn_images(count + 20, seed=0)
    return images[:count], images[count:]
