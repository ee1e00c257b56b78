"""An ablation of a few steps on a tiny collection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_runs import PARTS, write_backbone
from tiny_training import write_collection, write_validation

from benchmarks.ablation.rows import Settings
from benchmarks.ablation.training import Workshop
from benchmarks.ablation.validation import Validation, read_validation
from export.default import Recipe
from train.data.collection import read_collection
from train.data.source import read_sources
from train.settings import ComposeTraining, Compute, MapTraining

__all__ = ["RECIPE", "SETTINGS", "tiny_validation", "tiny_workshop", "write_ablation_data"]

SETTINGS = Settings(
    map_steps=2, compose_steps=2, triplets=24, drawings=0, inverted=24, inversion_steps=2
)
RECIPE = Recipe(
    parts=PARTS, mapping=MapTraining(batch_size=16), composing=ComposeTraining(batch_size=16)
)


def write_ablation_data(folder: Path) -> None:
    """Write a backbone, a training split and a validation split with queries."""
    write_backbone(folder)
    write_collection(folder)
    write_validation(folder)


def tiny_workshop(data: Path, folder: Path, **changes: Any) -> Workshop:
    """Return a workshop on the data of `write_ablation_data`."""
    images, development = read_collection([str(data / "train-*.tar")])
    own = Workshop(
        str(data / "clip"),
        images,
        development,
        SETTINGS,
        folder,
        data / "features",
        recipe=RECIPE,
        compute=Compute(device="cpu"),
    )
    return replace(own, **changes)


def tiny_validation(data: Path, workshop: Workshop) -> Validation:
    """Return the validation queries of the data of `write_ablation_data`."""
    gallery, _ = read_sources([str(data / "val-0000.tar")])
    return read_validation(workshop.frozen, gallery, data / "val-triplets.jsonl", data)
