"""A bundle's graphs with what an engine builder has to know of them: files and shapes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ztcir_sdk.bundle.bundle import Bundle, GraphVariant
from ztcir_sdk.errors import UsageError
from ztcir_sdk.runtime.source import GraphSource, ShapeRange

__all__ = ["FOR_PROCESSORS", "IMAGES_AT_ONCE", "TEXTS_AT_ONCE", "BatchSizes", "graph_source"]

IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 64
"""Rows of one run of a graph, at most; more are split."""
FOR_PROCESSORS = ("int8",)
"""Precisions whose graphs no GPU runs: neither TensorRT, nor CUDA in ONNX Runtime, as a whole."""


@dataclass(frozen=True)
class BatchSizes:
    """How much the engines of a bundle take at once.

    Raises:
        UsageError: a number is below 1.
    """

    images: int = IMAGES_AT_ONCE
    texts: int = TEXTS_AT_ONCE
    tokens: int | None = None
    """Of one text; by default as many as the text encoder can take."""

    def __post_init__(self) -> None:
        for name in ("images", "texts", "tokens"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"The number of {name} must be at least 1, not {number}.")


def graph_source(
    bundle: Bundle, graph: str, variant: GraphVariant, sizes: BatchSizes | None = None
) -> GraphSource:
    """Return a graph of a bundle with all that building an engine of it needs to know.

    Args:
        bundle: where it is from.
        graph: of `GRAPHS`.
        variant: of that graph.
        sizes: what the engine is to take at once.
    """
    sizes = sizes or BatchSizes()
    manifest = bundle.manifest
    graph_files = {one.file for variants in manifest.graphs.values() for one in variants.values()}
    # Which files hold a graph's external data is only said inside it: any of them may.
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
    """Return the sizes of the graphs' axes; tuned for one query at a time, and for galleries."""
    if graph == "text_encoder":
        one = ShapeRange(1, 1, sizes.texts)
        # Each text may be about a picture of its own. A prompt of 16 tokens is a long one.
        return {"B": one, "R": one, "T": ShapeRange(1, min(16, tokens), tokens)}
    usual = min(8, sizes.images) if graph == "image_encoder" else 1
    return {"R": ShapeRange(1, usual, sizes.images)}
