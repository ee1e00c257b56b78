"""The keywords of a search, and the object that holds and checks them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import numpy as np

from ztcir_sdk.errors import UsageError, check_choice, is_number, whole_number
from ztcir_sdk.index.protocol import IndexSource
from ztcir_sdk.names import AUTOMATIC, METHODS, NEAR_DUPLICATE

if TYPE_CHECKING:
    from ztcir_sdk.filters import Filter

__all__ = ["IndexSource", "SearchOptions", "SearchSettings", "check_k"]


class _OfTexts(TypedDict):
    weight: float | None
    strength: float | None
    as_typed: bool


class SearchOptions(TypedDict, total=False):
    """Keywords of `Retriever.search`, `Reference.search`, and of both `search_many`.

    Attributes:
        index: an index, its folder, or an address such as ``milvus://host:19530/photos``, in place
            of the default one.
        method: "composed", the default of nearly every bundle (see `Bundle.default_method`), uses
            image and text together. For comparisons: "stage1" is the same without the composing
            adapters; "mapped" and "image" use the image alone, as a pseudo-word or by its
            embedding; "text" uses the text alone; "sum" adds the embeddings of image and text. A
            query of images alone, or of texts alone, needs no method.
        weight: weight of the text in "sum", from 0 (image only) to 1 (text only); by default the
            bundle's own, else 0.5.
        strength: how much the text counts in "composed" and "stage1", from 0 to 2: 0 finds what is
            similar to the image, 1 is the query as it was trained, and above 1 the query goes on
            in the same direction, further away from the image.
        as_typed: leave the texts as they are: likely typing errors stay, and long texts and other
            languages are not read as short English.
        exact: True compares the query with every image, False uses the index's graph if it has
            one; None chooses by the size of the index.
        where: a filter on the images' metadata and path, such as
            ``"articleType = 'Shirts' AND price < 50"``; only images that satisfy it are found, as
            many of the nearest ones as without a filter.
        offset: number of hits to skip, for pages: the second page of ten is ``k=10, offset=10``.
        min_score: the least cosine similarity of a hit.
        unique: show copies and near-duplicates of an image once; a number sets the cosine of two
            images from which they count as the same. `Hit.duplicates` has the others, on whatever
            page; looking for them takes a search for each hit, all at once.
        threshold: "auto" leaves out images that do not answer: their scores do not stand out from
            the scores of the index's images in general.
    """

    index: IndexSource | None
    method: str | None
    weight: float | None
    strength: float | None
    as_typed: bool
    exact: bool | None
    where: str | None
    offset: int
    min_score: float | None
    unique: bool | float
    threshold: Literal["auto"] | None


@dataclass(frozen=True)
class SearchSettings:
    """The values of `SearchOptions`.

    Raises:
        UsageError: a value is out of range, or the filter cannot be parsed.
    """

    index: IndexSource | None = None
    method: str | None = None
    weight: float | None = None
    strength: float | None = None
    as_typed: bool = False
    exact: bool | None = None
    where: str | None = None
    offset: int = 0
    min_score: float | None = None
    unique: bool | float = False
    threshold: str | None = None

    def __post_init__(self) -> None:
        whole_number("offset", self.offset, least=0)
        if self.min_score is not None and not _is_within(self.min_score, -1):
            raise UsageError(f"min_score must be a cosine from -1 to 1, not {self.min_score!r}.")
        if self.weight is not None and not is_number(self.weight):
            raise UsageError(f"The weight must be a number from 0 to 1, not {self.weight!r}.")
        if not isinstance(self.unique, (bool, np.bool_)) and not (
            _is_within(self.unique, 0) and self.unique > 0
        ):
            raise UsageError(
                f"unique must be True, False, or a cosine above 0 and up to 1, not {self.unique!r}."
            )
        if self.method is not None:
            check_choice("method", self.method, tuple(METHODS))
        if self.threshold not in (None, AUTOMATIC):
            raise UsageError(
                f'threshold must be "auto" or None, not {self.threshold!r}; use min_score for a '
                "score of your own."
            )
        if self.where is not None:
            self.filter  # noqa: B018  (parsed before any work)

    @property
    def of_texts(self) -> _OfTexts:
        """How texts are read, and how much they count."""
        return {"weight": self.weight, "strength": self.strength, "as_typed": self.as_typed}

    @property
    def filter(self) -> Filter | None:
        """The parsed filter."""
        if self.where is None:
            return None
        from ztcir_sdk.filters import parse_filter

        return parse_filter(self.where)

    @property
    def same_from(self) -> float:
        """The cosine from which two images count as the same; infinite if none do."""
        if isinstance(self.unique, (bool, np.bool_)):
            return NEAR_DUPLICATE if self.unique else math.inf
        return float(self.unique)


def _is_within(value: object, least: float) -> bool:
    """Return whether a value is a number from `least` to 1; NaN is not."""
    return is_number(value) and least <= cast("float", value) <= 1


def check_k(k: int) -> None:
    """Check a number of hits.

    Raises:
        UsageError: it is no whole number of at least 1.
    """
    whole_number("k", k, least=1)
