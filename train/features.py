"""Image features, computed once: both stages leave the image encoder frozen."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from train.backbone import Backbone
from train.data import TrainingImage
from ztcir_sdk.preprocess import Preprocessing

__all__ = ["ImageFeatures", "image_features"]


@dataclass(frozen=True)
class ImageFeatures:
    """What the frozen image encoder says of a collection.

    Attributes:
        ids: item ids, in the order of the rows.
        embeds: ``v`` (M, D) float32, L2-normalised.
        patches: ``P`` (M, N, d_v) float16, on disk.
    """

    ids: tuple[str, ...]
    embeds: NDArray[np.float32]
    patches: NDArray[np.float16]

    def embeddings(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """``v`` of some rows, (b, D) float32."""
        return torch.from_numpy(self.embeds[positions])

    def rows(self, positions: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """``v`` and ``P`` of some rows, as float32 tensors."""
        patches = np.asarray(self.patches[positions], dtype=np.float32)
        return self.embeddings(positions), torch.from_numpy(patches)


@torch.inference_mode()
def image_features(
    backbone: Backbone, images: Sequence[TrainingImage], cache: Path, *, batch: int = 128
) -> ImageFeatures:
    """Encode a collection, or read what an earlier run over the same images and weights left.

    Args:
        backbone: with its image encoder frozen.
        images: the collection.
        cache: folder; its features are used again only for the same weights and the same items.
        batch: images a forward pass.
    """
    ids = tuple(image.item.id for image in images)
    key = _fingerprint(backbone, ids)
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    complete, embeds_path, patches_path = (
        folder / name for name in ("complete.json", "embeds.npy", "patches.npy")
    )
    if not complete.is_file():
        preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
        embeds = np.empty((len(images), backbone.embed_dim), np.float32)
        patches = np.lib.format.open_memmap(
            patches_path,
            "w+",
            np.float16,
            (len(images), backbone.num_patches, backbone.patch_dim),
        )
        for start in tqdm(range(0, len(images), batch), desc="image features", file=sys.stderr):
            chunk = images[start : start + batch]
            pixels = torch.from_numpy(preprocess([image.load() for image in chunk]))
            # half precision is four times as fast here, and far below what training can tell
            with torch.autocast(backbone.device.type, torch.bfloat16):
                v, p = backbone.encode_image(pixels.to(backbone.device))
            embeds[start : start + len(chunk)] = v.float().cpu().numpy()
            patches[start : start + len(chunk)] = p.float().cpu().numpy()
        patches.flush()
        np.save(embeds_path, embeds)
        complete.write_text(json.dumps({"images": len(ids)}), encoding="utf-8")
    return ImageFeatures(ids, np.load(embeds_path), np.load(patches_path, mmap_mode="r"))


def _fingerprint(backbone: Backbone, ids: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name, tensor in backbone.clip.visual.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    digest.update(json.dumps(backbone.preprocess_cfg, sort_keys=True).encode())
    digest.update("\n".join(ids).encode())
    return digest.hexdigest()[:16]
