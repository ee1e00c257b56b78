"""Models from checkpoints, and what a checkpoint records about its model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn

from train.model.backbone import Backbone, BackboneConfig, check_pretrained, create_backbone
from train.model.checkpoint import (
    CheckpointError,
    check_files,
    hash_tensors,
    is_checkpoint,
    read_checkpoint,
    read_configuration,
    why_no_checkpoint,
)
from train.model.composed_model import ComposedModel
from train.model_names import check_name
from train.settings import described, model_config

__all__ = [
    "check_backbone",
    "check_stage",
    "describe_model",
    "load_backbone",
    "load_model",
    "own_weights",
]

STAGES = ("backbone", "map", "compose")
"""Kinds of checkpoints; each stage starts from one of the kind before it."""


def load_model(folder: Path, *, need: str | None = None) -> tuple[ComposedModel, dict[str, Any]]:
    """Rebuild a model from a checkpoint of `train map`, `train compose` or `train backbone`.

    Args:
        folder: a checkpoint, or a run's folder (its ``best``, else ``last``).
        need: the least stage that the checkpoint must be of: "backbone", "map" or "compose".

    Returns:
        The model in evaluation mode, and the checkpoint's configuration.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or of an earlier stage than needed.
    """
    config, tensors = read_checkpoint(folder)
    _check_kind(folder, config, need)
    backbone = create_backbone(BackboneConfig(**config["backbone"]))
    _load_backbone_weights(backbone, tensors.get("backbone"), folder, config)
    # A checkpoint of a backbone has no parts. The unused token learner keeps its size, since it
    # draws from the random numbers of the training.
    parts = config.get("model", {"token_learner_depth": 2})
    model = ComposedModel(backbone, model_config(parts))
    if config["kind"] != "backbone":
        _check_weights(model.parts(), tensors.get("model", {}), folder)
        model.load_state_dict(tensors["model"], strict=False)
    return model.eval(), config


def load_backbone(spec: str) -> tuple[Backbone, dict[str, Any]]:
    """Load a frozen backbone from a checkpoint or from open_clip.

    Args:
        spec: a folder, such as ``runs/backbone/clip``; or "NAME:PRETRAINED" of an open_clip model,
            such as ``ViT-B-32:openai``; NAME alone gives random weights.

    Returns:
        The backbone in evaluation mode, and its checkpoint's configuration (empty for open_clip).

    Raises:
        CheckpointError, UnsupportedBackboneError: there is no such checkpoint or model.
    """
    folder = _backbone_folder(spec)
    if folder is not None:
        model, config = load_model(folder, need="backbone")
        return model.backbone, config
    name, _, pretrained = spec.partition(":")
    return create_backbone(BackboneConfig(name, pretrained or None)), {}


def check_backbone(spec: str) -> None:
    """Check that there is a backbone to load, and its weights, without loading them.

    Raises:
        CheckpointError, UnsupportedBackboneError: there is no such checkpoint or model.
    """
    folder = _backbone_folder(spec)
    if folder is not None:
        check_stage(folder, "backbone")
    else:
        name, _, pretrained = spec.partition(":")
        check_name(name)
        check_pretrained(BackboneConfig(name, pretrained or None))


def _backbone_folder(spec: str) -> Path | None:
    """Return the folder that a backbone is to be loaded from; ``None`` for an open_clip model."""
    folder = Path(spec)
    name = spec.partition(":")[0]
    tags = open_clip.list_pretrained_tags_by_model(name)
    if folder.exists() and tags and not is_checkpoint(folder):
        reason, _, way_out = why_no_checkpoint(folder).partition("; ")
        raise CheckpointError(
            f"{reason}; for the open_clip model of that name, add a pretrained tag, as in "
            f"{name}:{tags[0]}, otherwise {way_out}"
        )
    if not folder.exists() and {os.sep, "/"} & set(name) and not Path(name).exists():
        raise CheckpointError(
            f"There is no folder {spec}; name a checkpoint or run of `ztcir train`, or a model of "
            "open_clip such as ViT-B-32:openai."
        )
    return folder if folder.exists() else None


def check_stage(folder: Path, need: str, *, backbone: str | None = None) -> dict[str, Any]:
    """Check that a stage can start from a checkpoint, without reading its weights whole.

    Args:
        folder: a checkpoint, or a run's folder.
        need: the least stage that the checkpoint must be of.
        backbone: "NAME:PRETRAINED" of the open_clip model that it must be of; ``None``: any.

    Returns:
        The checkpoint's configuration.

    Raises:
        CheckpointError: there is no checkpoint, or it is of an earlier stage than needed, or of
            another backbone.
    """
    config = read_configuration(folder)
    _check_kind(folder, config, need)
    check_files(folder)
    if backbone is not None and not Path(backbone).exists():
        name, _, pretrained = backbone.partition(":")
        found = BackboneConfig(**config["backbone"])
        if found != BackboneConfig(name, pretrained or None):
            has = ":".join(part for part in (found.model, found.pretrained) if part)
            raise CheckpointError(
                f"{folder} was trained on the backbone {has}, not on {backbone}; name a checkpoint "
                "of the same backbone, or leave out --config."
            )
    return config


def _check_kind(folder: Path, config: Mapping[str, Any], need: str | None) -> None:
    kind = config.get("kind")
    if kind not in STAGES or (need is not None and STAGES.index(kind) < STAGES.index(need)):
        raise CheckpointError(
            f"{folder} holds a {kind!r} checkpoint, but a {need or 'map'!r} checkpoint is needed; "
            f"run `ztcir train {need or 'map'}` first."
        )
    if not isinstance(config.get("backbone"), Mapping):
        raise CheckpointError(
            f"{folder} holds a backbone run that is not finished; repeat its command to resume it."
        )


def own_weights(model: ComposedModel) -> dict[str, nn.Module]:
    """Return the modules that a checkpoint must hold besides the trained parts, by file name."""
    own = model.backbone.config.pretrained is None
    return {"backbone": model.backbone.clip} if own else {}


def _load_backbone_weights(
    backbone: Backbone, weights: Mapping[str, Tensor] | None, folder: Path, config: dict[str, Any]
) -> None:
    if backbone.quick_gelu != config.get("quick_gelu", backbone.quick_gelu):
        raise CheckpointError(
            f"{folder} was trained with another activation (QuickGELU) than "
            f"{backbone.config.model} has; use the model name that it was trained with."
        )
    if config.get("backbone_sha256", "") not in ("", _weights_checksum(backbone)):
        raise CheckpointError(
            f"{folder} was trained on other weights than {backbone.config.pretrained} of "
            f"{backbone.config.model} has now; restore those weights, or train again."
        )
    if weights is not None or backbone.config.pretrained is None:
        _check_weights(backbone.clip.state_dict(), weights or {}, folder)
        backbone.clip.load_state_dict(weights)


def _check_weights(own: Mapping[str, Tensor], read: Mapping[str, Tensor], folder: Path) -> None:
    """Raise unless both have the same names and shapes."""
    wanted, found = ({name: w.shape for name, w in some.items()} for some in (own, read))
    differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if differing:
        raise CheckpointError(
            f"{folder} does not fit its own configuration ({len(differing)} weights differ, "
            f"such as {differing[0]}); it is damaged, train again."
        )


def describe_model(model: ComposedModel, kind: str) -> dict[str, Any]:
    """Return what a checkpoint's ``config.json`` records about its model."""
    backbone = model.backbone
    shared = backbone.config.pretrained is not None  # weights that the checkpoint does not hold
    return {
        "kind": kind,
        "backbone": asdict(backbone.config),
        **({"backbone_sha256": _weights_checksum(backbone)} if shared else {}),
        "quick_gelu": backbone.quick_gelu,
        "model": described(model.config),
    }


def _weights_checksum(backbone: Backbone) -> str:
    digest = hashlib.sha256()
    hash_tensors(digest, backbone.clip.state_dict().items())
    return digest.hexdigest()
