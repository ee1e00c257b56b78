"""The model card: where a bundle's weights come from, their measured quality and their limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.loop.record import versions
from train.model import Backbone
from train.word_counts import VOCABULARY_KEY


def model_card(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the card of a checkpoint; the vocabulary, a file of its own, is not repeated in it.

    Args:
        config: configuration that `train.model.composed_model.load_model` returns.
        more: further entries, such as data, licences, quality and limits.
    """
    sections = {"backbone": "backbone_training", "map": "map_training", config["kind"]: "training"}
    return {
        "backbone": config["backbone"],
        "method": "From Mapping to Composing (Wang et al., 2025)",
        "stages": {
            name: {entry: value for entry, value in config[key].items() if entry != VOCABULARY_KEY}
            for name, key in sections.items()
            if config.get(key)
        },
        "parts": config.get("model"),
        "versions": versions(),
        **more,
    }


def bare_card(backbone: Backbone, *, source: str | None = None) -> dict[str, Any]:
    """Return the model card of a backbone without trained parts.

    Args:
        backbone: the backbone.
        source: name of the checkpoint or bundle that its weights are from, where its
            configuration names none; without both, the weights are random.
    """
    pretrained = backbone.config.pretrained or source
    limits = ["Nothing was trained to compose image and text: method sum only adds the two."]
    if pretrained is None:
        limits.insert(
            0, "The weights are random: use this bundle to test a machine, not to search."
        )
    elif Path(pretrained).exists():  # keep only its name: a path means nothing on another machine
        pretrained = Path(pretrained).name
    return {
        "backbone": {
            "model": backbone.config.model,
            "pretrained": pretrained,
            "quick_gelu": backbone.quick_gelu,
        },
        "method": "backbone only: image, text, and their weighted sum",
        "stages": {},
        "limits": limits,
        "versions": versions(),
    }
