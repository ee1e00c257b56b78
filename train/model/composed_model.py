"""The whole model: a frozen backbone, and the parts that the two stages train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.model.backbone import Backbone, BackboneConfig, check_name, create_backbone
from train.model.checkpoint import (
    CheckpointError,
    hash_tensors,
    read_checkpoint,
    read_configuration,
)
from train.model.composing_adapter import ComposingAdapter
from train.model.token_learner import TokenLearner
from train.model.visual_semantic_injection import VisualSemanticInjection

__all__ = [
    "PLACEHOLDER_ID",
    "ComposedModel",
    "ModelConfig",
    "check_backbone",
    "check_stage",
    "load_model",
]

PLACEHOLDER_ID = -1  # replaced before the embedding look-up; no text can produce it


@dataclass(frozen=True)
class ModelConfig:
    """Which parts there are, and their sizes. Each can be left out.

    Attributes:
        tokens: n, pseudo-words an image.
        token_learner_width, token_learner_depth, token_learner_heads: of TL; depth 0 is an MLP-like
            projection of the pooled embedding.
        vsi_layers: text blocks that VSI injects before; empty leaves VSI out. ``None`` takes every
            second block from the second on.
        vsi_width, vsi_heads: of VSI.
        adapter_bottleneck: of CA; 0 leaves the adapters out.
    """

    tokens: int = 1
    token_learner_width: int = 256
    token_learner_depth: int = 2
    token_learner_heads: int = 4
    vsi_layers: tuple[int, ...] | None = None
    vsi_width: int = 128
    vsi_heads: int = 4
    adapter_bottleneck: int = 256


class ComposedModel(nn.Module):
    """Token learner, VSI and adapters around a frozen backbone; the three graphs' mathematics.

    Attributes:
        checkpointing: whether text layers are computed again in the backward pass instead of
            remembered: the same gradients from less memory and more time.
    """

    checkpointing = False

    def __init__(self, backbone: Backbone, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.config = config
        self.token_learner = TokenLearner(
            backbone.embed_dim,
            backbone.patch_dim,
            backbone.text_width,
            tokens=config.tokens,
            width=config.token_learner_width,
            depth=config.token_learner_depth,
            heads=config.token_learner_heads,
        )
        layers = config.vsi_layers
        if layers is None:
            layers = tuple(range(1, backbone.text_layers, 2))
        if any(not 0 <= layer < backbone.text_layers for layer in layers):
            raise ValueError(f"vsi_layers {layers} lie outside of {backbone.text_layers} blocks")
        self.vsi = (
            VisualSemanticInjection(
                backbone.patch_dim,
                backbone.text_width,
                layers,
                width=config.vsi_width,
                heads=config.vsi_heads,
            )
            if layers
            else None
        )
        self.adapters = nn.ModuleList(
            ComposingAdapter(backbone.text_width, config.adapter_bottleneck)
            for _ in range(backbone.text_layers if config.adapter_bottleneck else 0)
        )

    def parts(self, *, strength: float = 1.0) -> dict[str, Tensor]:
        """The trained parts' own weights by name; the backbone's are not among them.

        Args:
            strength: of the adapters, worked into them: with these weights ``adapter_scale`` 1 does
                what ``strength`` does with the model's own.
        """
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        if strength == 1.0:
            return own
        return {k: v * strength if _is_adapters_up(k) else v for k, v in own.items()}

    checkpoint_state = parts

    def encode_image(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """``image_embeds`` (R, D) and ``patch_features`` (R, N, d_v) of (R, 3, H, W)."""
        return self.backbone.encode_image(pixel_values)

    def learn_token(
        self, image_embeds: Tensor, patch_features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``pseudo_tokens`` (R, n, d_t), ``vsi_keys`` and ``vsi_values`` (R, Lv, N, d_vsi).

        Without VSI, Lv is 0 and keys and values are empty.
        """
        pseudo_tokens = self.token_learner(image_embeds, patch_features)
        if self.vsi is None:
            empty = patch_features[:, None, :, : self.config.vsi_width][:, :0]
            return pseudo_tokens, empty, empty
        keys, values = self.vsi.project(patch_features)
        return pseudo_tokens, keys, values

    def encode_query(
        self,
        input_ids: Tensor,
        reference_index: Tensor,
        adapter_scale: Tensor,
        pseudo_tokens: Tensor,
        vsi_keys: Tensor,
        vsi_values: Tensor,
    ) -> Tensor:
        """The adapter-augmented text encoder.

        Args:
            input_ids: (B, T) int64; -1 marks ``$``, n of them in a row.
            reference_index: (B,) int64, which reference each text speaks of.
            adapter_scale: (B,) float32, ``a``.
            pseudo_tokens: (R, n, d_t); vsi_keys, vsi_values: (R, Lv, N, d_vsi).

        Returns:
            ``query_embeds`` (B, D), L2-normalised.
        """
        backbone = self.backbone
        is_slot = input_ids < 0  # (B, T)
        # No clamp or running sum of integers: TensorRT 10.3 documents them for floats only.
        ids = torch.where(is_slot, 0, input_ids)
        # which of the n pseudo-words stands at each slot
        number = (is_slot.float().cumsum(dim=1) - 1).clamp(0, pseudo_tokens.shape[1] - 1).long()
        words = pseudo_tokens[reference_index]  # (B, n, d_t)
        words = words.gather(1, number[..., None].expand(-1, -1, words.shape[-1]))
        x = torch.where(is_slot[..., None], words, backbone.embed_tokens(ids))
        x = backbone.add_positions(x)
        keys, values = vsi_keys[reference_index], vsi_values[reference_index]
        mask = backbone.causal_mask(input_ids.shape[1])
        for layer in range(backbone.text_layers):
            inputs = (layer, x, mask, is_slot, keys, values, adapter_scale)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._text_layer, *inputs, use_reentrant=False)
            else:
                x = self._text_layer(*inputs)
        return backbone.pool_text(x, ids)

    def _text_layer(
        self,
        layer: int,
        x: Tensor,
        mask: Tensor | None,
        is_slot: Tensor,
        keys: Tensor,
        values: Tensor,
        adapter_scale: Tensor,
    ) -> Tensor:
        """One layer of the augmented text encoder: inject, then the frozen block, then adapt."""
        if self.vsi is not None:
            x = self.vsi.inject(layer, x, is_slot, keys, values)
        x = self.backbone.text_block(layer, x, mask)
        if len(self.adapters):
            x = self.adapters[layer](x, adapter_scale)
        return x


