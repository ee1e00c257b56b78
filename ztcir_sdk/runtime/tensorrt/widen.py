"""A graph as TensorRT takes it: weights that are only stored in int8 are widened.

Small bundles keep weights as int8 with scales beside them and widen them in the graph. To TensorRT
an int8 constant is a quantized one, which only a DequantizeLinear may read; the same integers in
fp16, which holds them exactly, are plain numbers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["can_widen", "widened"]

_QUANTIZED = (
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
)
"""Operators that read quantized constants; so do those of ONNX Runtime's own domain."""


def can_widen() -> bool:
    """Return whether `onnx` is there, which reads and writes graphs."""
    try:
        return importlib.util.find_spec("onnx") is not None
    except ValueError:  # what stands in its place is no package
        return False


def widened(path: Path, folder: Path) -> Path:
    """Return a graph in which no int8 weights are left but quantized ones: itself, or a copy.

    Args:
        path: the ``.onnx`` file.
        folder: where the copy goes, with its tensor data.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    stored = _stored_in_int8(onnx.load(path, load_external_data=False))
    if not stored:
        return path
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in stored:
            integers = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(integers.astype("float16"), tensor.name))
    typed = [one for one in model.graph.value_info if _type(one) != TensorProto.INT8]
    del model.graph.value_info[:]
    model.graph.value_info.extend(typed)
    copy = folder / path.name
    # One file cannot be larger than 2 GiB.
    onnx.save(model, copy, save_as_external_data=model.ByteSize() > 1 << 30)
    return copy


def _stored_in_int8(model: onnx.ModelProto) -> set[str]:
    """Return the int8 initializers that nothing reads as quantized."""
    int8 = {t.name for t in model.graph.initializer if t.data_type == t.INT8}
    for node in model.graph.node:
        if node.op_type in _QUANTIZED or node.domain not in ("", "ai.onnx"):
            int8 -= set(node.input)
    return int8


def _type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type
