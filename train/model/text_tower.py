"""A text tower's mask, pooling and padding, which decide how prompts must be prepared.

CLIP's towers are causal and pool at end-of-text, so a prompt may be cut there. Towers without a
causal mask also attend to what follows the end, so every prompt must be padded to the length that
they were trained with. SigLIP's towers pool at the last position, which usually is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_clip.transformer import ResidualAttentionBlock

from train.model_names import UnsupportedBackboneError

__all__ = ["CLIP_TOWER", "TextTower", "read_text_tower"]

POOLS = {"argmax": "eot", "last": "last"}
"""open_clip's name of a pooling -> the bundle manifest's."""
SIGLIP_CLEANING = "canonicalize"


@dataclass(frozen=True)
class TextTower:
    """The prompts that a text tower needs.

    Attributes:
        context_length: longest prompt, in tokens.
        causal: no token attends to a later one, so prompts may be cut after their end.
        pool: position of the embedding: "eot" (end-of-text) or "last".
        vocabulary: Hugging Face name or folder of a SigLIP's tokenizer; ``None``: CLIP's own.
    """

    context_length: int = 77
    causal: bool = True
    pool: str = "eot"
    vocabulary: str | None = None

    @property
    def pad_to(self) -> int | None:
        """Length that every prompt is padded to; ``None``: that of the longest in the batch."""
        return None if self.causal and self.pool == "eot" else self.context_length


CLIP_TOWER = TextTower()


def read_text_tower(text: Any, text_cfg: Mapping[str, Any]) -> TextTower:
    """Return the description of an open_clip text tower.

    Args:
        text: the module that holds ``transformer`` and ``token_embedding``.
        text_cfg: its open_clip configuration.

    Raises:
        UnsupportedBackboneError: the tower is not open_clip's standard transformer, or its pooling,
            mask, class token or tokenizer is not supported.
    """
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    if blocks is None or not all(type(block) is ResidualAttentionBlock for block in blocks):
        raise UnsupportedBackboneError(
            "The text tower is not open_clip's standard transformer; use a CLIP such as ViT-B-32."
        )
    if getattr(text, "cls_emb", None) is not None:
        raise UnsupportedBackboneError(
            "Text towers with a class token (CoCa) are not supported; use a CLIP such as ViT-B-32."
        )
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    if pool not in POOLS:
        raise UnsupportedBackboneError(
            f"The text tower pools by {pool!r}, not at its end-of-text token or last position; "
            "use a CLIP such as ViT-B-32 or a SigLIP."
        )
    if getattr(text, "use_pad_mask", False):
        raise UnsupportedBackboneError(
            "Text towers that mask their padding are not supported; use a CLIP such as ViT-B-32."
        )
    name = text_cfg.get("hf_tokenizer_name")
    options = text_cfg.get("tokenizer_kwargs") or {}
    if name is not None and options.get("clean") != SIGLIP_CLEANING:
        raise UnsupportedBackboneError(
            f"The tokenizer {name} is neither CLIP's nor a SigLIP's; use a CLIP such as ViT-B-32."
        )
    return TextTower(
        context_length=int(text.positional_embedding.shape[0]),
        causal=getattr(text, "attn_mask", None) is not None,
        pool=POOLS[pool],
        vocabulary=name,
    )
