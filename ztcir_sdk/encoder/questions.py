"""Texts of queries, ready for a bundle's text graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ztcir_sdk.encoder.rules import Reading

__all__ = ["Questions"]


@dataclass(frozen=True)
class Questions:
    """Texts for one method, checked and tokenized; made by `Encoder.questions`."""

    method: str
    count: int
    """Number of texts."""
    prompts: list[list[int]] | None
    """Token ids of each text; None if the method only uses the image."""
    weight: float
    """Weight of the text in "sum", from 0 to 1."""
    strength: float = 1.0
    """How far the text moves the query from the image; see `ztcir_sdk.modification.strength`."""
    texts: Sequence[str] = ()
    """The texts, as they are read."""
    template: str = ""
    """Prompt template, if the method has one."""
    reading: Reading | None = None
    """What the texts ask for; None if the method has no rules."""
