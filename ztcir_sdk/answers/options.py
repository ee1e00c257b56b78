"""The keywords of a search, and the object that holds them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TypedDict

from ztcir_sdk.errors import UsageError
from ztcir_sdk.index.opened import IndexSource

__all__ = ["IndexSource", "SearchOptions", "SearchSettings", "check_k"]


class SearchOptions(TypedDict, total=False):
    """Keywords of `Retriever.search`, `Reference.search`, and of both `search_many`.

    Attributes:
        index: an index or its folder, in place of the default one.
        method: "composed", the default, uses image and text together. For comparisons: "stage1" is
            the same without the composing adapters; "mapped" and "image" use the image alone, as a
            pseudo-word or by its embedding; "text" uses the text alone; "sum" adds the embeddings
            of image and text. A query of images alone, or of texts alone, needs no method.
        weight: weight of the text in "sum", from 0 (image only) to 1 (text only).
        strength: how much the text counts in "composed" and "stage1", from 0 to 2: 0 finds what is
            similar to the image, 1 is the query as it was trained, and above 1 the query goes on
            in the same direction, further away from the image.
        exact: True compares the query with every image, False uses the index's graph if it has
            one; None chooses by the size of the index.
    """

    index: IndexSource | None
    method: str
    weight: float | None
    strength: float | None
    exact: bool | None


@dataclass(frozen=True)
class SearchSettings:
    """The values of `SearchOptions`."""

    index: IndexSource | None = None
    method: str = "composed"
    weight: float | None = None
    strength: float | None = None
    exact: bool | None = None


def check_k(k: int) -> None:
    """Check a number of hits.

    Raises:
        UsageError: it is no whole number of at least 1.
    """
    try:
        number = operator.index(k)
    except TypeError:
        number = 0
    if number < 1 or isinstance(k, bool):
        raise UsageError(f"k must be a whole number of at least 1, not {k!r}.")
