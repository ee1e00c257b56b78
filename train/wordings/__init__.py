"""How people ask: modification texts for attributes and phrases, and captions of products."""

from train.wordings.attribute_wordings import (
    KINDS,
    attribute_families,
    attribute_wording,
    product_caption,
)
from train.wordings.masked_captions import masked_caption
from train.wordings.phrase_wordings import CHANGES, SHAPES, phrase_families, phrase_wording

__all__ = [
    "CHANGES",
    "KINDS",
    "SHAPES",
    "attribute_families",
    "attribute_wording",
    "masked_caption",
    "phrase_families",
    "phrase_wording",
    "product_caption",
]
