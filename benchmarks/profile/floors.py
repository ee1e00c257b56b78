"""The least time of a station: its arithmetic at the measured matrix rate, its bytes at the
measured bandwidth."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings

__all__ = ["Rates", "graph_work", "measure_rates"]

EDGE = 1536
COPIED = 64_000_000


@dataclass(frozen=True)
class Rates:
    """What this machine does at best, with all threads.

    Attributes:
        fp32: floating-point operations a second of a large matrix product in fp32.
        int8: the same of a product in int8.
        bandwidth: bytes a second that are read and written by copying memory.
    """

    fp32: float
    int8: float
    bandwidth: float

    def floor_ms(self, operations: float, moved: float, precision: str) -> float:
        """Return the larger of the two least times, in milliseconds."""
        rate = self.int8 if precision == "int8" else self.fp32
        return 1e3 * max(operations / rate, moved / self.bandwidth)


def measure_rates(folder: Path, threads: int) -> Rates:
    """Measure the rates; `folder` is for two small graphs."""
    settings = RuntimeSettings(backend="onnx", device="cpu", threads=threads)
    rng = np.random.default_rng(0)
    operations = 2 * EDGE**3
    fp32 = rng.standard_normal((EDGE, EDGE)).astype(np.float32)
    path = _product(folder / "fp32.onnx", "MatMul", fp32, TensorProto.FLOAT, TensorProto.FLOAT)
    best = _best(OnnxGraph(path, settings), fp32)
    int8 = rng.integers(-60, 60, (EDGE, EDGE)).astype(np.int8)
    path = _product(
        folder / "int8.onnx", "MatMulInteger", int8, TensorProto.UINT8, TensorProto.INT32
    )
    best_int8 = _best(OnnxGraph(path, settings), int8.astype(np.uint8))
    source = np.ones(COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    copied = min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))
    return Rates(operations / best, operations / best_int8, 2 * COPIED / copied)


def _product(path: Path, kind: str, weight: np.ndarray, given: int, made: int) -> Path:
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", given, (EDGE, EDGE))],
        [helper.make_tensor_value_info("y", made, (EDGE, EDGE))],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    return path


def _best(graph: OnnxGraph, array: np.ndarray) -> float:
    return min(_seconds(lambda: graph.run({"x": array})) for _ in range(6))


def _seconds(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


def graph_work(path: Path, sizes: Mapping[str, int]) -> tuple[float, float]:
    """Return the floating-point operations of a graph's products, and the bytes of its weights.

    Args:
        path: a graph in fp32.
        sizes: symbolic axis -> its size.
    """
    model = onnx.load(str(path))
    names = {
        dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim
    }
    for name in filter(None, names):
        make_dim_param_fixed(model.graph, name, sizes[name])
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    operations = 0.0
    for node in inferred.node:
        made, first = (
            shapes.get(name, []) for name in (node.output[0], node.input[0] if node.input else "")
        )
        if node.op_type == "Conv":
            operations += 2 * math.prod(made) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            inner = first[-1]
            if node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
                inner = first[0]
            operations += 2 * math.prod(made) * inner
    return operations, float(sum(len(tensor.raw_data) for tensor in model.graph.initializer))
