"""Build a TensorRT engine of an ONNX graph, in memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztcir_sdk.errors import EXPORT_AGAIN, ZtcirError, install_hint
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.runtime.source import GraphSource, ShapeRange, missing_graph
from ztcir_sdk.runtime.tensorrt.package import TensorRt, last_message, one_line
from ztcir_sdk.runtime.tensorrt.widen import onnx_installed, widen_stored_weights


class EngineBuildError(ZtcirError):
    """TensorRT could not build an engine of a graph."""


class UnsupportedGraphError(EngineBuildError):
    """A graph has an operator that TensorRT does not support."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in memory, with its tensors and the sizes that it accepts."""

    plan: bytes
    """The engine, as TensorRT serialised it."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: dict[str, ShapeRange]
    seconds: float
    timing_cache: bytes | None = None
    """Kernel timings for the next build; None if the package has no timing cache."""


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
        trt: the TensorRT package to build with.
        architecture: architecture of a GPU that this machine need not have, such as "sm_86"; None
            for the current GPU.
        workspace: maximum scratch memory of a layer, in bytes; by default all of the GPU's memory.
        timing_cache: kernel timings of an earlier build by the same package for the same GPU.

    Raises:
        BundleError: the graph's file is missing.
        UnsupportedGraphError: the graph has an operator that this TensorRT does not support.
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
        # The parser accepts an empty file and returns an empty network.
        if not parser.parse_from_file(_parser_input(source, scratch)) or not network.num_outputs:
            raise _unsupported(source, trt, parser, messages)
        inputs, outputs = _tensor_specs(module, network)
        config = builder.create_builder_config()
        _set_architecture(trt, config, architecture)
        if workspace is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace)
        # TF32 keeps 10 of 23 bits, so results would no longer be fp32.
        config.clear_flag(module.BuilderFlag.TF32)
        used = _add_profile(source, builder, config, inputs)
        cache = None
        if not trt.is_rtx:  # deprecated there, without effect
            cache = config.create_timing_cache(timing_cache)
            config.set_timing_cache(cache, False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            fix = "allow a larger --workspace, free GPU memory"
            if not onnx_installed():
                fix = "pip install onnx, which is needed to widen weights stored in int8"
            raise EngineBuildError(
                f"{trt} could not build {source.name} ({last_message(messages)}): {fix}, or use "
                "backend onnx."
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
    except Exception as error:  # without a GPU the constructor raises a TypeError
        raise EngineBuildError(
            f"{trt} builds only on a machine with a working GPU: run this on the device, or "
            f"{install_hint('trt-rtx')}, which compiles for GeForce and RTX GPUs without one."
        ) from error


def _parser_input(source: GraphSource, scratch: str) -> str:
    """Return the file to parse: a widened copy if `onnx` can make one, else the original."""
    if onnx_installed():
        with contextlib.suppress(Exception):  # the parser reports a damaged file better
            return str(widen_stored_weights(source.path, Path(scratch)))
    return str(source.path)


def _strongly_typed(module: Any) -> int:
    """Return the flag that takes precision from the graph; later versions always do so."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _unsupported(
    source: GraphSource, trt: TensorRt, parser: Any, messages: Any
) -> EngineBuildError:
    error = parser.get_error(0) if parser.num_errors else None
    operator = error.node_operator() if error is not None else ""
    if error is None or not operator:
        why = last_message(messages) if error is None else one_line(error.desc())
        return EngineBuildError(f"{trt} cannot read {source.path} ({why}): {EXPORT_AGAIN}.")
    description = one_line(error.desc())
    why = f" ({description})" if " " in description else ""  # some are only "false"
    fix = "choose another precision of the bundle"
    if source.precision == "int8":
        fix = "choose fp32 or fp16, because int8 graphs run only on CPUs"
    return UnsupportedGraphError(
        f"{trt} does not support the operator {operator} at {error.node_name()} in "
        f"{source.name}{why}: {fix}, or use backend onnx."
    )


def _tensor_specs(
    module: Any, network: Any
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
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
    """Return TensorRT's type -> NumPy's name of it."""
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


def _set_architecture(trt: TensorRt, config: Any, architecture: str | None) -> None:
    if architecture is None:
        return
    known = trt.architectures()
    if not known:
        raise EngineBuildError(
            f"{trt} builds only for the GPU it runs on: omit --gpu, or "
            f"{install_hint('trt-rtx')}, which compiles for other GPUs."
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
    """Add the sizes of the dynamic axes to the configuration; return those of the graph's axes."""
    used: dict[str, ShapeRange] = {}
    profile = builder.create_optimization_profile()
    for spec in inputs:
        for edge in spec.shape:
            if isinstance(edge, str):
                if edge not in source.ranges:
                    raise EngineBuildError(
                        f"The sizes of axis {edge} of {spec.name} in {source.name} are unknown: "
                        "export the bundle again with this version of ztcir."
                    )
                used[edge] = source.ranges[edge]
        shapes = (
            tuple(
                getattr(used[edge], bound) if isinstance(edge, str) else edge for edge in spec.shape
            )
            for bound in ("least", "usual", "most")
        )
        profile.set_shape(spec.name, *shapes)
    if used:
        config.add_optimization_profile(profile)
    return used


def read_timing_cache(file: Path) -> bytes:
    """Return the kernel timings of earlier builds; empty if the file cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
