"""int8 for CPUs with ONNX Runtime's quantization: weights per channel, activations in two ways.

*Static*, for the image encoder: the range of every activation is measured on calibration images and
stored, so that convolutions also compute in integers (QDQ nodes). The first layers and the last
stay in float32: they cost little time and lose most accuracy. *Dynamic*, for texts and vision
transformers: each run computes its own ranges, and only matrix products are quantized.

On CPUs without 8-bit dot products (no VNNI, no ARM dot product), pairs of products of unsigned
activations and signed 8-bit weights overflow 16 bits
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). A bundle must run
alike everywhere, so weights are signed with 7 bits, or unsigned with 8 bits around a zero point in
the middle, which is more exact and slower. They are signed with 8 bits only in depthwise
convolutions, which do not add pairs.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.optimizer import optimize_model

from export.graphs import silence
from export.storage import SMALL, row_scales

PRODUCTS = ("MatMul", "Gemm")
FIRST, LAST = 3, 1
"""Number of convolutions and products at both ends of the image encoder that stay in float32."""
STATIC_OPERATORS = ("Conv", *PRODUCTS, "Add", "Clip", "Relu", "GlobalAveragePool")
"""Includes operators between two convolutions, so that values stay in bytes."""
CALIBRATION_BATCH = 1
"""Calibration keeps every activation until a run ends: 1.3 GB per image for a ViT-L-14."""


def quantize_dynamic_int8(source: Path, target: Path, *, bits: int) -> dict[str, Any]:
    """Fuse a graph, then quantize its matrix products dynamically and its token rows to bytes.

    Args:
        source: a float32 graph.
        target: the file to write.
        bits: bits of a weight, 7 or 8.

    Returns:
        The manifest's entries: kind of quantization, bits, and numbers of nodes.
    """
    with tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch:
        fused = Path(scratch) / "fused.onnx"
        nodes = fuse(source, fused)
        with silence():
            quantize_dynamic(
                fused,
                target,
                op_types_to_quantize=list(PRODUCTS),
                per_channel=True,
                reduce_range=bits == 7,
                weight_type=QuantType.QInt8 if bits == 7 else QuantType.QUInt8,
                # The type after a fused node is unknown; here all are float32.
                extra_options={"WeightSymmetric": True, "DefaultTensorType": TensorProto.FLOAT},
            )
    proto = narrow_tables(onnx.load(str(target)))
    onnx.save(proto, str(target))
    nodes["quantized"] = len(proto.graph.node)
    return {"quantization": "dynamic", "weight_bits": bits, "nodes": nodes}


def quantize_static_int8(
    source: Path, target: Path, pixel_values: NDArray[np.float32], *, bits: int
) -> dict[str, Any]:
    """Quantize the image encoder statically, with ranges measured on calibration images.

    Args:
        source: a float32 graph.
        target: the file to write.
        pixel_values: calibration images, (P, 3, H, W).
        bits: bits of a weight, 7 or 8; depthwise convolutions always use 8.

    Returns:
        The manifest's entries: kind of quantization, bits, images, and numbers of nodes.
    """
    with tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch, silence():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        weighted = [node for node in graph.node if node.op_type in ("Conv", *PRODUCTS)]
        quantize_static(
            prepared,
            target,
            _Calibration(pixel_values),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(STATIC_OPERATORS),
            nodes_to_exclude=[node.name for node in (*weighted[:FIRST], *weighted[-LAST:])],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=bits == 7,
            extra_options={"TensorQuantOverrides": _weight_overrides(weighted, graph, bits)},
        )
        nodes = {
            "exported": len(onnx.load(str(source)).graph.node),
            "quantized": len(onnx.load(str(target)).graph.node),
        }
    return {
        "quantization": "static",
        "weight_bits": bits,
        "calibration_pictures": len(pixel_values),
        "nodes": nodes,
    }


def _weight_overrides(
    nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, bits: int
) -> dict[str, list[dict[str, Any]]]:
    """Return exceptions to signed weights of these bits: depthwise 8-bit, others unsigned 8-bit."""
    stored = {tensor.name for tensor in graph.initializer}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        numbers = {a.name: a.i for a in node.attribute}
        depthwise = node.op_type == "Conv" and numbers.get("group", 1) > 1
        if node.input[1] not in stored or (bits == 7) != depthwise:
            continue
        out_first = node.op_type == "Conv" or bool(numbers.get("transB", 0))
        overrides[node.input[1]] = [
            {
                "quant_type": QuantType.QInt8 if depthwise else QuantType.QUInt8,
                "axis": 0 if out_first else 1,  # axis of output channels
                "symmetric": True,
                "reduce_range": False,
            }
        ]
    return overrides


def fuse(source: Path, target: Path) -> dict[str, Any]:
    """Fuse nodes with ONNX Runtime's transformer optimizer; only ONNX Runtime runs the result.

    Returns:
        ``exported`` and ``fused``, numbers of nodes, and ``fusions``, their number by kind.
    """
    before = len(onnx.load(str(source)).graph.node)
    with silence():
        # With sizes of 0 it detects the heads; with `opt_level` 0 no session rewrites the graph
        # for the CPU of this machine.
        optimized = optimize_model(
            str(source), model_type="bert", num_heads=0, hidden_size=0, opt_level=0
        )
        optimized.save_model_to_file(str(target))
    kinds = Counter(node.op_type for node in optimized.model.graph.node if node.domain)
    return {
        "exported": before,
        "fused": len(optimized.model.graph.node),
        "fusions": dict(sorted(kinds.items())),
    }


def narrow_tables(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Store lookup tables (token embeddings) in int8 with one scale per row."""
    graph = proto.graph
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    used = Counter(name for node in graph.node for name in node.input)
    tables = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.name in looked_up
        and used[tensor.name] == 1
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and np.prod(tensor.dims) >= SMALL
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or any(a.name == "axis" and a.i != 0 for a in node.attribute):
            nodes.append(node)
            continue
        rows, scales = row_scales(numpy_helper.to_array(table))
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(rows, f"{table.name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{table.name}.scale"))
        row, wide, scale = (f"{table.name}.{part}" for part in ("row", "wide", "row_scale"))
        nodes += [
            helper.make_node("Gather", [f"{table.name}.int8", node.input[1]], [row], name=row),
            helper.make_node("Cast", [row], [wide], name=wide, to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table.name}.scale", node.input[1]], [scale], name=scale),
            helper.make_node("Mul", [wide, scale], list(node.output), name=f"{table.name}.widen"),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime is not typed
    """Feeds the calibration images in batches."""

    def __init__(self, pixel_values: NDArray[np.float32]) -> None:
        self._batches = iter(
            pixel_values[start : start + CALIBRATION_BATCH]
            for start in range(0, len(pixel_values), CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixel_values": batch}
