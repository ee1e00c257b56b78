"""Recipes for known backbones: ``train/configs/NAME/training.json``.

A recipe names a backbone, and the settings of each stage that differ from the defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from train.settings import CONFIGS, ComposeTraining, MapTraining, ModelConfig, model_config
from ztcir_sdk.errors import UsageError
from ztcir_sdk.schema import EntryError, from_json

__all__ = ["Recipe", "load_recipe", "recipe_names"]

RECIPE = "training.json"


@dataclass(frozen=True)
class Recipe:
    """A backbone, and the settings of each stage that differ from the defaults.

    Attributes:
        about: one sentence about the recipe.
        backbone: what `load_backbone` takes; ``None``: one that has to be trained first.
        model: fields of `ModelConfig`.
        map: fields of `MapTraining`.
        compose: fields of `ComposeTraining`.
    """

    about: str = ""
    backbone: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    map: Mapping[str, Any] = field(default_factory=dict)
    compose: Mapping[str, Any] = field(default_factory=dict)

    def parts(self, **changes: Any) -> ModelConfig:
        """Return the model's parts, with changes."""
        return model_config({**self.model, **changes})

    def mapping(self, **changes: Any) -> MapTraining:
        """Return the hyperparameters of Stage I, with changes."""
        return MapTraining(**{**self.map, **changes})

    def composing(self, **changes: Any) -> ComposeTraining:
        """Return the hyperparameters of Stage II, with changes."""
        return ComposeTraining(**{**self.compose, **changes})


def _schema(kind: type[Any], **sections: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return the schema of a JSON object that may set fields of a dataclass, and nothing else."""
    types = {**get_type_hints(kind), **sections}
    entries = [(entry.name, types[entry.name], None) for entry in fields(kind)]
    return msgspec.defstruct(kind.__name__, entries, forbid_unknown_fields=True)


_RECIPE_SCHEMA = _schema(
    Recipe, model=_schema(ModelConfig), map=_schema(MapTraining), compose=_schema(ComposeTraining)
)


def recipe_names() -> list[str]:
    """Return the names of the recipes in ``train/configs``."""
    return sorted(path.parent.name for path in CONFIGS.glob(f"*/{RECIPE}"))


def load_recipe(name: str) -> Recipe:
    """Read a recipe of ``train/configs`` by its name, or a JSON file.

    Raises:
        UsageError: there is no such recipe, or it does not have the form of one.
    """
    path = CONFIGS / name / RECIPE
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"There is no recipe {name!r}; choose from {', '.join(recipe_names())}, or name a JSON "
            "file."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        from_json(values, _RECIPE_SCHEMA)
    except EntryError as error:
        raise UsageError(f"In the recipe {path}, {error}; correct it.") from error
    except ValueError as error:
        raise UsageError(f"The recipe {path} is not JSON ({error}); correct it.") from error
    return Recipe(**values)
