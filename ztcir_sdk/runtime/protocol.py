"""One graph, run: what every engine offers, and what it asks of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.errors import UsageError

__all__ = ["Graph", "TensorSpec", "check_call", "sizes_of"]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph."""

    name: str
    dtype: str
    """NumPy's name of it: "float32", "int64"."""
    shape: tuple[int | str, ...]
    """A symbolic name, such as "B", is a size that varies, the same wherever the name stands."""

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


class Graph(Protocol):
    """A loaded graph. Any number of threads may run one at the same time."""

    name: str
    """Of the graph, for messages."""
    limits: Mapping[str, int]
    """Symbolic axis -> the largest size that it takes; axes without a limit are left out."""

    @property
    def provider(self) -> str:
        """What really runs it, not what was asked for."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it must be given."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it can answer."""
        ...

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute outputs by name: those asked for, or all.

        Args:
            inputs: exactly the arrays that the graph declares, of its dtypes and shapes.
            outputs: names of outputs; what only others need is not computed, where the engine can.

        Raises:
            UsageError: a name, dtype or shape is wrong.
            ZtcirError: the engine failed.
        """
        ...


def check_call(
    graph: Graph, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None
) -> list[str]:
    """Check what `Graph.run` was given; return the names of the outputs that are asked for.

    Raises:
        UsageError: a name, dtype or shape is wrong.
    """
    known = [spec.name for spec in graph.outputs]
    names = known if outputs is None else list(outputs)
    _check_inputs(graph.name, graph.inputs, inputs)
    for name in names:
        if name not in known:
            raise UsageError(f"The graph {graph.name} gives {', '.join(known)}, not {name}.")
    return names


def _check_inputs(
    graph: str, specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]
) -> None:
    """Check arrays against what a graph declares.

    Raises:
        UsageError: a name, dtype or shape is wrong.
    """
    names = [spec.name for spec in specs]
    if set(names) != inputs.keys():
        given = ", ".join(sorted(inputs)) or "nothing"
        raise UsageError(f"The graph {graph} takes {', '.join(names)}, not {given}.")
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


def sizes_of(specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the sizes of the symbolic axes of inputs that `check_call` has passed."""
    return {
        edge: size
        for spec in specs
        for edge, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
        if isinstance(edge, str)
    }
