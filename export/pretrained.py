"""What a bundle says about an open_clip model that is exported as it is, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.loop.record import versions
from train.model import Backbone

__all__ = ["bare_card"]


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
