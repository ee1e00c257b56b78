"""The text that says all of a target's attributes: the mark that perfect composing would reach."""

from __future__ import annotations

__all__ = ["attribute_caption"]


def attribute_caption(colour: str, type: str, gender: str) -> str:
    """``"{colour} {type} for {gender}"`` in the catalogue's own words, lower-cased.

    An attribute that a catalogue does not have (an empty string) is left out with its "for":
    ``attribute_caption("Navy Blue", "Tshirts", "Men")`` is ``"navy blue tshirts for men"``.
    """
    thing = " ".join(part for part in (colour.strip(), type.strip()) if part)
    whom = f"for {gender.strip()}" if gender.strip() else ""
    return " ".join(part for part in (thing, whom) if part).lower()
