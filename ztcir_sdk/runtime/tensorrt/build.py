"""ONNX graph -> TensorRT engine, in memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.runtime.source import GraphSource, ShapeRange, missing_graph
from ztcir_sdk.runtime.tensorrt.package import TensorRt
from ztcir_sdk.runtime.tensorrt.widen import can_widen, widened

__all__ = ["BuiltEngine", "EngineBuildError", "UnsupportedGraphError", "build_engine"]


class EngineBuildError(ZtcirError):
    """TensorRT could not make an engine of a graph."""


class UnsupportedGraphError(EngineBuildError):
    """A graph holds something that TensorRT does not know."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and what it was made with."""

    plan: bytes
    """What TensorRT serialised."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: dict[str, ShapeRange]
    seconds: float
    timing_cache: bytes | None = None
    """What was measured, for the next build; None where the package keeps no such thing."""


def build_engine(
    source: GraphSource,
    trt: TensorRt,
    *,
    architecture: str | None = None,
    workspace: int | None = None,
    timing_cache: bytes = b"",
) -> BuiltEngine:
    """Build an engine. Precision is the graph's own: networks are strongly typed.

    Args:
        source: the graph, with `ranges` for all of its dynamic axes.
        trt: what builds.
        architecture: as "sm_86", for a GPU that need not be here; None for the current GPU.
        workspace: most scratch memory of any layer, in bytes; by default all of the GPU's.
        timing_cache: of an earlier build by the same package for the same GPU.

    Raises:
        BundleError: the graph's file is missing.
        UnsupportedGraphError: the graph holds an operator that this TensorRT does not know.
        EngineBuildError: the architecture is not supported, or TensorRT failed.
    """
    start = time.perf_counter()
    module = trt.module
    if not source.path.is_file():
        raise missing_graph(source.path)
    with trt.listening() as messages, tempfile.TemporaryDirectory(prefix="ztcir-") as scratch:
        builder = _builder(trt)
        network = builder.create_network(_strongly_typed(module))
        parser = module.OnnxParser(network, trt.logger)
        # An empty file is parsed too, to an empty network.
        if not parser.parse_from_file(_prepared(source, scratch)) or not network.num_outputs:
            raise _unsupported(source, trt, parser, messages)
        inputs, outputs = _specs(module, network)
        config = builder.create_builder_config()
        _aim(trt, config, architecture)
        if workspace is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace)
        # TF32 would keep 10 of 23 bits, and fp32 results would no longer be fp32.
        config.clear_flag(module.BuilderFlag.TF32)
        used = _add_profile(source, builder, config, inputs)
        cache = None
        if not trt.is_rtx:  # there it is deprecated, and does nothing
            cache = config.create_timing_cache(timing_cache)
            config.set_timing_cache(cache, False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            cure = "give it more --workspace, free the GPU's memory"
            if not can_widen():
                cure = "pip install onnx, which widens weights that are only stored in int8"
            raise EngineBuildError(
                f"{trt} could not build {source.name} ({_last(messages)}): {cure}, or use backend "
                "onnx."
            )
        return BuiltEngine(
            plan=bytes(plan),
            inputs=inputs,
            outputs=outputs,
            ranges=used,
            seconds=time.perf_counter() - start,
            timing_cache=None if cache is None else bytes(cache.serialize()),
        )


def _builder(trt: TensorRt) -> Any:
    try:
        return trt.module.Builder(trt.logger)
    except Exception as error:  # without a GPU its constructor raises a TypeError
        raise EngineBuildError(
            f"{trt} builds only on a machine with a working GPU: run this on the device, or "
            "pip install 'ztcir[trt-rtx]', which compiles for GeForce and RTX GPUs without one."
        ) from error


def _prepared(source: GraphSource, scratch: str) -> str:
    """Return the file to be parsed: without `onnx`, or if `onnx` cannot read it, as it is."""
    if can_widen():
        with contextlib.suppress(Exception):  # the parser says in a better way what is wrong
            return str(widened(source.path, Path(scratch)))
    return str(source.path)


def _strongly_typed(module: Any) -> int:
    """Return the flag that leaves precision to the graph; later versions know nothing else."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _unsupported(
    source: GraphSource, trt: TensorRt, parser: Any, messages: Any
) -> EngineBuildError:
    error = parser.get_error(0) if parser.num_errors else None
    operator = error.node_operator() if error is not None else ""
    if error is None or not operator:
        why = _last(messages) if error is None else _one_line(error.desc())
        return EngineBuildError(
            f"{trt} cannot read {source.path} ({why}): export or copy the bundle again."
        )
    said = _one_line(error.desc())
    why = f" ({said})" if " " in said else ""  # some only say "false"
    cure = "choose another precision of the bundle"
    if source.precision == "int8":
        cure = "choose fp32 or fp16, since int8 graphs are for processors"
    return UnsupportedGraphError(
        f"{trt} does not take the operator {operator} at {error.node_name()} in "
        f"{source.name}{why}: {cure}, or use backend onnx."
    )


