"""A composed search in PyTorch, as in research code, and the models that it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from export.bundle import image_tower_fingerprint
from export.parity import randomised
from export.storage import round_weights
from train.model import (
    BackboneConfig,
    ComposedModel,
    ModelConfig,
    create_backbone,
    load_model,
    model_config,
)
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import BundleError, UsageError, ZtcirError, first_line

ReferenceTensors = tuple[Tensor, Tensor, Tensor]
"""``pseudo_tokens`` (1, n, d_t), ``vsi_keys`` and ``vsi_values`` (1, Lv, N, d_vsi)."""


class TorchSearch:
    """A search from JPEG and text to the nearest rows of a gallery, in the modules of the graphs.

    Images go through open_clip's own transform, prompts are padded to the whole context, and the
    gallery is one matrix. Methods run without gradients. On a GPU, the model, the gallery and the
    reference tensors stay there; answers are on the host when a method returns.

    Args:
        model: the model in evaluation mode, on the device.
        prompt: modification text -> token ids of its prompt.
        gallery: (N, D) float32, L2-normalised.
        k: number of rows to return.
        device: "cpu" or "cuda:N".
        compiled: run the modules with `torch.compile`, which compiles them in their first calls.

    Attributes:
        encode_image, learn_token, encode_query: methods of `ComposedModel`, on the device.
    """

    def __init__(
        self,
        model: ComposedModel,
        prompt: Callable[[str], Sequence[int]],
        gallery: NDArray[np.float32],
        k: int,
        *,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        self.context_length = int(model.backbone.context_length)
        self.prompt = prompt
        self.encode_image: Callable[..., tuple[Tensor, Tensor]] = model.encode_image
        self.learn_token: Callable[..., ReferenceTensors] = model.learn_token
        self.encode_query: Callable[..., Tensor] = model.encode_query
        if compiled:
            # Whole graphs: code that cannot be compiled is an error and does not run eagerly.
            self.encode_image = torch.compile(model.encode_image, fullgraph=True, dynamic=False)
            self.learn_token = torch.compile(model.learn_token, fullgraph=True, dynamic=False)
            self.encode_query = torch.compile(model.encode_query, fullgraph=True, dynamic=True)
        self._device = device
        self._gallery = torch.from_numpy(gallery).to(device)
        self._k = k
        self._transform = image_transform_v2(
            PreprocessCfg(**model.backbone.preprocess_cfg), is_train=False
        )

    def on_host(self, function: Callable[..., Any], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run a function on the device with inputs and outputs on the host.

        Args:
            function: `encode_image`, `learn_token` or `encode_query`.
            inputs: its inputs, on the host.

        Returns:
            Its outputs, after the device has finished.
        """
        outputs = function(*(each.to(self._device) for each in inputs))
        several = (outputs,) if isinstance(outputs, Tensor) else outputs
        results = tuple(each.cpu() for each in several)
        self._synchronise()
        return results

    def pixels(self, file: Path) -> Tensor:
        """Decode and transform an image: ``pixel_values`` (1, 3, H, W), on the host."""
        with Image.open(file) as image:
            pixel_values: Tensor = self._transform(image)
        return pixel_values[None]

    @torch.inference_mode()
    def reference(self, file: Path) -> ReferenceTensors:
        """Run the image encoder and the token learner on an image; the result is on the device."""
        return self.learn_token(*self.encode_image(self.pixels(file).to(self._device)))

    @torch.inference_mode()
    def query(self, text: str, reference: ReferenceTensors) -> Tensor:
        """Run the text encoder with adapters: (1, D), L2-normalised, on the device."""
        ids = torch.zeros(1, self.context_length, dtype=torch.long)
        prompt = self.prompt(text)
        ids[0, : len(prompt)] = torch.tensor(prompt)
        first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
        inputs = (each.to(self._device) for each in (ids, first, scale))
        return self.encode_query(*inputs, *reference)

    @torch.inference_mode()
    def second_text(self, text: str, reference: ReferenceTensors) -> list[int]:
        """Search with an encoded image; return rows of the gallery, nearest first."""
        scores = self.query(text, reference) @ self._gallery.T
        rows: list[int] = scores[0].topk(self._k).indices.tolist()
        self._synchronise()
        return rows

    def first_text(self, file: Path, text: str) -> list[int]:
        """Encode an image and search with it."""
        return self.second_text(text, self.reference(file))

    def _synchronise(self) -> None:
        """Wait for the GPU: a call returns when its work is queued, not when it is done."""
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


@contextlib.contextmanager
def random_model(name: str) -> Iterator[ComposedModel]:
    """Yield a model with an untrained backbone and open gates; its weights are always the same.

    Args:
        name: an open_clip model, or a folder in ``train/configs``.

    Raises:
        UnsupportedBackboneError: there is no such model, or it is not supported.
    """
    torch.manual_seed(0)
    model = ComposedModel(
        create_backbone(BackboneConfig(name)), ModelConfig(token_learner_depth=2)
    ).eval()
    with randomised(model):
        yield model


def checkpoint_model(folder: Path, bundle: Bundle) -> ComposedModel:
    """Return the model that a bundle was exported from, rounded if the bundle is.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt.
        UsageError: the bundle has another image tower.
    """
    model, _ = load_model(folder)
    if image_tower_fingerprint(model) != bundle.manifest.image_tower:
        model = round_weights(model)
        if image_tower_fingerprint(model) != bundle.manifest.image_tower:
            raise UsageError(
                f"The bundle {bundle.path} was not exported from {folder}: their image towers "
                "differ; name the checkpoint that it was exported from."
            )
    return model


def stand_in_model(bundle: Bundle) -> ComposedModel:
    """Return a model of a bundle's architecture with random weights, which is as fast.

    Norms are folded into convolutions, as in the bundle.

    Raises:
        BundleError: the model card does not contain the architecture.
    """
    card = bundle.manifest.model_card
    if not card.get("backbone") or not card.get("parts"):
        raise BundleError(
            f"The model card of {bundle.path} does not contain the architecture: name the "
            "checkpoint with --checkpoint, or measure the bundle alone with `ztcir bench`."
        )
    torch.manual_seed(0)
    backbone = create_backbone(BackboneConfig(card["backbone"]["model"]))
    return round_weights(ComposedModel(backbone, model_config(card["parts"])).eval())


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set the number of PyTorch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Disable TF32 in PyTorch, as in the SDK: it keeps 10 of float32's 23 mantissa bits."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def fail_on_recompile() -> Iterator[None]:
    """Raise an error where `torch.compile` would compile again, so that no timing includes it."""
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


@contextlib.contextmanager
def torch_failures() -> Iterator[None]:
    """Turn PyTorch's errors about this machine into a `ZtcirError`.

    Raises:
        ZtcirError: a compiler is missing or fails, or the GPU is out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ZtcirError(
            "The GPU has no memory left for PyTorch: close other programs that use it, or measure "
            "smaller --models."
        ) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ZtcirError(
            f"torch.compile failed ({first_line(error)}): install a C++ compiler for a CPU, or "
            "Triton for a GPU, or leave out --compile."
        ) from error
