"""Where a graph comes from: its file, and what an engine made of it is known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct

from ztcir_sdk.errors import BundleError
from ztcir_sdk.files import hash_file
from ztcir_sdk.runtime.protocol import TensorSpec

__all__ = ["GraphSource", "ShapeRange", "ShapeRanges", "missing_graph"]


class ShapeRange(Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of a dynamic axis: an engine takes from `least` to `most`, and is tuned for `usual`."""

    least: int
    usual: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.most:
            raise ValueError(f"{self} is not in order")


ShapeRanges = Mapping[str, ShapeRange]
"""Symbolic axis, as "B" -> its sizes."""


@dataclass(frozen=True)
class GraphSource:
    """A graph's file with all that building an engine needs to know."""

    path: Path
    """The ``.onnx`` file; external tensor data lies beside it."""
    digest: str
    """SHA-256 (hex) of all that makes the graph: its file, and external tensor data."""
    precision: str = "fp32"
    """Of the weights and arithmetic in the graph."""
    inputs: tuple[TensorSpec, ...] = ()
    """What it takes, where that is known without loading it."""
    ranges: ShapeRanges = field(default_factory=dict)
    """Of its dynamic axes; an engine for other axes cannot be built."""

    @property
    def name(self) -> str:
        """What it is called in messages: the file's name without suffix."""
        return self.path.stem

    @classmethod
    def of_file(
        cls, path: str | os.PathLike[str], *, ranges: ShapeRanges | None = None
    ) -> GraphSource:
        """Take a file by itself; whatever else lies in its folder is taken for tensor data.

        Raises:
            BundleError: the file is missing or cannot be read.
        """
        path = Path(path)
        if not path.is_file():
            raise missing_graph(path)
        hasher = hashlib.sha256(hash_file(path).encode())
        for other in sorted(path.parent.iterdir()):
            if other.is_file() and other.suffix not in (".onnx", ".json"):
                hasher.update(f" {other.name} {hash_file(other)}".encode())
        return cls(path, hasher.hexdigest(), ranges=dict(ranges or {}))


def missing_graph(path: Path) -> BundleError:
    """Return the error of a graph that is not there."""
    return BundleError(f"The graph {path} is missing: export or copy the bundle again.")
