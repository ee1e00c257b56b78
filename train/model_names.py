"""Names of models, known without PyTorch, which takes seconds to load."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from train.settings import CONFIGS
from ztcir_sdk.errors import ZtcirError

__all__ = ["UnsupportedBackboneError", "check_name", "own_config"]

OWN_CONFIG = "open_clip_config.json"


class UnsupportedBackboneError(ZtcirError):
    """The method does not support this open_clip model."""


def own_config(model: str) -> Path | None:
    """Return the open_clip configuration of a model in ``train/configs``; None if it has none."""
    path = CONFIGS / model / OWN_CONFIG
    return path if path.is_file() else None


def check_name(model: str) -> None:
    """Raise unless a name is open_clip's or that of a configuration in ``train/configs``.

    Without open_clip every name is accepted: whoever loads the model says what is missing.

    Raises:
        UnsupportedBackboneError: it is neither.
    """
    known = _open_clip_models()
    if known is None or model in known or own_config(model) is not None:
        return
    raise UnsupportedBackboneError(
        f"{model} is neither an open_clip model nor a configuration of train/configs; "
        "`python -c 'import open_clip; print(open_clip.list_models())'` lists the models."
    )


def _open_clip_models() -> set[str] | None:
    """Return the names of open_clip's models, from its files if it is not loaded yet."""
    loaded = sys.modules.get("open_clip")
    if loaded is not None:
        return set(loaded.list_models())
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        return None
    configs = Path(found.origin).parent / "model_configs"
    return {file.stem for file in configs.glob("*.json")} or None
