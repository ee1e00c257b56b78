"""The graphs of a bundle as sources of engines: their files and the sizes of their axes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.bundle.manifest import GraphVariant
from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import IMAGE_ENCODER, MAX_IMAGES, MAX_TEXTS, TEXT_ENCODER
from ztcir_sdk.runtime.source import GraphSource, ShapeRange

CPU_PRECISIONS = ("int8",)
"""Precisions for CPUs only: neither TensorRT nor ONNX Runtime's CUDA runs their whole graphs."""


@dataclass(frozen=True)
class BatchSizes:
    """Maximum batch sizes of a bundle's engines.

    Raises:
        UsageError: a number is below 1.
    """

    images: int = MAX_IMAGES
    texts: int = MAX_TEXTS
    tokens: int | None = None
    """Maximum tokens of a text; by default the text encoder's context length."""

    def __post_init__(self) -> None:
        for name in ("images", "texts", "tokens"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"The number of {name} must be at least 1, not {number}.")


def graph_source(
    bundle: Bundle, graph: str, variant: GraphVariant, sizes: BatchSizes | None = None
) -> GraphSource:
    """Return a graph of a bundle with everything that building its engine needs.

    Args:
        bundle: the bundle.
        graph: one of `GRAPHS`.
        variant: a variant of that graph.
        sizes: maximum batch sizes of the engine.
    """
    sizes = sizes or BatchSizes()
    manifest = bundle.manifest
    graph_files = {one.file for variants in manifest.graphs.values() for one in variants.values()}
    # Only the graph itself names the files of its external data: any of these may be one.
    shared = [file for file in manifest.files if file not in {*graph_files, manifest.tokenizer}]
    parts = [variant.file, *sorted(shared)]
    digest = hashlib.sha256("".join(manifest.files[file].sha256 for file in parts).encode())
    longest = manifest.text.context_length
    return GraphSource(
        path=bundle.file(variant),
        digest=digest.hexdigest(),
        precision=variant.precision,
        inputs=variant.inputs,
        ranges=_ranges(graph, sizes, min(sizes.tokens or longest, longest)),
    )


def _ranges(graph: str, sizes: BatchSizes, tokens: int) -> dict[str, ShapeRange]:
    """Return the sizes of a graph's axes, tuned for single queries and for indexing."""
    if graph == TEXT_ENCODER:
        one = ShapeRange(1, 1, sizes.texts)
        # Each text may have its own reference image. A prompt of 16 tokens is long.
        return {"B": one, "R": one, "T": ShapeRange(1, min(16, tokens), tokens)}
    usual = min(8, sizes.images) if graph == IMAGE_ENCODER else 1
    return {"R": ShapeRange(1, usual, sizes.images)}
