"""The deployable artefact: one folder with the graphs, the tokenizer and a manifest."""

from __future__ import annotations

from ztcir_sdk.bundle.bundle import (
    DEFAULT_ON_CPU,
    Bundle,
    check_target,
    embedded_names,
    read_manifest,
)
from ztcir_sdk.bundle.manifest import (
    FORMAT,
    MANIFEST,
    REFERENCE_TENSORS,
    DefaultAnswer,
    Dimensions,
    FileRecord,
    GraphVariant,
    Manifest,
    Placeholder,
    Precision,
    Prototypes,
    TextLayout,
)
from ztcir_sdk.names import DEFAULT_BUNDLE

__all__ = [
    "DEFAULT_BUNDLE",
    "DEFAULT_ON_CPU",
    "FORMAT",
    "MANIFEST",
    "REFERENCE_TENSORS",
    "Bundle",
    "DefaultAnswer",
    "Dimensions",
    "FileRecord",
    "GraphVariant",
    "Manifest",
    "Placeholder",
    "Precision",
    "Prototypes",
    "TextLayout",
    "check_target",
    "embedded_names",
    "read_manifest",
]
