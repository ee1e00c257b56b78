"""Widen weights that are only stored in int8, so that TensorRT can read a graph.

Small bundles store weights as int8 with scales, and the graph widens them. TensorRT treats an int8
constant as quantized, which only a DequantizeLinear may read. The same integers in fp16, which
represents them exactly, are ordinary numbers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


_QUANTIZED = (
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
)
"""Operators that read quantized constants, as do those of ONNX Runtime's own domain."""


def onnx_installed() -> bool:
    """Return whether the package `onnx`, which reads and writes graphs, is installed."""
    try:
        return importlib.util.find_spec("onnx") is not None
    except ValueError:  # `sys.modules` has something else under this name
        return False


def widen_stored_weights(path: Path, folder: Path) -> Path:
    """Return a graph whose int8 weights are all quantized ones: the file itself, or a copy.

    Args:
        path: the ``.onnx`` file.
        folder: folder of the copy and its tensor data.
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
    """Return the int8 initializers that no operator reads as quantized."""
    int8 = {t.name for t in model.graph.initializer if t.data_type == t.INT8}
    for node in model.graph.node:
        if node.op_type in _QUANTIZED or node.domain not in ("", "ai.onnx"):
            int8 -= set(node.input)
    return int8


def _type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type
