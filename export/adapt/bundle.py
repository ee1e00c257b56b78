"""The bundle of an adaptation: the trained model, or the backbone alone with the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.adapt.clock import Say
from export.adapt.settings import AdaptSettings
from export.bundle import BundleSettings, export_bundle
from export.card import bare_card, model_card
from export.vocabulary import checkpoint_vocabulary
from train.model import Backbone, ComposedModel
from ztcir_sdk.bundle import Bundle, DefaultAnswer

__all__ = ["write_composed", "write_sum"]


def write_composed(
    model: ComposedModel,
    config: Mapping[str, Any],
    settings: AdaptSettings,
    origin: Bundle | None,
    quality: Mapping[str, Any],
    say: Say,
) -> Bundle:
    """Export a trained model; each graph is compared with PyTorch.

    Args:
        model: the model.
        config: configuration of its checkpoint.
        settings: where the bundle goes, and how it is stored.
        origin: the bundle that the backbone is from.
        quality: figures for the model card.
        say: receives a line for each check.

    Raises:
        ParityError: a graph differs from PyTorch; nothing is written.
    """
    card = model_card(config, quality=dict(quality), **_origin(origin))
    words = _vocabulary(origin, checkpoint_vocabulary(config) or ())
    return _write(model, settings, BundleSettings(_name(settings), card, vocabulary=words), say)


def write_sum(
    backbone: Backbone,
    weight: float,
    settings: AdaptSettings,
    origin: Bundle | None,
    quality: Mapping[str, Any] | None,
    say: Say,
) -> Bundle:
    """Export a backbone alone; its searches answer with the sum of image and text.

    Args: see `write_composed`; ``weight`` is that of the text in the sum.
    """
    card = {**bare_card(backbone, source=_source(settings, origin)), **_origin(origin)}
    if quality is not None:
        card["quality"] = dict(quality)
    bundle = BundleSettings(
        _name(settings),
        card,
        methods=("sum", "image", "text"),
        vocabulary=_vocabulary(origin, ()),
        default=DefaultAnswer("sum", weight),
    )
    return _write(backbone, settings, bundle, say)


def _write(
    model: ComposedModel | Backbone, settings: AdaptSettings, bundle: BundleSettings, say: Say
) -> Bundle:
    return export_bundle(
        model.cpu(),
        settings.out,
        replace(bundle, small=settings.small),
        overwrite=settings.overwrite,
        report=lambda line: say(f"  {line}"),
    )


def _name(settings: AdaptSettings) -> str:
    return settings.name or settings.out.resolve().name


def _vocabulary(origin: Bundle | None, words: Sequence[str]) -> list[str] | None:
    """Return the words that the model knows; ``None`` where the backbone's are not recorded."""
    known = None if origin is None else origin.vocabulary
    return None if known is None else sorted({*known.words, *words})


def _source(settings: AdaptSettings, origin: Bundle | None) -> str | None:
    """Return the name of the bundle or checkpoint that the weights are from, if it is one."""
    if origin is not None:
        return origin.name
    folder = Path(settings.backbone)
    return folder.resolve().name if folder.is_dir() else None


def _origin(origin: Bundle | None) -> dict[str, Any]:
    """Return what a bundle's own card says about where its backbone comes from."""
    if origin is None:
        return {}
    kept = {key: origin.manifest.model_card.get(key) for key in ("data", "weights")}
    return {
        "adapted_from": {"bundle": origin.name, "image_tower": origin.manifest.image_tower},
        **{key: value for key, value in kept.items() if value},
    }
