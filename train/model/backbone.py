"""A frozen CLIP-like open_clip model whose image patches and text blocks can be reached."""

from __future__ import annotations

import contextlib
import json
import logging
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from train.model.text_tower import TextTower, read_text_tower
from train.model.weights import (
    check_weights,
    load_adapter,
    load_weights,
    needs_quick_gelu,
    weights_source,
)
from train.model_names import UnsupportedBackboneError, check_name, own_config
from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import DEFAULT_BUNDLE

__all__ = [
    "Backbone",
    "BackboneConfig",
    "UnsupportedBackboneError",
    "check_pretrained",
    "create_backbone",
]

BIG_VISION = (".npz", ".npy")  # open_clip converts them itself

# Large enough that exp(-x) is exactly zero in float32 and float16, small enough to be finite in
# both: an infinite mask turns into NaN in half precision (TensorRT #2564).
MASKED = -1.0e4


@dataclass(frozen=True)
class BackboneConfig:
    """An open_clip model and the source of its weights.

    Attributes:
        model: an open_clip model name, or the name of a folder in ``train/configs``.
        pretrained: an open_clip tag; a file or folder of weights or of a LoRA adapter; or
            ``BASE+ADAPTER``. ``None`` leaves random weights, to be replaced by a checkpoint that
            carries its own.
    """

    model: str = DEFAULT_BUNDLE
    pretrained: str | None = None


