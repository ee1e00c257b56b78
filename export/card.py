"""The model card: what a bundle's weights come from, what was measured, where its limits are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.loop.record import versions

__all__ = ["model_card"]


def model_card(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A card from a checkpoint's configuration.

    Args:
        config: what `train.model.composed_model.load_model` gave beside the model.
        more: further entries, such as data, licences, quality and limits.
    """
    card: dict[str, Any] = {
        "backbone": config["backbone"],
        "method": "From Mapping to Composing (Wang et al., 2025)",
        "stages": {
            name: config[key]
            for name, key in (
                ("backbone", "backbone_training"),
                ("map", "map_training"),
                (config["kind"], "training"),
            )
            if config.get(key)
        },
        "parts": config.get("model"),
        "versions": versions(),
    }
    return card | more
