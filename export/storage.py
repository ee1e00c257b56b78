"""Small files with the same answers: weights are rounded before the export, and stored as rounded.

The default bundle is part of a wheel. Its token rows are stored in int8 with one scale per row, the
matrices of the text blocks' MLPs in int8 with one scale per output, and all other matrices in fp16.
The model is rounded first, in PyTorch. The graph stores exactly these numbers and widens them to
float32 once, when it is loaded. So PyTorch and graph agree up to floating-point error, and every
measurement uses the rounded weights.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from train.model import Backbone, ComposedModel

Model = TypeVar("Model", bound="ComposedModel | Backbone")

LENT = 1 << 20  # bytes; below, a tensor is not worth reading from another file
SMALL = 4096  # entries; below, the saved bytes do not pay for the Cast node


class Int8Embedding(nn.Module):
    """A token table in int8; a row is widened to `dtype` after its lookup."""

    rows: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.dtype = weight.dtype
        rows, scales = _to_int8(weight)
        self.register_buffer("rows", rows)
        self.register_buffer("scales", scales)
        # Read elsewhere in place of the table, for example for its shape.
        self.register_buffer("weight", rows.float() * scales, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        rows: Tensor = self.rows[input_ids]
        scales: Tensor = self.scales[input_ids]
        return (rows.float() * scales).to(self.dtype)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix as rows (V, d) int8 and scales (V, 1) float32; see `row_scales`."""
    rows, scales = row_scales(weight.detach().float().numpy())
    return torch.from_numpy(rows), torch.from_numpy(scales)


def row_scales(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a matrix as rows (V, d) int8 and scales (V, 1) float32 that are exact in fp16.

    An 11-bit scale times a 7-bit integer is exact in float32, so `compress` can recover both from
    the product.
    """
    largest = np.abs(matrix).max(axis=1, keepdims=True).clip(min=np.float32(1e-6))
    exact = (largest / np.float32(127)).astype(np.float16)
    up = np.nextafter(exact, np.float16(np.inf))
    scales = np.where(exact.astype(np.float32) * 127 < largest, up, exact).astype(np.float32)
    return np.rint(matrix / scales).clip(-127, 127).astype(np.int8), scales


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Fold batch norms into their convolutions before rounding; the exporter would do it after.

    A norm is folded if it is registered right after its convolution, as in timm's convnets. Its
    activation stays.
    """
    children = list(module.named_children())
    for (name, conv), (norm_name, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
            setattr(module, name, fuse_conv_bn_eval(conv.eval(), norm.eval()))
            setattr(module, norm_name, norm.act)
    for _, child in children:
        fold_norms(child)


@torch.no_grad()
def round_weights(model: Model) -> Model:
    """Round a model's weights in place to what a small bundle stores; return the same model."""
    backbone = model if isinstance(model, Backbone) else model.backbone
    fold_norms(backbone.clip.visual)
    text = backbone.text
    table = text.token_embedding
    narrow = [block.mlp for block in text.transformer.resblocks]
    eight = {id(layer.weight) for mlp in narrow for layer in mlp if isinstance(layer, nn.Linear)}
    for parameter in model.parameters():
        if parameter is table.weight or parameter.numel() < SMALL:
            continue
        if id(parameter) in eight:
            rows, scales = _to_int8(parameter)
            parameter.copy_(rows.float() * scales)
        else:
            parameter.copy_(parameter.half().float())
    text.token_embedding = Int8Embedding(table.weight)
    return model


def compress(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Store float32 matrices from `round_weights` in the fewest bytes that keep them exact.

    A matrix that is exact neither in fp16 nor in int8 with one scale per row or column stays in
    float32, so compression changes no result.
    """
    nodes: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALL:
            kept.append(tensor)
            continue
        packed = _exact_int8(values)
        if packed is not None:
            rows, scales = packed
            kept += [
                numpy_helper.from_array(rows, f"{tensor.name}.int8"),
                numpy_helper.from_array(scales, f"{tensor.name}.scale"),
            ]
            wide = f"{tensor.name}.wide"
            nodes += [
                helper.make_node("Cast", [f"{tensor.name}.int8"], [wide], to=TensorProto.FLOAT),
                helper.make_node("Mul", [wide, f"{tensor.name}.scale"], [tensor.name]),
            ]
        elif np.array_equal(values.astype(np.float16).astype(np.float32), values):
            kept.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half"))
            nodes.append(
                helper.make_node(
                    "Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT
                )
            )
        else:
            kept.append(tensor)
    for number, node in enumerate(nodes):
        node.name = f"widen_{number}"
    body = graph.graph
    del body.initializer[:]
    body.initializer.extend(kept)
    computed = list(body.node)
    del body.node[:]
    body.node.extend([*nodes, *computed])
    return graph


def decompress(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Undo `compress`: store the widened weights, so that they can be quantized."""
    body = graph.graph
    stored = {tensor.name: tensor for tensor in body.initializer}
    computed: list[onnx.NodeProto] = []
    for node in body.node:
        if not node.name.startswith("widen_"):
            computed.append(node)
            continue
        values = [numpy_helper.to_array(stored.pop(name)) for name in node.input]
        wide = values[0].astype(np.float32) * (values[1] if len(values) > 1 else 1)
        [name] = node.output
        stored[name] = numpy_helper.from_array(wide.astype(np.float32), name)
    del body.initializer[:]
    body.initializer.extend(stored.values())
    del body.node[:]
    body.node.extend(computed)
    return graph


def borrow_tensors(graph: onnx.ModelProto, lender: Path) -> int:
    """Let a graph read large tensors from another graph's file, where the same bytes lie.

    Two precisions of a text encoder have the same token table, most of their bytes.

    Args:
        graph: changed in place; its file must be in the folder of `lender`.
        lender: an ``.onnx`` file that keeps its tensors inside.

    Returns:
        Number of bytes that the graph no longer holds.
    """
    content = lender.read_bytes()
    saved = 0
    for tensor in graph.graph.initializer:
        data = tensor.raw_data
        start = content.find(data) if len(data) >= LENT else -1
        if start < 0:
            continue
        saved += len(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": lender.name, "offset": start, "length": len(data)}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
    return saved


def _exact_int8(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Return integers and scales by row or column whose product is exactly ``values``, if any."""
    if values.ndim != 2:
        return None
    for axis in (1, 0):
        largest = np.abs(values).max(axis=axis, keepdims=True)
        scales = (largest / np.float32(127)).astype(np.float16).astype(np.float32)
        if not scales.all():
            continue
        integers = np.rint(values / scales)
        if np.abs(integers).max() <= 127 and np.array_equal(integers * scales, values):
            return integers.astype(np.int8), scales
    return None
