"""How much a device takes at a time; none of it changes a result beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Sizes", "sizes_for"]

_GPU_BYTES_PER_IMAGE = 48 * 2**20  # activations of a frozen ViT-bigG-14 in bf16, per image


@dataclass(frozen=True)
class Sizes:
    """Sizes of forward passes without gradients, and of groups of texts with them.

    Attributes:
        images: images per forward pass of the frozen image encoder.
        texts: captions per forward pass of the frozen text encoder.
        grouped_texts: texts of similar length that are encoded together; a CPU saves padding by
            small groups, and a GPU would wait for their kernels.
        gallery: gallery images that are compared with a batch of queries at a time.
    """

    images: int = 128
    texts: int = 512
    grouped_texts: int = 64
    gallery: int = 8192


def sizes_for(device: torch.device) -> Sizes:
    """Return the sizes for a device: a GPU's follow from its memory."""
    if device.type != "cuda":
        return Sizes()
    memory = torch.cuda.get_device_properties(device).total_memory
    images = 2 ** ((memory // 4 // _GPU_BYTES_PER_IMAGE).bit_length() - 1) if memory else 128
    return Sizes(images=min(max(images, 32), 512), texts=2048, grouped_texts=1024, gallery=65536)
