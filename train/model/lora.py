"""LoRA adapters of ``peft`` (Hu et al. 2022), merged into the weights of an open_clip model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from train.model.transformers_layout import Target, target_of
from train.model_names import UnsupportedBackboneError

__all__ = ["CONFIG", "is_adapter", "merge"]

CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights are those of a LoRA adapter, or hold one that is not merged."""
    return any(".lora_A" in name or ".lora_embedding_A" in name for name in state)


def merge(
    weights: dict[str, Tensor],
    adapter: Mapping[str, Tensor],
    config: Mapping[str, Any],
    path: Path,
) -> None:
    """Add an adapter to weights: ``W + scale * B A``.

    Args:
        weights: of the open_clip model, by name; changed in place.
        adapter: names begin with ``base_model.model.``, the module's name in Transformers or in
            open_clip follows.
        config: the adapter's ``adapter_config.json``.
        path: the adapter, for errors.

    Raises:
        UnsupportedBackboneError: it is not a plain LoRA, or belongs to another model.
    """
    plain = config.get("peft_type", "LORA") == "LORA" and not config.get("fan_in_fan_out")
    # peft 0.21 adds its change to the output of nn.MultiheadAttention (base_layer) twice
    others = any("magnitude" in name or ".base_layer." in name for name in adapter)
    if not plain or others or config.get("use_dora"):
        raise UnsupportedBackboneError(
            f"{path} is not a plain LoRA adapter of linear layers; merge it in Python with "
            "merge_and_unload() of peft, save the model, and name its weights."
        )
    for name, factor in adapter.items():
        own = name.removeprefix(_PREFIX)
        part = _FACTOR.fullmatch(own)
        if part is None:  # a module that was trained whole, or a bias
            _rows(weights, own, path).copy_(_oriented(factor, own))
        elif part[3] == "A":
            kind = f"lora_{part[2] or ''}"
            other = adapter[name.replace(f"{kind}A", f"{kind}B")]
            weight = _rows(weights, f"{part[1]}.weight", path)
            change = other.float().flatten(1) @ factor.float().flatten(1)
            change = change.T if part[2] else _oriented(change, f"{part[1]}.weight")
            if change.numel() != weight.numel():
                raise _foreign(path, name)
            weight.add_(change.reshape(weight.shape), alpha=_scale(part[1], len(factor), config))


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)),
        config.get("lora_alpha", 8),
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _rows(weights: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """Return the weight, or the third of its rows, that a weight of the adapter belongs to."""
    target = target_of(name) or Target(name)
    found = next((own for own in (target.name, f"text.{target.name}") if own in weights), None)
    if found is None:
        raise _foreign(path, name)
    whole = weights[found]
    return whole if target.third is None else whole.chunk(3)[target.third]


def _oriented(weight: Tensor, name: str) -> Tensor:
    target = target_of(name)
    return weight.T if target is not None and target.transposed else weight


def _foreign(path: Path, name: str) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"The LoRA adapter {path} belongs to another model, because {name} does not fit; name the "
        "model that it was trained on."
    )