def _is_adapters_up(name: str) -> bool:
    """Whether a weight is ``W_up`` or its bias, in which an adapter is linear."""
    return name.startswith("adapters.") and ".up." in name


def load_model(folder: Path, *, need: str | None = None) -> tuple[ComposedModel, dict[str, Any]]:
    """Rebuild a model from a checkpoint of `train map`, `train compose` or `train backbone`.

    Args:
        folder: a checkpoint, or a run's folder (its ``best``, else ``last``).
        need: "map" or "compose": which stage must have been trained at least.

    Returns:
        The model in evaluation mode, and the checkpoint's configuration.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of an earlier stage than needed.
    """
    config, tensors = read_checkpoint(folder)
    _check_kind(folder, config, need)
    backbone = create_backbone(BackboneConfig(**config["backbone"]))
    _load_backbone_weights(backbone, tensors.get("backbone"), folder, config)
    model = ComposedModel(backbone, model_config(config.get("model", {})))
    if config["kind"] != "backbone":
        _check_weights(model.parts(), tensors.get("model", {}), folder)
        model.load_state_dict(tensors["model"], strict=False)
    return model.eval(), config


def check_stage(folder: Path, need: str, *, backbone: str | None = None) -> dict[str, Any]:
    """Refuse a checkpoint that a stage cannot start from, before anything is made ready for it.

    Args:
        folder, need: see `load_model`.
        backbone: "NAME:PRETRAINED" of the open_clip model that it has to be of; ``None``: any.

    Returns:
        The checkpoint's configuration.

    Raises:
        CheckpointError: no checkpoint, one of an earlier stage than needed, or of another backbone.
    """
    config = read_configuration(folder)
    _check_kind(folder, config, need)
    if backbone is not None and not Path(backbone).exists():
        name, _, pretrained = backbone.partition(":")
        found = BackboneConfig(**config["backbone"])
        if found != BackboneConfig(name, pretrained or None):
            has = ":".join(part for part in (found.model, found.pretrained) if part)
            raise CheckpointError(
                f"{folder} was trained on the backbone {has}, not on {backbone}; name a checkpoint "
                "of the same backbone, or leave out --config."
            )
    return config


