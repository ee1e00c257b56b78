"""Any open_clip model as it is: loaded for a bundle that needs no training."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import open_clip
from safetensors import SafetensorError

from train.loop.record import versions
from train.model import (
    CONFIGS,
    Backbone,
    BackboneConfig,
    UnsupportedBackboneError,
    create_backbone,
)

__all__ = ["bare_card", "load_pretrained"]


def load_pretrained(model: str, pretrained: str | None) -> Backbone:
    """Build an open_clip model and load its weights.

    Args:
        model: an open_clip name, or the name of a folder in ``train/configs``.
        pretrained: a tag of open_clip's, which it may download, or a weights file
            (``.safetensors``, or ``.pt`` of plain tensors); None leaves random weights.

    Raises:
        UnsupportedBackboneError: the name is unknown, the tower is of a kind that graphs cannot be
            cut from, or the weights cannot be had, are damaged or another model's.
    """
    own = (CONFIGS / model / "open_clip_config.json").is_file()
    try:
        if own and pretrained is not None:
            backbone = create_backbone(BackboneConfig(model))
            open_clip.load_checkpoint(backbone.clip, pretrained)
            backbone.config = BackboneConfig(model, pretrained)
            return backbone
        return create_backbone(BackboneConfig(model, pretrained))
    except (
        *(OSError, RuntimeError, ValueError, KeyError, EOFError),
        *(pickle.UnpicklingError, SafetensorError),
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedBackboneError(
            f"The weights {pretrained!r} of {model} cannot be loaded ({reason}): name a tag that "
            "open_clip can download, or a file with this very model's weights."
        ) from error


def bare_card(backbone: Backbone) -> dict[str, Any]:
    """The model card of a backbone without trained parts."""
    pretrained = backbone.config.pretrained
    # The path of a file means nothing elsewhere, its name may.
    weights = Path(pretrained).name if pretrained and Path(pretrained).exists() else pretrained
    return {
        "backbone": {
            "model": backbone.config.model,
            "pretrained": weights,
            "quick_gelu": backbone.quick_gelu,
        },
        "method": "the backbone alone: picture, words, and their blend",
        "stages": {},
        "limits": [
            *(
                ["The weights are random: this bundle tests a machine and finds nothing."]
                if pretrained is None
                else []
            ),
            "Nothing was trained for composing a picture with a text: sum only blends the two.",
        ],
        "versions": versions(),
    }
