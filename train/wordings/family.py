"""A family of wordings: one way of asking, in several templates."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """A way of asking. ``mood`` says what may be put around its templates."""

    name: str
    mood: str  # imperative, wish, phrase, question, caption, or terse: nothing around it
    templates: tuple[str, ...]
    keeps: bool = False  # it already says that the rest stays
