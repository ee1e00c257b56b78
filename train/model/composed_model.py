"""The whole model: a frozen backbone, and the parts that the two stages train."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.model.backbone import Backbone
from train.model.combiner import Combiner
from train.model.composing_adapter import ComposingAdapter
from train.model.token_learner import TokenLearner
from train.model.visual_semantic_injection import VisualSemanticInjection
from train.settings import ModelConfig

__all__ = ["ComposedModel"]


class ComposedModel(nn.Module):
    """Token learner, VSI and adapters around a frozen backbone, as the three graphs compute them.

    Attributes:
        checkpointing: recompute text layers in the backward pass instead of storing them: the same
            gradients with less memory and more time.
    """

    checkpointing = False

    def __init__(self, backbone: Backbone, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.config = config
        if config.patch_grid is not None:
            backbone.pool_patches(config.patch_grid)
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
            raise ValueError(f"vsi_layers {layers} are not all among {backbone.text_layers} blocks")
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
        self.combiner = (
            Combiner(
                backbone.embed_dim,
                backbone.text_width,
                len(layers) * config.vsi_width,
                config.combiner_width,
                config.combiner_captions,
            )
            if config.combiner_width
            else None
        )

    def parts(self, *, strength: float = 1.0) -> dict[str, Tensor]:
        """Return the weights of the trained parts by name, without the backbone's.

        Args:
            strength: factor on the output layers of adapters and combiner: with these weights,
                ``adapter_scale`` 1 computes what ``adapter_scale`` = ``strength`` computes with the
                model's own.
        """
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        if strength == 1.0:
            return own
        return {k: v * strength if _is_scaled(k) else v for k, v in own.items()}

    checkpoint_state = parts

    def encode_image(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``image_embeds`` (R, D) and ``patch_features`` (R, N, d_v) of (R, 3, H, W)."""
        return self.backbone.encode_image(pixel_values)

    def learn_token(
        self, image_embeds: Tensor, patch_features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``pseudo_tokens`` (R, n, d_t), ``vsi_keys`` and ``vsi_values`` (R, Lv, N, d_vsi).

        Without VSI, Lv is 0: keys and values are empty.
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
        reference_index: Tensor | None,
        adapter_scale: Tensor,
        pseudo_tokens: Tensor,
        vsi_keys: Tensor | None,
        vsi_values: Tensor | None,
    ) -> Tensor:
        """Encode texts with the adapter-augmented text encoder.

        Args:
            input_ids: (B, T) int64; -1 marks ``$``, n of them in a row.
            reference_index: (B,) int64, the reference image of each text; ``None``: text i has
                reference i, of which nothing is then copied.
            adapter_scale: (B,) float32, ``a``.
            pseudo_tokens: (R, n, d_t).
            vsi_keys: (R, Lv, N, d_vsi); ``None``: nothing is injected.
            vsi_values: (R, Lv, N, d_vsi).

        Returns:
            ``query_embeds`` (B, D), L2-normalised.
        """
        backbone = self.backbone
        is_slot = input_ids < 0  # (B, T)
        # No clamp or running sum of integers: TensorRT 10.3 documents them for floats only.
        ids = torch.where(is_slot, 0, input_ids)
        # number of the pseudo-word at each slot, from 0 to n - 1
        number = (is_slot.float().cumsum(dim=1) - 1).clamp(0, pseudo_tokens.shape[1] - 1).long()
        words, keys, values = pseudo_tokens, vsi_keys, vsi_values
        if reference_index is not None:
            words = words[reference_index]
            if keys is not None and values is not None:
                keys, values = keys[reference_index], values[reference_index]
        # words are (B, n, d_t) now
        words = words.gather(1, number[..., None].expand(-1, -1, words.shape[-1]))
        x = torch.where(is_slot[..., None], words, backbone.embed_tokens(ids))
        x = backbone.add_positions(x)
        mask = backbone.causal_mask(input_ids.shape[1])
        for layer in range(backbone.text_layers):
            inputs = (layer, x, mask, is_slot, keys, values, adapter_scale)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._text_layer, *inputs, use_reentrant=False)
            else:
                x = self._text_layer(*inputs)
        queries = backbone.pool_text(x, ids)
        if self.combiner is None or vsi_keys is None or vsi_values is None:
            return queries
        with _in_float32(queries):
            # a rounded score would be wrong by a fifth after its multiplication by the sharpness
            reference = (pseudo_tokens.float(), vsi_keys.float(), vsi_values.float())
            described = self.combiner.describe(*reference)
            if reference_index is not None:
                described = described[reference_index]
            return self.combiner(queries.float(), described, adapter_scale)

    def _text_layer(
        self,
        layer: int,
        x: Tensor,
        mask: Tensor | None,
        is_slot: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        adapter_scale: Tensor,
    ) -> Tensor:
        """Run one layer of the text encoder: inject, then the frozen block, then adapt."""
        if self.vsi is not None and keys is not None and values is not None:
            x = self.vsi.inject(layer, x, is_slot, keys, values)
        x = self.backbone.text_block(layer, x, mask)
        if len(self.adapters):
            x = self.adapters[layer](x, adapter_scale)
        return x


def _in_float32(like: Tensor) -> AbstractContextManager[object]:
    """Turn automatic mixed precision off, where it is on."""
    if torch.is_autocast_enabled(like.device.type):
        return torch.autocast(like.device.type, enabled=False)
    return contextlib.nullcontext()


def _is_scaled(name: str) -> bool:
    """Return whether a weight is of a layer that ``adapter_scale`` multiplies the output of."""
    adapter = name.startswith("adapters.") and ".up." in name
    return adapter or name.startswith("combiner.out_")
