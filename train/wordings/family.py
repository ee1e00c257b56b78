"""A family of wordings: one way of asking, in several templates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A way of asking."""

    name: str
    mood: str
    """imperative, wish, phrase, question, caption or terse; decides which context may be added."""
    templates: tuple[str, ...]
    keeps: bool = False
    """Whether the templates already say that everything else stays."""
