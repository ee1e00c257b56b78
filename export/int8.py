"""int8 for CPUs, by ONNX Runtime's quantization: weights a channel, activations by one of two ways.

*Static*, for the image encoder: the range of every activation is measured on calibration pictures
and kept, so that convolutions too run on integers (QDQ nodes). The first layers and the last stay
in float32: they cost little and lose most. *Dynamic*, for texts and for vision transformers: the
range is taken anew at each run, and only matrix products are quantized.

Where a processor cannot multiply bytes (no VNNI, no ARM dot product), pairs of products of unsigned
activations and signed 8-bit weights overflow 16 bits
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). What is measured
where a bundle is made must hold wherever it runs, so weights are signed with 7 bits, or, more exact
and slower, unsigned with 8 around a zero point in the middle; never signed with 8, but in depthwise
convolutions, which do not add in pairs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
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

from export.storage import SMALL, row_scales

__all__ = ["fuse", "narrow_tables", "quantize_by_pictures", "quantize_by_run"]

PRODUCTS = ("MatMul", "Gemm")
FIRST, LAST = 3, 1
"""Convolutions and products of the image encoder that stay in float32."""
QUANTIZED_BY_PICTURES = ("Conv", *PRODUCTS, "Add", "Clip", "Relu", "GlobalAveragePool")
"""What stands between two convolutions is quantized with them, so that numbers stay bytes."""
PICTURES_AT_ONCE = 1
"""Calibrating keeps every activation until a run ends: 1.3 GB a picture of a ViT-L-14."""


def quantize_by_run(source: Path, target: Path, *, bits: int) -> dict[str, Any]:
    """Quantize matrix products dynamically, after fusing, and token rows to bytes.

    Args:
        source: a float32 graph.
        target: the file to write.
        bits: of a weight, 7 or 8.

    Returns:
        What was done, for the manifest: the way, and nodes before and after.
    """
    with tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch:
        fused = Path(scratch) / "fused.onnx"
        nodes = fuse(source, fused)
        with _quiet():
            quantize_dynamic(
                fused,
                target,
                op_types_to_quantize=list(PRODUCTS),
                per_channel=True,
                reduce_range=bits == 7,
                weight_type=QuantType.QInt8 if bits == 7 else QuantType.QUInt8,
                # what stands behind a fused node is of no known type, but all is float32 here
                extra_options={"WeightSymmetric": True, "DefaultTensorType": TensorProto.FLOAT},
            )
    proto = narrow_tables(onnx.load(str(target)))
    onnx.save(proto, str(target))
    nodes["quantized"] = len(proto.graph.node)
    return {"quantization": "dynamic", "weight_bits": bits, "nodes": nodes}


def quantize_by_pictures(
    source: Path, target: Path, pixel_values: NDArray[np.float32], *, bits: int
) -> dict[str, Any]:
    """Quantize the image encoder statically, by the ranges that pictures lead to.

    Args:
        source: a float32 graph.
        target: the file to write.
        pixel_values: the calibration pictures, (P, 3, H, W).
        bits: of a weight, 7 or 8; in depthwise convolutions always 8.

    Returns:
        What was done, for the manifest.
    """
    with tempfile.TemporaryDirectory(prefix="ztcir-int8-") as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        weighty = [node for node in graph.node if node.op_type in ("Conv", *PRODUCTS)]
        quantize_static(
            prepared,
            target,
            _Calibration(pixel_values),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_BY_PICTURES),
            nodes_to_exclude=[node.name for node in (*weighty[:FIRST], *weighty[-LAST:])],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=bits == 7,
            extra_options={"TensorQuantOverrides": _weights(weighty, graph, bits)},
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


def _weights(
    nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, bits: int
) -> dict[str, list[dict[str, Any]]]:
    """How weights deviate from signed ones of these bits: depthwise 8, others unsigned if 8."""
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
                "axis": 0 if out_first else 1,  # of the channels that come out
                "symmetric": True,
                "reduce_range": False,
            }
        ]
    return overrides


def fuse(source: Path, target: Path) -> dict[str, Any]:
    """Let ONNX Runtime's transformer optimizer fuse what it can; its nodes run nowhere else.

    Returns:
        ``exported`` and ``fused``, numbers of nodes, and ``fusions``, how many of each kind.
    """
    before = len(onnx.load(str(source)).graph.node)
    with _quiet():
        # Without sizes it finds the heads by itself; without `opt_level` no session rewrites
        # the graph for this very processor.
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
    """Keep tables that rows are looked up in (token embeddings) as bytes with a scale a row."""
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
        looked, wide, scale = (f"{table.name}.{what}" for what in ("row", "wide", "row_scale"))
        nodes += [
            helper.make_node(
                "Gather", [f"{table.name}.int8", node.input[1]], [looked], name=looked
            ),
            helper.make_node("Cast", [looked], [wide], name=wide, to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table.name}.scale", node.input[1]], [scale], name=scale),
            helper.make_node("Mul", [wide, scale], list(node.output), name=f"{table.name}.widen"),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime is not typed
    """Hands the pictures over, some at once."""

    def __init__(self, pixel_values: NDArray[np.float32]) -> None:
        self._batches = iter(
            pixel_values[start : start + PICTURES_AT_ONCE]
            for start in range(0, len(pixel_values), PICTURES_AT_ONCE)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixel_values": batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tools, which log and print: what matters is measured on what they wrote."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
