"""A graph's file, with the digest and the shapes that building an engine needs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct

from ztcir_sdk.errors import EXPORT_AGAIN, BundleError
from ztcir_sdk.files import hash_file
from ztcir_sdk.runtime.protocol import TensorSpec


class ShapeRange(Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of a dynamic axis: an engine accepts `least` to `most` and is tuned for `usual`."""

    least: int
    usual: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.most:
            raise ValueError(f"{self} is not in ascending order from 1")


ShapeRanges = Mapping[str, ShapeRange]
"""Symbolic axis, such as "B" -> its sizes."""


@dataclass(frozen=True)
class GraphSource:
    """A graph's file, and everything else that building an engine needs."""

    path: Path
    """The ``.onnx`` file; external tensor data lies beside it."""
    digest: str
    """SHA-256 (hex) of the graph's file and its external tensor data."""
    precision: str = "fp32"
    """Precision of the weights and of the arithmetic in the graph."""
    inputs: tuple[TensorSpec, ...] = ()
    """Its inputs, if they are known without loading the graph."""
    ranges: ShapeRanges = field(default_factory=dict)
    """Sizes of its dynamic axes; building an engine needs all of them."""

    @property
    def name(self) -> str:
        """The file's name without suffix, for messages."""
        return self.path.stem

    @classmethod
    def of_file(
        cls, path: str | os.PathLike[str], *, ranges: ShapeRanges | None = None
    ) -> GraphSource:
        """Return the source of a single file; all other files in its folder count as tensor data.

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
    """Return the error for a graph whose file is missing."""
    return BundleError(f"The graph {path} is missing: {EXPORT_AGAIN}.")