def _specs(module: Any, network: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    names = tensor_types(module)

    def spec(tensor: Any) -> TensorSpec:
        shape = tuple(
            edge if edge >= 0 else tensor.get_dimension_name(axis) or f"{tensor.name}.{axis}"
            for axis, edge in enumerate(tensor.shape)
        )
        return TensorSpec(tensor.name, names.get(tensor.dtype, str(tensor.dtype)), shape)

    return tuple(map(spec, inputs)), tuple(map(spec, outputs))


def tensor_types(module: Any) -> dict[Any, str]:
    """Return TensorRT's types -> NumPy's names of them."""
    types = module.DataType
    return {
        types.FLOAT: "float32",
        types.HALF: "float16",
        types.INT64: "int64",
        types.INT32: "int32",
        types.INT8: "int8",
        types.UINT8: "uint8",
        types.BOOL: "bool",
    }


def _aim(trt: TensorRt, config: Any, architecture: str | None) -> None:
    if architecture is None:
        return
    known = trt.architectures()
    if not known:
        raise EngineBuildError(
            f"{trt} builds only for the GPU it runs on: leave --gpu out, or pip install "
            "'ztcir[trt-rtx]', which compiles for others."
        )
    if architecture not in known:
        raise EngineBuildError(
            f"{trt} does not compile for {architecture}, only for {', '.join(known)}: build on the "
            "device itself with the package tensorrt, or use backend onnx."
        )
    config.num_compute_capabilities = 1
    capability = getattr(trt.module.ComputeCapability, architecture.replace("_", "").upper())
    config.set_compute_capability(capability, 0)


def _add_profile(
    source: GraphSource, builder: Any, config: Any, inputs: tuple[TensorSpec, ...]
) -> dict[str, ShapeRange]:
    """Tell the sizes that dynamic axes may have; return those that the graph has."""
    used: dict[str, ShapeRange] = {}
    profile = builder.create_optimization_profile()
    for spec in inputs:
        for edge in spec.shape:
            if isinstance(edge, str):
                if edge not in source.ranges:
                    raise EngineBuildError(
                        f"{spec.name} of {source.name} has a dynamic axis {edge} of unknown sizes: "
                        "export the bundle again with this version of ztcir."
                    )
                used[edge] = source.ranges[edge]
        shapes = (
            tuple(getattr(used[edge], which) if isinstance(edge, str) else edge for edge in shape)
            for shape, which in ((spec.shape, "least"), (spec.shape, "usual"), (spec.shape, "most"))
        )
        profile.set_shape(spec.name, *shapes)
    if used:
        config.add_optimization_profile(profile)
    return used


def read_timing_cache(file: Path) -> bytes:
    """Return what an earlier build has measured; empty where there is none that can be read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _last(messages: Any) -> str:
    return _one_line(messages[-1]) if messages else "it does not say why"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(". ")
