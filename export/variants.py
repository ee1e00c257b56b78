"""One graph in several precisions, as files that are still to be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graphs import GraphModule, export_graph, graph_modules, half_graphs, sample_inputs
from export.int8 import PRODUCTS, quantize_by_pictures, quantize_by_run
from export.parity import HALF_TOLERANCE, ParityResult, check_half, check_parity
from export.storage import compress
from train.model import Backbone, ComposedModel
from ztcir_sdk.bundle import GraphVariant
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.runtime import TensorSpec

__all__ = ["Variants", "export_fp32", "write_variants"]

TRACED = {"references": 3, "texts": 4, "length": 9}  # no dimension 1: it would be a constant
MOST_BYTES = (1 << 31) - 1
"""Of one ONNX file: protobuf takes no more."""
WEIGHT_BITS = (7, 8)
"""Of int8, the faster first."""


@dataclass
class Variants:
    """What was written of a model: files in a folder, by graph and key.

    Attributes:
        folder: where the files are.
        graphs: graph -> key -> variant. Keys are "fp32", "fp16", "int8-static-7" and the like.
        refused: precision -> graph -> why there is no variant of it.
    """

    folder: Path
    graphs: dict[str, dict[str, GraphVariant]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)

    def candidates(self, precision: str) -> dict[str, list[str]]:
        """Graph -> keys of its variants in a precision, the preferred first."""
        return {
            graph: [key for key in variants if key.split("-")[0] == precision]
            for graph, variants in self.graphs.items()
        }


def write_variants(
    model: ComposedModel | Backbone,
    folder: Path,
    precisions: Sequence[str],
    *,
    small: bool = False,
    calibration: Callable[[], NDArray[np.float32]],
    report: Callable[[str], None] = lambda line: None,
) -> Variants:
    """Export every graph in float32 and in the precisions that are asked for.

    Args:
        model: in evaluation mode.
        folder: an empty one.
        precisions: of `export.precision.PRECISIONS`.
        small: store float32 weights in the fewest bytes that are exact.
        calibration: gives the pictures for static int8, (P, 3, H, W) float32.
        report: gets a line for each thing that was checked.

    Raises:
        ParityError: a float32 graph differs from PyTorch by more than 1e-4.
        ZtcirError: a graph cannot be exported.
    """
    variants = Variants(folder)
    graphs, raw = graph_modules(model), folder / "raw.onnx"
    for graph in graphs:
        own = variants.graphs.setdefault(graph.name, {})
        own["fp32"] = _fp32(model, graph, raw, folder, small, report)
        if "int8" in precisions:
            _quantized(graph.name, raw, variants, calibration, report)
    raw.unlink()
    if "fp16" in precisions:  # a second model, for no longer than it is needed
        for graph, half in zip(graphs, half_graphs(model), strict=True):
            _half(model, graph, half, variants, report)
    return variants


def export_fp32(model: ComposedModel | Backbone, graph: GraphModule, path: Path) -> onnx.ModelProto:
    """Write one graph as ONNX.

    Raises:
        ZtcirError: the exporter cannot express it.
    """
    try:
        return export_graph(graph, sample_inputs(model, graph.name, **TRACED, seed=0), path)
    except torch.onnx.OnnxExporterError as error:
        raise ZtcirError(
            f"The {graph.name} graph cannot be exported ({_cause(error)}): take another backbone, "
            "or another version of torch."
        ) from error


def _fp32(
    model: ComposedModel | Backbone,
    graph: GraphModule,
    raw: Path,
    folder: Path,
    small: bool,
    report: Callable[[str], None],
) -> GraphVariant:
    proto = export_fp32(model, graph, raw)
    if small:
        proto = compress(proto)
    path = folder / f"{graph.name}.onnx"
    _save(proto, path)
    del proto  # of a large model as many bytes as its weights
    results = check_parity(model, graph, path)
    for result in results:
        report(f"{graph.name}: {result.output} within {result.difference:.1e} of PyTorch")
    return _variant(path, folder, "fp32", {"largest_difference": _figures(results)})


def _half(
    model: ComposedModel | Backbone,
    graph: GraphModule,
    half: GraphModule,
    variants: Variants,
    report: Callable[[str], None],
) -> None:
    """Write the fp16 variant, or note why there is none."""
    path = variants.folder / f"fp16-{graph.name}.onnx"
    reason: str | None = None
    try:
        proto = export_graph(half, sample_inputs(model, graph.name, **TRACED, seed=0), path)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:  # such as two dtypes in one sum
        reason = f"it cannot be traced in half precision ({_cause(error)})"
    else:
        _save(proto, path)
        del proto
        results = check_half(model, graph, half, path)
        for result in results:
            if not result.difference <= HALF_TOLERANCE:  # NaN too
                reason = (
                    f"{result.output} is {result.difference:.1e} from float32 in cosine distance, "
                    f"over {HALF_TOLERANCE:.0e}"
                )
    if reason is not None:
        variants.refused.setdefault("fp16", {})[graph.name] = reason
        report(f"fp16 {graph.name}: {reason}")
        return
    check = {"cosine_distance_from_pytorch": _figures(results)}
    variants.graphs[graph.name]["fp16"] = _variant(path, variants.folder, "fp16", check)
    worst = max(result.difference for result in results)
    report(f"fp16 {graph.name}: within {worst:.1e} of float32 in cosine distance")


def _quantized(
    graph: str,
    raw: Path,
    variants: Variants,
    calibration: Callable[[], NDArray[np.float32]],
    report: Callable[[str], None],
) -> None:
    """Write the int8 variants, which are judged later, in the order in which they are preferred."""
    ways: dict[str, Callable[[Path], dict[str, Any]]] = {}
    pixel_values = calibration() if graph == "image_encoder" else None
    by_run = pixel_values is None or _mostly_products(raw)
    # The fastest first (results/precision.json): fewer bits, and of a transformer's pictures the
    # ranges of each run, which are the more exact as well.
    for bits in WEIGHT_BITS:
        if by_run:
            ways[f"dynamic-{bits}"] = partial(quantize_by_run, raw, bits=bits)
        if pixel_values is not None:
            ways[f"static-{bits}"] = partial(
                quantize_by_pictures, raw, pixel_values=pixel_values, bits=bits
            )
    for way, quantize in ways.items():
        key = f"int8-{way}"
        path = variants.folder / f"{key}-{graph}.onnx"
        done = quantize(path)
        _save(onnx.load(str(path)), path)
        variants.graphs[graph][key] = _variant(path, variants.folder, key, done)
        report(f"{key} {graph}: {_nodes_in_words(done['nodes'])}")


def _save(proto: onnx.ModelProto, path: Path) -> None:
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size > MOST_BYTES:
        raise ZtcirError(
            f"The graph {path.stem} has {size / 1e9:.1f} GB of weights, more than the 2 GB that "
            "one ONNX file holds, so nothing was exported: take a smaller backbone."
        )
    _strip(proto)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def _variant(path: Path, folder: Path, key: str, check: Mapping[str, Any]) -> GraphVariant:
    proto = onnx.load(str(path))
    return GraphVariant(
        file=path.relative_to(folder).as_posix(),
        precision=key,
        inputs=tuple(_spec(value) for value in proto.graph.input),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        check=check,
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    assert tensor.elem_type in (TensorProto.FLOAT, TensorProto.INT64)
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, np.dtype(dtype).name, shape)


def _strip(proto: onnx.ModelProto) -> None:
    """Drop what the exporter noted of itself: stack traces name paths of this machine."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    del proto.functions[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]


def _mostly_products(path: Path) -> bool:
    """Whether most weights of a graph stand in matrix products, as in a transformer."""
    graph = onnx.load(str(path)).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    share = sum(
        sizes.get(name, 0) for node in graph.node if node.op_type in PRODUCTS for name in node.input
    )
    return 2 * share > sum(sizes.values())


def _nodes_in_words(nodes: Mapping[str, Any]) -> str:
    fused = ""
    if "fused" in nodes:
        kinds = ", ".join(f"{count} {kind}" for kind, count in nodes["fusions"].items())
        fused = f", {nodes['fused']} fused ({kinds or 'nothing to fuse'})"
    return f"{nodes['exported']} nodes exported{fused}, {nodes['quantized']} quantized"


def _figures(results: Sequence[ParityResult]) -> dict[str, float]:
    return {result.output: float(f"{result.difference:.2e}") for result in results}


def _cause(error: BaseException) -> str:
    """The first line of what an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
