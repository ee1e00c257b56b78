"""One graph in several precisions: files that `export.precision` then accepts or refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graphs import GraphModule, export_graph, graph_modules, half_graphs, sample_inputs
from export.int8 import PRODUCTS, quantize_dynamic_int8, quantize_static_int8
from export.parity import HALF_TOLERANCE, ParityResult, check_half, check_parity, three_digits
from export.storage import compress
from train.model import Backbone, ComposedModel
from ztcir_sdk.bundle import GraphVariant
from ztcir_sdk.errors import ZtcirError, first_line
from ztcir_sdk.names import IMAGE_ENCODER
from ztcir_sdk.runtime import TensorSpec

TRACED = {"references": 3, "texts": 4, "length": 9, "seed": 0}  # no 1: it would be a constant
MAX_BYTES = (1 << 31) - 1
"""Largest ONNX file that protobuf can read."""
WEIGHT_BITS = (7, 8)
"""Bits of int8 weights, the faster first."""

Report = Callable[[str], None]
"""Receives one line for each completed check."""


@dataclass
class Variants:
    """Exported files of a model, by graph and key.

    Attributes:
        folder: folder of the files.
        graphs: graph -> key -> variant. Keys are "fp32", "fp16", "int8-static-7" and so on.
        refused: precision -> graph -> why it has no variant in that precision.
    """

    folder: Path
    graphs: dict[str, dict[str, GraphVariant]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)

    def candidates(self, precision: str) -> dict[str, list[str]]:
        """Return graph -> keys of its variants in a precision, the preferred first."""
        return {
            graph: [key for key in variants if precision_of(key) == precision]
            for graph, variants in self.graphs.items()
        }


def precision_of(key: str) -> str:
    """Return the precision of a variant's key: "int8" for "int8-static-7"."""
    return key.split("-")[0]


def write_variants(
    model: ComposedModel | Backbone,
    folder: Path,
    precisions: Sequence[str],
    *,
    small: bool = False,
    calibration: Callable[[], NDArray[np.float32]],
    report: Report = lambda line: None,
) -> Variants:
    """Export every graph in float32 and in the requested precisions.

    Args:
        model: the model, in evaluation mode.
        folder: an empty folder for the files.
        precisions: some of `ztcir_sdk.names.PRECISIONS`.
        small: store float32 weights in the fewest bytes that keep them exact.
        calibration: returns the images for static int8, (P, 3, H, W) float32.
        report: receives one line for each check.

    Raises:
        ParityError: a float32 graph differs from PyTorch by more than 1e-4.
        ZtcirError: a graph cannot be exported.
    """
    variants = Variants(folder)
    graphs, raw = graph_modules(model), folder / "raw.onnx"
    for graph in graphs:
        _add_fp32(model, graph, raw, variants, small=small, report=report)
        if "int8" in precisions:
            add_int8(graph.name, raw, variants, calibration, report)
    raw.unlink()
    if "fp16" in precisions:  # needs a copy of the model, freed when the loop ends
        for graph, half in zip(graphs, half_graphs(model), strict=True):
            _add_fp16(model, graph, half, variants, report)
    return variants


def export_fp32(model: ComposedModel | Backbone, graph: GraphModule, path: Path) -> onnx.ModelProto:
    """Write one graph as ONNX.

    Raises:
        ZtcirError: the exporter cannot express it.
    """
    try:
        return export_graph(graph, sample_inputs(model, graph.name, **TRACED), path)
    except torch.onnx.OnnxExporterError as error:
        raise ZtcirError(
            f"The {graph.name} graph cannot be exported ({_cause(error)}): use another backbone, "
            "or another version of torch."
        ) from error


def _add_fp32(
    model: ComposedModel | Backbone,
    graph: GraphModule,
    raw: Path,
    variants: Variants,
    *,
    small: bool,
    report: Report,
) -> None:
    """Write and check the fp32 variant, and the file `raw` that int8 variants are made from."""
    proto = export_fp32(model, graph, raw)
    if small:
        proto = compress(proto)
    path = variants.folder / f"{graph.name}.onnx"
    save_graph(proto, path)
    del proto  # as large as the model's weights
    results = check_parity(model, graph, path)
    for result in results:
        report(f"{graph.name}: {result.output} within {result.difference:.1e} of PyTorch")
    check = {"largest_difference": _differences(results)}
    variants.graphs[graph.name] = {"fp32": variant_of(path, "fp32", check)}