def check_backbone(spec: str) -> None:
    """Refuse what `load_backbone` cannot make a backbone of, before anything is read for it.

    Raises:
        CheckpointError, UnsupportedBackboneError: see `load_backbone`.
    """
    if Path(spec).exists():
        check_stage(Path(spec), "backbone")
    else:
        check_name(spec.partition(":")[0])


def _check_kind(folder: Path, config: Mapping[str, Any], need: str | None) -> None:
    kind = config.get("kind")
    order = ["backbone", "map", "compose"]
    if kind not in order or (need is not None and order.index(kind) < order.index(need)):
        raise CheckpointError(
            f"{folder} holds a {kind!r} checkpoint, but a {need or 'map'!r} one is needed; "
            f"run `ztcir train {need or 'map'}` first."
        )
    if not isinstance(config["backbone"], Mapping):
        raise CheckpointError(
            f"{folder} holds the state of a backbone run that is not finished; "
            "run `ztcir train backbone` again, which goes on where it was, to the end."
        )


def load_backbone(spec: str) -> tuple[Backbone, dict[str, Any]]:
    """A frozen backbone, from a checkpoint folder or as "NAME:PRETRAINED" of an open_clip model.

    Args:
        spec: for example ``runs/backbone/clip``, ``ViT-B-32:openai``, or ``ViT-B-32`` alone for
            random weights.

    Returns:
        The backbone in evaluation mode, and its checkpoint's configuration (empty without one).

    Raises:
        CheckpointError, UnsupportedBackboneError: neither can be made of ``spec``.
    """
    if Path(spec).exists():
        model, config = load_model(Path(spec), need="backbone")
        return model.backbone, config
    name, _, pretrained = spec.partition(":")
    return create_backbone(BackboneConfig(name, pretrained or None)), {}


def own_weights(model: ComposedModel) -> dict[str, nn.Module]:
    """What a checkpoint must carry beside the trained parts: weights that nobody else has."""
    own = model.backbone.config.pretrained is None
    return {"backbone": model.backbone.clip} if own else {}


def _load_backbone_weights(
    backbone: Backbone, weights: Mapping[str, Tensor] | None, folder: Path, config: dict[str, Any]
) -> None:
    if backbone.quick_gelu != config.get("quick_gelu", backbone.quick_gelu):
        raise CheckpointError(
            f"{folder} was trained with another activation (QuickGELU) than "
            f"{backbone.config.model} has; take the model name that it was trained with."
        )
    if config.get("backbone_sha256", "") not in ("", _weights_checksum(backbone)):
        raise CheckpointError(
            f"{folder} was trained on other weights than {backbone.config.pretrained} of "
            f"{backbone.config.model} has now; bring those back, or train it again."
        )
    if weights is not None or backbone.config.pretrained is None:
        _check_weights(backbone.clip.state_dict(), weights or {}, folder)
        backbone.clip.load_state_dict(weights)


def _check_weights(own: Mapping[str, Tensor], read: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse weights that are missing, too many, or of another shape."""
    wanted, found = ({name: w.shape for name, w in some.items()} for some in (own, read))
    differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if differing:
        raise CheckpointError(
            f"{folder} does not fit its own configuration ({len(differing)} weights differ, "
            f"such as {differing[0]}); it is damaged, train it again."
        )


def model_config(fields: Mapping[str, Any]) -> ModelConfig:
    """A `ModelConfig` from JSON, where tuples have become lists."""
    layers = fields.get("vsi_layers")
    return ModelConfig(**{**fields, "vsi_layers": None if layers is None else tuple(layers)})


def describe_model(model: ComposedModel, kind: str) -> dict[str, Any]:
    """What a checkpoint's ``config.json`` says of the model in it."""
    backbone = model.backbone
    others = backbone.config.pretrained is not None  # weights that are not in the checkpoint
    return {
        "kind": kind,
        "backbone": asdict(backbone.config),
        **({"backbone_sha256": _weights_checksum(backbone)} if others else {}),
        "quick_gelu": backbone.quick_gelu,
        "model": asdict(model.config),
    }


def _weights_checksum(backbone: Backbone) -> str:
    digest = hashlib.sha256()
    hash_tensors(digest, backbone.clip.state_dict().items())
    return digest.hexdigest()
