"""Bundles by name: inside the package, on this machine, or on a hub."""

from __future__ import annotations

from ztcir_sdk.hub.card import CARD, hub_card
from ztcir_sdk.hub.models import (
    HUB_PREFIX,
    HubName,
    ModelEntry,
    list_models,
    load_model,
    model_folder,
    pull_model,
    push_model,
    remove_model,
)

__all__ = [
    "CARD",
    "HUB_PREFIX",
    "HubName",
    "ModelEntry",
    "hub_card",
    "list_models",
    "load_model",
    "model_folder",
    "pull_model",
    "push_model",
    "remove_model",
]