def _add_fp16(
    model: ComposedModel | Backbone,
    graph: GraphModule,
    half: GraphModule,
    variants: Variants,
    report: Report,
) -> None:
    """Write and check the fp16 variant, or record why there is none."""
    path = variants.folder / f"fp16-{graph.name}.onnx"
    results: list[ParityResult] = []
    try:
        proto = export_graph(half, sample_inputs(model, graph.name, **TRACED), path)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:  # such as two dtypes in one sum
        reasons = [f"it cannot be traced in half precision ({_cause(error)})"]
    else:
        save_graph(proto, path)
        del proto
        results = check_half(model, graph, half, path)
        reasons = [
            f"{result.output} is {result.difference:.1e} from float32 in cosine distance, "
            f"over {HALF_TOLERANCE:.0e}"
            for result in results
            if not result.difference <= HALF_TOLERANCE  # NaN too
        ]
    if reasons:
        variants.refused.setdefault("fp16", {})[graph.name] = reasons[-1]
        report(f"fp16 {graph.name}: {reasons[-1]}")
        return
    check = {"cosine_distance_from_pytorch": _differences(results)}
    variants.graphs[graph.name]["fp16"] = variant_of(path, "fp16", check)
    largest = max(result.difference for result in results)
    report(f"fp16 {graph.name}: within {largest:.1e} of float32 in cosine distance")


def add_int8(
    graph: str,
    raw: Path,
    variants: Variants,
    calibration: Callable[[], NDArray[np.float32]],
    report: Report,
) -> None:
    """Write the int8 variants of a float32 graph, the preferred first; they are checked later.

    Args:
        graph: one of `ztcir_sdk.names.GRAPHS`.
        raw: its ``.onnx`` file, with weights in float32.
        variants: where they are added.
        calibration: returns the images for static int8, (P, 3, H, W) float32.
        report: receives one line for each file.
    """
    pixel_values = calibration() if graph == IMAGE_ENCODER else None
    dynamic = pixel_values is None or _mostly_products(raw)

    def quantizations(bits: int) -> Iterator[tuple[str, Callable[[Path], dict[str, Any]]]]:
        if dynamic:
            yield "dynamic", lambda path: quantize_dynamic_int8(raw, path, bits=bits)
        if pixel_values is not None:
            yield "static", lambda path: quantize_static_int8(raw, path, pixel_values, bits=bits)

    # The fastest first (benchmarks/results/precision.json): fewer bits, and for a vision
    # transformer the ranges of each run, which are also more exact.
    for bits in WEIGHT_BITS:
        for name, quantize in quantizations(bits):
            key = f"int8-{name}-{bits}"
            path = variants.folder / f"{key}-{graph}.onnx"
            check = quantize(path)
            save_graph(onnx.load(str(path)), path)
            variants.graphs[graph][key] = variant_of(path, key, check)
            report(f"{key} {graph}: {_describe_nodes(check['nodes'])}")


def save_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph without the exporter's metadata, after a check.

    Raises:
        ZtcirError: it is larger than an ONNX file can be.
    """
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size > MAX_BYTES:
        raise ZtcirError(
            f"The graph {path.stem} has {size / 1e9:.1f} GB of weights, but an ONNX file holds at "
            "most 2 GB, so nothing was exported: use a smaller backbone."
        )
    _strip(proto)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def variant_of(path: Path, key: str, check: Mapping[str, Any]) -> GraphVariant:
    """Return the manifest's entry of a graph's file."""
    proto = onnx.load(str(path))
    return GraphVariant(
        file=path.name,
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
    """Remove the exporter's metadata: its stack traces contain paths of this machine."""
    proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
    for part in (
        *(proto, proto.graph),
        *(*proto.graph.node, *proto.graph.initializer),
        *(*proto.graph.value_info, *proto.graph.input, *proto.graph.output),
    ):
        del part.metadata_props[:]
    del proto.functions[:]
    del proto.graph.value_info[:]


def _mostly_products(path: Path) -> bool:
    """Whether most weights of a graph are in matrix products, as in a transformer."""
    graph = onnx.load(str(path)).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    share = sum(
        sizes.get(name, 0) for node in graph.node if node.op_type in PRODUCTS for name in node.input
    )
    return 2 * share > sum(sizes.values())


def _describe_nodes(nodes: Mapping[str, Any]) -> str:
    fused = ""
    if "fused" in nodes:
        kinds = ", ".join(f"{count} {kind}" for kind, count in nodes["fusions"].items())
        fused = f", {nodes['fused']} fused ({kinds or 'nothing to fuse'})"
    return f"{nodes['exported']} nodes exported{fused}, {nodes['quantized']} quantized"


def _differences(results: Sequence[ParityResult]) -> dict[str, float]:
    return {result.output: three_digits(result.difference) for result in results}


def _cause(error: BaseException) -> str:
    """Return the first line of the error that caused this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
