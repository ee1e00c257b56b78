"""A caption of all of a product's attributes; the method "oracle" searches with the target's."""

from __future__ import annotations

__all__ = ["attribute_caption"]


def attribute_caption(colour: str, type: str, gender: str) -> str:
    """Return ``"{colour} {type} for {gender}"`` in the catalogue's own words, lower-cased.

    An attribute that is an empty string is left out, the gender with its "for":
    ``attribute_caption("Navy Blue", "Tshirts", "Men")`` is ``"navy blue tshirts for men"``.
    """
    gender = f"for {gender.strip()}" if gender.strip() else ""
    return " ".join(part for part in (colour.strip(), type.strip(), gender) if part).lower()
