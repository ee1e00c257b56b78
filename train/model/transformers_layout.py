"""The names that Transformers' ``CLIPModel`` gives to the weights of open_clip's CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.model_names import UnsupportedBackboneError

__all__ = ["Target", "needs_quick_gelu", "target_of", "to_open_clip"]

_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.([a-z_0-9.]+)\.(weight|bias)")
_IN_PROJECTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_IN_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}


@dataclass(frozen=True)
class Target:
    """The weight of open_clip that holds a weight of Transformers.

    Attributes:
        name: open_clip's name.
        third: 0, 1 or 2 if it is this third of the rows: query, key or value; else ``None``.
        transposed: rows and columns are exchanged.
    """

    name: str
    third: int | None = None
    transposed: bool = False


def target_of(name: str) -> Target | None:
    """Return where open_clip keeps a weight; ``None`` if ``CLIPModel`` has no such weight."""
    if name in _NAMES:
        return Target(_NAMES[name])
    if name in _TRANSPOSED:
        return Target(_TRANSPOSED[name], transposed=True)
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return None
    tower, number, module, kind = layer.groups()
    block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}"
    if module in _IN_PROJECTION:
        return Target(f"{block}.attn.in_proj_{kind}", _IN_PROJECTION.index(module))
    return Target(f"{block}.{_IN_LAYER[module]}.{kind}") if module in _IN_LAYER else None


def to_open_clip(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights of a ``CLIPModel`` under open_clip's names.

    Args:
        state: the weights.
        path: their file, for errors.

    Raises:
        UnsupportedBackboneError: they are those of one tower alone, or of SigLIP or another model.
    """
    towers = {name.partition(".")[0] for name in state} & {"text_model", "vision_model"}
    if len(towers) == 1:
        raise UnsupportedBackboneError(
            f"{path} holds only the {towers.pop().removesuffix('_model')} tower of a Transformers "
            "model; save the whole CLIPModel with save_pretrained()."
        )
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, weight in state.items():
        if name.endswith("position_ids"):  # a buffer of older versions
            continue
        target = target_of(name)
        if target is None:
            what = "SigLIP" if "logit_bias" in state else "a model that is not a CLIPModel"
            raise UnsupportedBackboneError(
                f"{path} holds weights of {what} in Transformers' layout ({name}), which are not "
                "converted; name a tag of open_clip, or save the weights with open_clip."
            )
        if target.third is None:
            found[target.name] = weight.T if target.transposed else weight
        else:
            thirds.setdefault(target.name, {})[target.third] = weight
    for name, parts in thirds.items():
        found[name] = torch.cat([parts[third] for third in sorted(parts)])
    return found


def needs_quick_gelu(config: Mapping[str, Any]) -> bool | None:
    """Return whether a model's config.json asks for QuickGELU; ``None`` if it is not of a CLIP."""
    if config.get("model_type") != "clip":
        return None
    text: Mapping[str, Any] = config.get("text_config") or {}
    return bool(text.get("hidden_act", "quick_gelu") == "quick_gelu")  # the default of CLIPConfig