class Backbone(nn.Module):
    """An open_clip CLIP whose image patches and text blocks can be reached.

    Attributes:
        embed_dim: D, size of the joint embedding.
        patch_dim: d_v, width of the image tower's last layer.
        num_patches: N, positions of the last layer, without the class token; fewer if they are
            pooled, see `pool_patches`.
        patch_grid: rows and columns that the patches are pooled to; ``None``: they are not.
        text_width: d_t, width of the text tower.
        text_layers: L, number of text blocks.
        context_length: longest text, in tokens.
        image_size: (height, width) in pixels.
        tower: the text tower's mask, pooling and tokenizer.
    """

    # open_clip's models are not typed
    clip: Any
    text: Any
    mask: Tensor
    pooling: Tensor | None  # (G, N), each row the mean of some patches

    def __init__(
        self, clip: Any, config: BackboneConfig, text_cfg: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        self.text = clip.text if hasattr(clip, "text") else clip
        _check_image_tower(clip)
        self.tower: TextTower = read_text_tower(self.text, text_cfg or {})
        visual = clip.visual
        height, width = open_clip.transform.to_2tuple(visual.image_size)
        self.image_size = (int(height), int(width))
        self.text_width = int(self.text.token_embedding.weight.shape[1])
        self.text_layers = len(self.text.transformer.resblocks)
        self.context_length = self.tower.context_length
        self.vocab_size = int(self.text.token_embedding.weight.shape[0])
        was_training = clip.training
        clip.eval()
        mask = torch.full((self.context_length, self.context_length), MASKED).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        self.patch_grid: tuple[int, int] | None = None
        self.register_buffer("pooling", None, persistent=False)
        with torch.no_grad():
            embeds, patches = self.encode_image(torch.zeros(1, 3, *self.image_size))
        clip.train(was_training)
        self.embed_dim = int(embeds.shape[1])
        self.num_patches, self.patch_dim = int(patches.shape[1]), int(patches.shape[2])

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        """open_clip's preprocessing: size, mean, std, interpolation, resize mode, fill colour."""
        return dict(open_clip.get_model_preprocess_cfg(self.clip))

    @property
    def quick_gelu(self) -> bool:
        """Whether the towers use OpenAI's approximate activation (open_clip #441, #771)."""
        block = self.text.transformer.resblocks[0]
        return type(block.mlp.gelu).__name__ == "QuickGELU"

    def pool_patches(self, grid: tuple[int, int]) -> None:
        """From now on, return the means of the patches in a grid of cells in place of all patches.

        Args:
            grid: rows and columns; the cells are those of ``adaptive_avg_pool2d``.

        Raises:
            UsageError: the patches have fewer rows or columns.
        """
        if grid == self.patch_grid:
            return
        if self.patch_grid is not None:
            raise ValueError(f"The patches are pooled to {self.patch_grid} already.")
        height, width = self.image_size
        rows = round((self.num_patches * height / width) ** 0.5)
        columns = self.num_patches // rows
        if not (0 < grid[0] <= rows and 0 < grid[1] <= columns) or (
            rows * columns != self.num_patches
        ):
            raise UsageError(
                f"{self.config.model} has {rows}x{columns} patches, which cannot be pooled to "
                f"{grid[0]}x{grid[1]}; choose a smaller grid, or --patches without a grid."
            )
        one_hot = torch.eye(self.num_patches).reshape(self.num_patches, rows, columns)
        self.pooling = F.adaptive_avg_pool2d(one_hot, grid).flatten(1).T.contiguous()
        self.pooling = self.pooling.to(self.device)
        self.patch_grid, self.num_patches = grid, grid[0] * grid[1]

    def pooled(self, patches: Tensor) -> Tensor:
        """Return the pooled features (R, G, d_v) of all patches (R, N, d_v), if there is a grid."""
        return patches if self.pooling is None else self.pooling.to(patches.dtype) @ patches

    def encode_image(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled embeddings and patch features of preprocessed images.

        Args:
            pixel_values: (R, 3, H, W) float32.

        Returns:
            ``v`` (R, D), L2-normalised, and ``P`` (R, N, d_v): after the final norm, before the
            projection, without class token; a convnet's last map is flattened row by row.

        Raises:
            UnsupportedBackboneError: the timm tower returns neither a feature map nor tokens.
        """
        visual = self.clip.visual
        if isinstance(visual, TimmModel):
            feature_map = visual.trunk.forward_features(pixel_values)
            pooled = visual.head(visual.trunk.forward_head(feature_map))
            patches = _timm_patches(visual.trunk, feature_map)  # (R, N, d_v)
        else:
            x = visual.transformer(visual._embeds(pixel_values))  # (R, 1 + N, d_v)
            pooled, _ = visual._pool(x)
            if visual.proj is not None:
                pooled = pooled @ visual.proj
            patches = visual.ln_post(x[:, 1:])
        return F.normalize(pooled, dim=-1), self.pooled(patches)

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Return token embeddings (B, T, d_t) of non-negative ids (B, T), without positions."""
        embedded: Tensor = self.text.token_embedding(input_ids)
        return embedded

    def add_positions(self, x: Tensor) -> Tensor:
        """Add the position embeddings, from position 0, to x (B, T, d_t)."""
        positions: Tensor = self.text.positional_embedding
        return x + positions[: x.shape[1]]

    def causal_mask(self, length: int) -> Tensor | None:
        """Return the additive causal mask (T, T), with finite values; ``None`` if not causal."""
        return self.mask[:length, :length] if self.tower.causal else None

    def text_block(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run text block ``index`` on x (B, T, d_t), with the `causal_mask` of T.

        This repeats open_clip's standard block, because the fast path of ``nn.MultiheadAttention``
        writes the batch size into exported graphs (pytorch #122321).
        """
        block = self.text.transformer.resblocks[index]
        attn = block.attn
        batch, length, width = x.shape
        heads = attn.num_heads
        qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        # batch and length come from the tensor at run time, so exported graphs keep them dynamic
        q, k, v = (
            part.reshape(batch, length, heads, width // heads).transpose(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )
        mask = None if mask is None else mask.to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + block.ls_1(attn.out_proj(attended))
        result: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
        return result

    def pool_text(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """Return L2-normalised embeddings (B, D), pooled at end-of-text or at the last position.

        End-of-text is the largest id of the vocabulary, and the placeholder is -1.
        """
        if self.tower.pool == "last":
            pooled = x[:, -1]
        else:
            end = input_ids.argmax(dim=-1)
            pooled = x.gather(1, end[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
        pooled = self.text.ln_final(pooled)  # position-wise, so pooling first is the same
        projection = self.text.text_projection
        if isinstance(projection, nn.Linear):
            pooled = projection(pooled)
        elif projection is not None:
            pooled = pooled @ projection
        return F.normalize(pooled, dim=-1)

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        parameter: Tensor = self.text.token_embedding.weight
        return parameter.device


def _check_image_tower(clip: Any) -> None:
    """Raise unless the tower has patch features that can be reached."""
    if not isinstance(clip.visual, (TimmModel, VisionTransformer)):
        raise UnsupportedBackboneError(
            f"The image tower {type(clip.visual).__name__} is not supported; use a model with a "
            "VisionTransformer or a timm image tower."
        )
    if getattr(clip.visual, "attn_pool", None) is not None:
        raise UnsupportedBackboneError(
            "Image towers that pool by attention (CoCa) are not supported; "
            "use a CLIP such as ViT-B-32."
        )


def _timm_patches(trunk: Any, features: Tensor) -> Tensor:
    """Return patch features (R, N, d_v) from the output of a timm trunk's ``forward_features``."""
    width = int(trunk.num_features)
    if features.ndim == 3 and features.shape[2] == width:  # tokens: class and registers first
        return features[:, int(getattr(trunk, "num_prefix_tokens", 0)) :]
    if features.ndim == 4 and features.shape[1] == width:  # a convnet's map
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 4 and features.shape[3] == width:  # Swin's
        return features.flatten(1, 2)
    raise UnsupportedBackboneError(
        f"The timm image tower {type(trunk).__name__} returns neither tokens nor a feature map; "
        "use a model with a convnet or a vision transformer."
    )


def check_pretrained(config: BackboneConfig) -> None:
    """Check that the weights of a backbone are there, without reading them or downloading a tag.

    Raises:
        UnsupportedBackboneError: there is neither such a tag nor such a file, or it is damaged.
    """
    if config.pretrained is None:
        return
    source = weights_source(config.model, config.pretrained)
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    base = Path(source.base or "")
    if source.base is not None and (base.exists() or source.base not in tags):
        if not base.exists():
            one_of = f", or one of open_clip's tags: {', '.join(tags)}" if tags else ""
            raise UnsupportedBackboneError(
                f"There are no weights {source.base!r} of {config.model}; name a weights file"
                f"{one_of}."
            )
        if base.suffix not in BIG_VISION:
            check_weights(base)
    if source.adapter is not None:
        check_weights(source.adapter)


def create_backbone(config: BackboneConfig) -> Backbone:
    """Build a backbone in evaluation mode, float32, on the CPU.

    Raises:
        UnsupportedBackboneError: the name or the weights are unknown, or the method does not
            support a tower.
    """
    check_name(config.model)
    own_file = own_config(config.model)
    if own_file is not None:
        own = own_file.parent
        with _root_logger_from(logging.ERROR):  # open_clip warns that weights are random
            clip = open_clip.create_model(f"local-dir:{own}", load_weights=False)
        fields = json.loads(own_file.read_text(encoding="utf-8"))["model_cfg"]
        vocabulary = own / str(fields["text_cfg"].get("hf_tokenizer_name"))
        if vocabulary.is_dir():  # a tokenizer beside the configuration
            fields["text_cfg"]["hf_tokenizer_name"] = str(vocabulary)
        if config.pretrained is not None:
            load_weights(clip, Path(config.pretrained))
    else:
        clip = _open_clip_model(config)
        fields = open_clip.get_model_config(config.model)
    clip.eval()
    return Backbone(clip, config, fields["text_cfg"])


@contextlib.contextmanager
def _root_logger_from(level: int) -> Iterator[None]:
    """Let the root logger say what is at least of a level, and else nothing."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(max(before, level))
    try:
        yield
    finally:
        root.setLevel(before)


@contextlib.contextmanager
def _hub_reports_once() -> Iterator[None]:
    """Let the hub's client report its tries to download by its own handler alone.

    open_clip gives the root logger a handler, which repeats all of it, and then logs the error that
    it raises.
    """
    hub = logging.getLogger("huggingface_hub")
    propagate = hub.propagate
    hub.propagate = False
    try:
        with _root_logger_from(logging.CRITICAL):
            yield
    finally:
        hub.propagate = propagate


def _open_clip_model(config: BackboneConfig) -> Any:
    """Build an open_clip model with the activation that its weights were trained with.

    Only a tag, or the config.json beside weights of Transformers, tells whether they need
    QuickGELU. With the other activation they would run without an error and give wrong results
    (open_clip #441, #771).
    """
    source = weights_source(config.model, config.pretrained)
    file = Path(source.base) if source.base and Path(source.base).exists() else None
    if file is None or file.suffix in BIG_VISION:
        clip = _tagged_model(config.model, source.base)
    else:
        quick = needs_quick_gelu(file)
        with _root_logger_from(logging.ERROR):  # open_clip warns that weights are random
            clip = open_clip.create_model(config.model, force_quick_gelu=bool(quick))
        if quick is False and open_clip.get_model_config(config.model).get("quick_gelu"):
            raise UnsupportedBackboneError(
                f"The weights {file} were trained with GELU, and {config.model} uses QuickGELU; "
                f"name the model {config.model.removesuffix('-quickgelu')}."
            )
        load_weights(clip, file)
    if source.adapter is not None:
        load_adapter(clip, source.adapter)
    return clip


def _tagged_model(model: str, tag: str | None) -> Any:
    weights = {} if tag is None else open_clip.get_pretrained_cfg(model, tag) or {}
    quick = bool(weights.get("quick_gelu", False))
    logs = contextlib.nullcontext() if tag is None else _hub_reports_once()
    try:
        with logs:
            return open_clip.create_model(model, pretrained=tag, force_quick_gelu=quick)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a download or a file raises nearly anything
        why = textwrap.shorten(str(error) or type(error).__name__, 300)
        tags = open_clip.list_pretrained_tags_by_model(model)
        fix = (
            f"check the connection, or name a file of the weights: {model}:FILE"
            if tag in tags
            else f"name a weights file, or one of open_clip's tags: {', '.join(tags)}"
        )
        raise UnsupportedBackboneError(
            f"The weights {tag!r} of {model} cannot be loaded ({why}); {fix}."
        ) from error
