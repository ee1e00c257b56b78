"""A composed search in PyTorch eager, as research code runs it, and where its model comes from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from export.bundle import image_tower_fingerprint
from export.parity import randomised
from export.storage import round_weights
from train.backbone import BackboneConfig, create_backbone
from train.model import ComposedModel, ModelConfig, load_model, model_config
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import BundleError, UsageError

__all__ = ["EagerSearch", "checkpoint_model", "random_model", "stand_in_model", "torch_threads"]

Said = tuple[Tensor, Tensor, Tensor]
"""``pseudo_tokens`` (1, n, d_t), ``vsi_keys`` and ``vsi_values`` (1, Lv, N, d_vsi)."""


class EagerSearch:
    """JPEG and text in, nearest rows of a gallery out: the modules that the graphs are cut from.

    Pictures go through open_clip's own transform, prompts are padded to the whole context, and the
    gallery is one matrix. Methods run without gradients.

    Args:
        model: in evaluation mode.
        prompt: modification text -> token ids of its prompt.
        gallery: (N, D) float32, L2-normalised.
        k: how many rows are asked for.
    """

    def __init__(
        self,
        model: ComposedModel,
        prompt: Callable[[str], Sequence[int]],
        gallery: NDArray[np.float32],
        k: int,
    ) -> None:
        self.model = model
        self.context_length = int(model.backbone.context_length)
        self._prompt = prompt
        self._gallery = torch.from_numpy(gallery)
        self._k = k
        self._transform = image_transform_v2(
            PreprocessCfg(**model.backbone.preprocess_cfg), is_train=False
        )

    def pixels(self, file: Path) -> Tensor:
        """Decode and transform a picture: ``pixel_values`` (1, 3, H, W)."""
        with Image.open(file) as image:
            pixel_values: Tensor = self._transform(image)
        return pixel_values[None]

    @torch.inference_mode()
    def reference(self, file: Path) -> Said:
        """Run the image encoder and the token learner on a picture."""
        return self.model.learn_token(*self.model.encode_image(self.pixels(file)))

    @torch.inference_mode()
    def query(self, text: str, said: Said) -> Tensor:
        """Run the text encoder with adapters on: (1, D), L2-normalised."""
        ids = torch.zeros(1, self.context_length, dtype=torch.long)
        prompt = self._prompt(text)
        ids[0, : len(prompt)] = torch.tensor(prompt)
        first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
        return self.model.encode_query(ids, first, scale, *said)

    @torch.inference_mode()
    def second_text(self, text: str, said: Said) -> list[int]:
        """Ask about a picture that has been encoded; rows of the gallery, nearest first."""
        scores = self.query(text, said) @ self._gallery.T
        rows: list[int] = scores[0].topk(self._k).indices.tolist()
        return rows

    def first_text(self, file: Path, text: str) -> list[int]:
        """Encode a picture, and ask about it."""
        return self.second_text(text, self.reference(file))


@contextlib.contextmanager
def random_model(name: str) -> Iterator[ComposedModel]:
    """A model over an untrained backbone, the same one at every call; gates are open.

    Args:
        name: of an open_clip model, or of a folder in ``train/configs``.

    Raises:
        UnsupportedBackboneError: there is none, or the method cannot be applied to it.
    """
    torch.manual_seed(0)
    model = ComposedModel(create_backbone(BackboneConfig(name)), ModelConfig()).eval()
    with randomised(model):
        yield model


def checkpoint_model(folder: Path, bundle: Bundle) -> ComposedModel:
    """The model that a bundle was exported from, its weights rounded if the bundle's are.

    Raises:
        CheckpointError: there is no checkpoint, or a damaged one.
        UsageError: the bundle has another image tower.
    """
    model, _ = load_model(folder)
    if image_tower_fingerprint(model) != bundle.manifest.image_tower:
        model = round_weights(model)
        if image_tower_fingerprint(model) != bundle.manifest.image_tower:
            raise UsageError(
                f"The bundle {bundle.path} was not exported from {folder}: their image towers "
                "differ; name the checkpoint that it was made from."
            )
    return model


def stand_in_model(bundle: Bundle) -> ComposedModel:
    """A model of a bundle's architecture with random weights, as fast as the one it came from.

    Norms are folded into convolutions, as they are in the bundle.

    Raises:
        BundleError: the model card does not say the architecture.
    """
    card = bundle.manifest.model_card
    if not card.get("backbone") or not card.get("parts"):
        raise BundleError(
            f"The model card of {bundle.path} says no architecture: name its checkpoint with "
            "--checkpoint, or measure it alone with `ztcir bench`."
        )
    torch.manual_seed(0)
    backbone = create_backbone(BackboneConfig(card["backbone"]["model"]))
    return round_weights(ComposedModel(backbone, model_config(card["parts"])).eval())


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use so many threads for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
