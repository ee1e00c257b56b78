"""How a text tower reads: with or without a causal mask, where it pools, what it is padded with.

CLIP's towers are causal and pool at end-of-text, so that a prompt may be cut there. Towers without
a causal mask look at what stands behind the end as well: they need every prompt padded to the
length that they were trained with. SigLIP's pool the last position, which is padding as a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_clip.transformer import ResidualAttentionBlock

from ztcir_sdk.errors import ZtcirError

__all__ = ["CLIP_TOWER", "TextTower", "UnsupportedBackboneError", "read_text_tower"]

POOLS = {"argmax": "eot", "last": "last"}
"""open_clip's name of a pooling -> the manifest's."""
SIGLIP_CLEANING = "canonicalize"


class UnsupportedBackboneError(ZtcirError):
    """The open_clip model is of a kind that the method's text graph cannot be cut from."""


@dataclass(frozen=True)
class TextTower:
    """What a prompt has to look like for a text tower.

    Attributes:
        context_length: longest prompt, in tokens.
        causal: whether no token sees a later one, so that prompts may be cut after their end.
        pool: position that gives the embedding: "eot" (end-of-text) or "last".
        vocabulary: Hugging Face name or folder of a SigLIP's tokenizer; ``None`` for CLIP's own.
    """

    context_length: int = 77
    causal: bool = True
    pool: str = "eot"
    vocabulary: str | None = None

    @property
    def pad_to(self) -> int | None:
        """Tokens that every prompt is padded to; ``None`` where the longest of a batch will do."""
        return None if self.causal and self.pool == "eot" else self.context_length


CLIP_TOWER = TextTower()


def read_text_tower(text: Any, text_cfg: Mapping[str, Any]) -> TextTower:
    """Read an open_clip text tower, or refuse what the text graph cannot be cut from.

    Args:
        text: the module that holds ``transformer`` and ``token_embedding``.
        text_cfg: its open_clip configuration.

    Raises:
        UnsupportedBackboneError: not open_clip's standard transformer, or a pooling, a mask, a
            class token or a tokenizer that is not supported.
    """
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    if blocks is None or not all(type(block) is ResidualAttentionBlock for block in blocks):
        raise UnsupportedBackboneError(
            "The text tower is not open_clip's standard transformer; take a CLIP such as ViT-B-32."
        )
    if getattr(text, "cls_emb", None) is not None:
        raise UnsupportedBackboneError("Text towers with a class token (CoCa) are not supported.")
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    if pool not in POOLS:
        raise UnsupportedBackboneError(
            f"The text tower pools by {pool!r}, not at its end-of-text token or last position; "
            "take a CLIP such as ViT-B-32 or a SigLIP."
        )
    if getattr(text, "use_pad_mask", False):
        raise UnsupportedBackboneError(
            "Text towers that mask their padding are not supported; take a CLIP such as ViT-B-32."
        )
    name = text_cfg.get("hf_tokenizer_name")
    options = text_cfg.get("tokenizer_kwargs") or {}
    if name is not None and options.get("clean") != SIGLIP_CLEANING:
        raise UnsupportedBackboneError(
            f"The tokenizer {name} is neither CLIP's nor a SigLIP's; take a CLIP such as ViT-B-32."
        )
    return TextTower(
        context_length=int(text.positional_embedding.shape[0]),
        causal=getattr(text, "attn_mask", None) is not None,
        pool=POOLS[pool],
        vocabulary=name,
    )
