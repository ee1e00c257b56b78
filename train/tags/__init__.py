"""Tags of pictures by a backbone's own words, and the triplets that they give."""

from train.tags.bank import WordGroup, default_groups, read_groups
from train.tags.tag_triplets import TagTriplets, tag_captions
from train.tags.tagging import Tags, tag_pictures

__all__ = [
    "TagTriplets",
    "Tags",
    "WordGroup",
    "default_groups",
    "read_groups",
    "tag_captions",
    "tag_pictures",
]
