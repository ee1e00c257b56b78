"""The interface of a loaded graph, and the check of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import BundleError, UsageError


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph."""

    name: str
    dtype: str
    """NumPy's name of the type: "float32", "int64"."""
    shape: tuple[int | str, ...]
    """A symbolic name, such as "B", is a size that varies; it is the same in all inputs."""

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


class Graph(Protocol):
    """A loaded graph. Any number of threads may run one at the same time."""

    name: str
    """Name of the graph, for messages."""
    limits: Mapping[str, int]
    """Symbolic axis -> its maximum size; axes without a limit are left out."""

    @property
    def provider(self) -> str:
        """What actually runs the graph; the requested provider may be another."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs; `run` needs all of them."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs."""
        ...

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute outputs.

        Args:
            inputs: input name -> array, for all inputs, with the declared dtypes and shapes.
            outputs: names of the outputs to compute; by default all.

        Returns:
            Output name -> array.

        Raises:
            UsageError: a name, dtype or shape is wrong.
            ZtcirError: the backend failed.
        """
        ...


def check_call(
    graph: Graph, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None
) -> list[str]:
    """Check the arguments of `Graph.run`; return the names of the requested outputs.

    Raises:
        UsageError: a name, dtype or shape is wrong.
    """
    known = [spec.name for spec in graph.outputs]
    names = known if outputs is None else list(outputs)
    _check_inputs(graph.name, graph.inputs, inputs)
    for name in names:
        if name not in known:
            raise UsageError(
                f"The graph {graph.name} has no output {name}: choose from {', '.join(known)}."
            )
    return names


def _check_inputs(
    graph: str, specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]
) -> None:
    """Check arrays against the inputs that a graph declares.

    Raises:
        UsageError: a name, dtype or shape is wrong.
    """
    names = [spec.name for spec in specs]
    if set(names) != inputs.keys():
        given = ", ".join(sorted(inputs)) or "nothing"
        raise UsageError(f"The graph {graph} needs the inputs {', '.join(names)}, not {given}.")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = inputs[spec.name]
        if not isinstance(array, np.ndarray):
            raise UsageError(
                f"{spec.name} of the graph {graph} must be an array, not {type(array).__name__}."
            )
        fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(spec.shape)
        for edge, size in zip(spec.shape, array.shape, strict=False):
            fits &= size == (sizes.setdefault(edge, size) if isinstance(edge, str) else edge)
        if not fits:
            known = "".join(f", {edge} = {size}" for edge, size in sizes.items())
            raise UsageError(
                f"{spec.name} of the graph {graph} must be {spec}, "
                f"not {array.dtype} {array.shape}{known}."
            )


def axis_sizes(specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return symbolic axis -> size, for inputs that `check_call` has accepted."""
    return {
        edge: size
        for spec in specs
        for edge, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
        if isinstance(edge, str)
    }


def check_outputs(
    graph: Graph, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> None:
    """Check what a graph has computed against what it declares: (1, D) is not (2, D).

    Raises:
        BundleError: a dtype or a shape is another one.
    """
    sizes = axis_sizes(graph.inputs, inputs)
    for spec in graph.outputs:
        array = outputs.get(spec.name)
        if array is None:
            continue
        shape = [sizes.get(edge) if isinstance(edge, str) else edge for edge in spec.shape]
        fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(shape)
        pairs = zip(shape, array.shape, strict=False)
        if not fits or any(size not in (None, found) for size, found in pairs):
            raise BundleError(
                f"The graph {graph.name} returned {spec.name} as {array.dtype} {array.shape}, not "
                f"as {spec}: export the bundle again."
            )


def check_declared(
    graph: Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Check the inputs and outputs of a loaded graph against those that a manifest declares.

    The graph may leave sizes open that the manifest fixes, but not fix others.

    Raises:
        BundleError: a name, a dtype or a size differs.
    """
    for side, declared, found in (
        ("input", inputs, graph.inputs),
        ("output", outputs, graph.outputs),
    ):
        own = {spec.name: spec for spec in found}
        for spec in declared:
            other = own.pop(spec.name, None)
            if other is None or not _is_declared(spec, other):
                has = "is missing" if other is None else f"is {other}"
                raise BundleError(
                    f"The {side} {spec.name} of the graph {graph.name} {has}, and the manifest "
                    f"says {spec}: export the bundle again."
                )
        if own:
            raise BundleError(
                f"The graph {graph.name} has an {side} {min(own)}, which the manifest does not "
                "name: export the bundle again."
            )


def _is_declared(declared: TensorSpec, found: TensorSpec) -> bool:
    if declared.dtype != found.dtype or len(declared.shape) != len(found.shape):
        return False
    return all(
        isinstance(own, str) or own == wanted
        for wanted, own in zip(declared.shape, found.shape, strict=True)
    )
