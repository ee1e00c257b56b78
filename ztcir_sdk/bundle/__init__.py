"""The deployable artefact: one folder with the graphs, the tokenizer and a manifest."""

from __future__ import annotations

from ztcir_sdk.bundle.bundle import (
    DEFAULT_BUNDLE,
    Bundle,
    check_target,
    embedded_names,
    read_manifest,
)
from ztcir_sdk.bundle.manifest import (
    FORMAT,
    MANIFEST,
    REFERENCE_TENSORS,
    Dimensions,
    FileRecord,
    GraphVariant,
    Manifest,
    Placeholder,
    Precision,
    TextLayout,
)

__all__ = [
    "DEFAULT_BUNDLE",
    "FORMAT",
    "MANIFEST",
    "REFERENCE_TENSORS",
    "Bundle",
    "Dimensions",
    "FileRecord",
    "GraphVariant",
    "Manifest",
    "Placeholder",
    "Precision",
    "TextLayout",
    "check_target",
    "embedded_names",
    "read_manifest",
]
