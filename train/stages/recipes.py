"""Recipes for known backbones, as ``train/configs/NAME/training.json``.

A recipe names the backbone, and what of each stage's configuration differs from the defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from train.model.backbone import CONFIGS
from train.model.composed_model import ModelConfig, model_config
from train.stages.fit_compose import ComposeTraining
from train.stages.fit_map import MapTraining
from ztcir_sdk.errors import UsageError

__all__ = ["Configuration", "configuration_names", "load_configuration"]

RECIPE = "training.json"


@dataclass(frozen=True)
class Configuration:
    """A recipe.

    Attributes:
        name: of it.
        about: a sentence on it.
        backbone: as `load_backbone` takes it; ``None`` where it is trained first.
        model: of `ModelConfig`, what differs from the defaults.
        map, compose: of `MapTraining` and `ComposeTraining`, likewise.
    """

    name: str
    about: str = ""
    backbone: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    map: Mapping[str, Any] = field(default_factory=dict)
    compose: Mapping[str, Any] = field(default_factory=dict)

    def parts(self, **changes: Any) -> ModelConfig:
        """The model's parts, with changes."""
        return model_config({**self.model, **changes})

    def mapping(self, **changes: Any) -> MapTraining:
        """Stage I's configuration, with changes."""
        return MapTraining(**{**self.map, **changes})

    def composing(self, **changes: Any) -> ComposeTraining:
        """Stage II's configuration, with changes."""
        return ComposeTraining(**{**self.compose, **changes})


_SECTIONS: Mapping[str, type[Any]] = {
    "model": ModelConfig,
    "map": MapTraining,
    "compose": ComposeTraining,
}


def configuration_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.parent.name for path in CONFIGS.glob(f"*/{RECIPE}"))


def load_configuration(name: str) -> Configuration:
    """Read a recipe: one of the package's, by name, or a file's.

    Raises:
        UsageError: there is no such recipe, or it is malformed.
    """
    path = CONFIGS / name / RECIPE
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"There is no configuration {name!r}: take {', '.join(configuration_names())}, or the "
            "path of a JSON file."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {entry.name for entry in fields(Configuration)} - {"name"}
        _check(path, "it", values, known)
        for section, kind in _SECTIONS.items():
            names = {entry.name for entry in fields(kind)}
            _check(path, f"its {section}", values.get(section, {}), names)
    except ValueError as error:
        raise UsageError(f"The configuration {path} is no JSON ({error}); correct it.") from error
    return Configuration(name=name, **values)


def _check(path: Path, what: str, values: Any, known: set[str]) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"In the configuration {path}, {what} is no JSON object; correct it.")
    unknown = sorted(values.keys() - known)
    if unknown:
        raise UsageError(
            f"In the configuration {path}, {what} has the unknown entry {unknown[0]!r}; "
            f"it may have {', '.join(sorted(known))}."
        )
