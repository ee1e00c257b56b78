"""Reads the default bundle's frozen backbone back from its graphs into a checkpoint.

The ablation so runs on the deployed backbone, without training one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from train.model import (
    Backbone,
    BackboneConfig,
    create_backbone,
    write_checkpoint,
)
from train.stages.frozen_captions import encode_captions, plain_model
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import draw, training_drawings
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import IMAGE_ENCODER, TEXT_ENCODER
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime import RuntimeSettings

__all__ = ["bundled_backbone", "read_backbone"]

Constants = Mapping[str, NDArray[np.generic]]

_OWN = "model.backbone.text."  # the CLIP's name in an exported graph
_TOLERANCE = 1e-4  # largest difference from the graphs, as a share of the largest value
_BLOCK = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def bundled_backbone(bundle: Bundle, folder: Path) -> Path:
    """Write a bundle's backbone as a checkpoint for `load_backbone`.

    Args:
        bundle: a bundle of ``fashion-lite``, in fp32.
        folder: folder of the checkpoint; replaced if it exists.

    Raises:
        ZtcirError: the graphs are not from ``fashion-lite``.
    """
    backbone = read_backbone(bundle)
    config: dict[str, Any] = {
        "kind": "backbone",
        "backbone": asdict(backbone.config),
        "quick_gelu": backbone.quick_gelu,
        "training": {},
    }
    write_checkpoint(folder, config, {"backbone": backbone.clip.state_dict()})
    return folder


def read_backbone(bundle: Bundle) -> Backbone:
    """Return the backbone of a bundle's graphs, in float32.

    The graphs have no ``logit_scale``, which keeps its initial value. Norms are folded into their
    convolutions there, so here a norm only adds its shift.

    Raises:
        ZtcirError: the graphs are not from ``fashion-lite``, or the backbone differs from them.
    """
    backbone = create_backbone(BackboneConfig())
    image, text = (
        onnx.load(bundle.path / f"{name}.onnx") for name in (IMAGE_ENCODER, TEXT_ENCODER)
    )
    try:
        weights = {**_image_weights(backbone, image), **_text_weights(backbone, text)}
        kept = ("logit_scale", ".num_batches_tracked")
        own = backbone.clip.state_dict()
        own = {name: weight for name, weight in own.items() if name.endswith(kept)}
        backbone.clip.load_state_dict({**own, **weights})
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise ZtcirError(
            f"{bundle.path} cannot be read back as a fashion-lite backbone ({error}): name a "
            "checkpoint of `ztcir train backbone` with --backbone."
        ) from error
    _compare(backbone, bundle)
    return backbone


def _constants(model: onnx.ModelProto) -> Constants:
    """Return all values in a graph that depend on no input."""
    found: dict[str, NDArray[np.generic]] = {
        one.name: numpy_helper.to_array(one) for one in model.graph.initializer
    }
    for node in model.graph.node:
        if node.op_type in ("Cast", "Mul", "Transpose") and all(one in found for one in node.input):
            results = ReferenceEvaluator(node).run(None, {one: found[one] for one in node.input})
            found |= dict(zip(node.output, map(np.asarray, results), strict=True))
    return found


def _image_weights(backbone: Backbone, model: onnx.ModelProto) -> dict[str, Tensor]:
    own = backbone.clip.state_dict()
    weights: dict[str, Tensor] = {}
    norms = dict(_norms(backbone.clip.visual))
    for name, value in _constants(model).items():
        if not name.startswith(_OWN):
            continue
        name = name.removeprefix(_OWN)
        if name in own:
            weights[name] = torch.from_numpy(value.astype(np.float32))
        elif (conv := name.removesuffix(".bias").removeprefix("visual.")) in norms:
            norm, module = norms[conv]
            shift = torch.from_numpy(value.astype(np.float32))
            weights |= {
                f"visual.{norm}.weight": torch.full_like(shift, (1 + module.eps) ** 0.5),
                f"visual.{norm}.bias": shift,
                f"visual.{norm}.running_mean": torch.zeros_like(shift),
                f"visual.{norm}.running_var": torch.ones_like(shift),
            }
    return weights


def _norms(visual: nn.Module) -> Iterator[tuple[str, tuple[str, nn.BatchNorm2d]]]:
    """Yield each convolution's name and the norm that follows it."""
    conv = ""
    for name, module in visual.named_modules():
        if isinstance(module, nn.Conv2d):
            conv = name
        elif isinstance(module, nn.BatchNorm2d):
            yield conv, (name, module)


def _text_weights(backbone: Backbone, model: onnx.ModelProto) -> dict[str, Tensor]:
    own = backbone.clip.state_dict()
    found = _constants(model)
    weights = {
        name.removeprefix(_OWN): value
        for name, value in found.items()
        if name.removeprefix(_OWN) in own and name.startswith(_OWN)
    }
    weights["token_embedding.weight"] = _token_rows(backbone, model, found)
    # The exporter does not name the matrices of linear layers; they are in order of use.
    matrices = defaultdict[tuple[int, ...], list[NDArray[np.generic]]](list)
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in found:
            matrix = found[node.input[1]]
            matrices[matrix.shape].append(matrix)
    blocks = len(backbone.text.transformer.resblocks)
    for kind in _BLOCK:
        shape = tuple(reversed(own[f"transformer.resblocks.0.{kind}"].shape))
        # out_proj comes first among its block's matrices of that shape, which an adapter can share.
        step = len(matrices[shape]) // blocks if kind == "attn.out_proj.weight" else 1
        for layer in range(blocks):
            name = f"transformer.resblocks.{layer}.{kind}"
            weights[name] = matrices[shape][layer * step].T
    return {
        name: torch.from_numpy(np.ascontiguousarray(value.astype(np.float32)))
        for name, value in weights.items()
    }


def _token_rows(
    backbone: Backbone, model: onnx.ModelProto, found: Constants
) -> NDArray[np.float32]:
    """Return the token table: the product of all tables with one row per token."""
    table = np.ones(1, np.float32)
    for node in model.graph.node:
        looked_up = found.get(node.input[0]) if "Gather" in node.op_type else None
        if looked_up is not None and looked_up.shape[:1] == (backbone.vocab_size,):
            table = table * looked_up.astype(np.float32)
    return table


@torch.no_grad()
def _compare(backbone: Backbone, bundle: Bundle) -> None:
    encoder = Encoder(
        bundle, precision="fp32", settings=RuntimeSettings(backend="onnx", device="cpu")
    )
    drawings = training_drawings(4, seed=0)
    pictures, captions = [draw(one) for one in drawings], [one.caption for one in drawings]
    references = encoder.encode_references(pictures)
    pixels = Preprocessing.from_open_clip(backbone.preprocess_cfg)(pictures)
    v, patches = backbone.encode_image(torch.from_numpy(pixels))
    plain = plain_model(backbone)
    pairs = [
        (np.stack([one.embedding for one in references]), v),
        (np.stack([one.patches for one in references if one.patches is not None]), patches),
        (encoder.encode_texts(captions), encode_captions(plain, captions, precision="fp32")),
    ]
    differences = [
        float(np.abs(wanted - own.numpy()).max() / np.abs(wanted).max()) for wanted, own in pairs
    ]
    if not max(differences) <= _TOLERANCE:
        raise ZtcirError(
            f"The backbone read back from {bundle.path} differs from its graphs by "
            f"{max(differences):.1e} of the largest value: name a checkpoint of "
            "`ztcir train backbone` with --backbone."
        )
