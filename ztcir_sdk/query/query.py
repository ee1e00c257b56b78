"""What a user looks for: pictures, words, their weights, and what is not wanted."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

from ztcir_sdk.decoding import ImageSource
from ztcir_sdk.encoder import EncodedImage
from ztcir_sdk.errors import UsageError, is_number
from ztcir_sdk.modification import join_texts
from ztcir_sdk.modification.strength import check_strength

__all__ = ["EncodedReference", "Picture", "Query", "Weighted", "with_weights"]


class EncodedReference(Protocol):
    """A reference that is encoded already: `ztcir_sdk.Reference`."""

    encoded: EncodedImage
    content_hash: str | None
    wish: str


Picture: TypeAlias = "ImageSource | EncodedReference"
"""An image, or a reference that is encoded already."""


Images: TypeAlias = (
    "Picture | tuple[Picture, float] | Sequence[Picture | tuple[Picture, float]] | None"
)
"""One picture or several, each with a weight or without."""

Texts: TypeAlias = "str | tuple[str, float] | Sequence[str | tuple[str, float]] | None"
"""One text or several, each with a weight or without."""


class Weighted(NamedTuple):
    """A picture or a text, with its weight among those of its kind."""

    value: Any
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """What to look for: pictures, words, and what is not wanted.

    - A picture and words: pictures like it, changed as the words say.
    - Pictures alone: similar pictures. Words alone: pictures that show it.
    - Several of a kind count by their weights. With pictures and words, every picture is changed by
      every text, and each pair counts by the product of its weights.
    - A picture that is a `Reference` from `refine` is also changed by what was asked there.

    One picture or text may stand by itself, and a pair ``(value, weight)`` gives it a weight::

        Query("shirt.jpg", "make it red")
        Query(images=["shirt.jpg", ("coat.jpg", 0.5)], texts="in blue", without="stripes")

    Attributes:
        images: reference images, each an image, a `Reference`, or a pair of it and its weight.
        texts: modification texts, each a text or a pair of it and its weight.
        without: texts of what the hits must not show.
        unlike: images that the hits must not be like.
        strength: how much the texts count, in place of the search's own `strength`.
        where: a filter on metadata, in place of the search's own `where`.

    Raises:
        UsageError: there is neither an image nor a text, a text is empty, a weight is not a
            positive number, `strength` is out of range, or the filter cannot be parsed.
    """

    images: Images = ()
    texts: Texts = ()
    without: str | Sequence[str] | None = ()
    unlike: Picture | Sequence[Picture] | None = ()
    strength: float | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        for name, of_texts in (("images", False), ("texts", True)):
            values = _listed(getattr(self, name), texts=of_texts)
            weighted = tuple(_weighted(value, name) for value in values)
            object.__setattr__(self, name, weighted)
        for name, of_texts in (("without", True), ("unlike", False)):
            object.__setattr__(self, name, _listed(getattr(self, name), texts=of_texts))
        if not self.images and not self.texts:
            raise UsageError("The query is empty: give an image, a text, or both.")
        for name, texts in (("text", self.positive_texts), ("unwanted text", self.unwanted_texts)):
            for text in texts:
                _check_text(text, name)
        if self.strength is not None:
            object.__setattr__(self, "strength", check_strength(self.strength))
        if self.where is not None:
            from ztcir_sdk.filters import parse_filter

            parse_filter(self.where)

    @property
    def has_options(self) -> bool:
        """Whether it has a strength or a filter of its own."""
        return self.strength is not None or self.where is not None

    @property
    def weighted_images(self) -> Sequence[Weighted]:
        """The reference images with their weights."""
        return cast("Sequence[Weighted]", self.images)

    @property
    def weighted_texts(self) -> Sequence[Weighted]:
        """The modification texts with their weights."""
        return cast("Sequence[Weighted]", self.texts)

    @property
    def positive_images(self) -> list[Picture]:
        """The reference images."""
        return [image for image, _ in self.weighted_images]

    @property
    def positive_texts(self) -> list[str]:
        """The modification texts."""
        return [text for text, _ in self.weighted_texts]

    @property
    def asked(self) -> str:
        """What `Reference.refine` asked of its images, and its texts, as one text."""
        wishes = dict.fromkeys(_wish_of(image) for image in self.positive_images)
        return join_texts(*wishes, *self.positive_texts)

    def texts_for(self, image: Weighted | None) -> list[Weighted]:
        """Return what is asked of one of its images: its texts, each after the image's wish."""
        wish = "" if image is None else _wish_of(image.value)
        if wish and not self.texts:
            return [Weighted(wish)]
        return [
            Weighted(join_texts(wish, text) if wish else text, weight)
            for text, weight in self.weighted_texts
        ]

    @property
    def unwanted_texts(self) -> Sequence[str]:
        """What the hits must not show."""
        return cast("Sequence[str]", self.without)

    @property
    def unwanted_images(self) -> Sequence[Picture]:
        """What the hits must not be like."""
        return cast("Sequence[Picture]", self.unlike)


def with_weights(
    images: Sequence[Any], texts: Sequence[Any], weights: str | None
) -> tuple[list[Any], list[Any]]:
    """Return images and texts, each as a pair of it and its weight.

    Args:
        images: the images.
        texts: the texts.
        weights: a number for each image, then for each text, separated by commas; None: 1 each.

    Raises:
        UsageError: there is another number of weights.
    """
    parts = [*images, *texts]
    try:
        numbers = [1.0] * len(parts) if weights is None else [*map(float, weights.split(","))]
    except ValueError:
        numbers = []
    if len(numbers) != len(parts):
        raise UsageError(
            f"The weights {str(weights)[:80]!r} must be numbers separated by commas: one for each "
            f"image, then one for each text, {len(parts)} in all."
        )
    pairs = list(zip(parts, numbers, strict=True))
    return pairs[: len(images)], pairs[len(images) :]


def _wish_of(image: Any) -> str:
    """Return what `Reference.refine` asked of an image; "" if it is no such reference."""
    return str(getattr(image, "wish", "")).strip()


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise UsageError(f"A {name} must be a str, not {type(text).__name__}.")
    if not text.strip():
        raise UsageError(
            f"The {name} {text!r} is empty: describe what should change, or leave it out to find "
            "similar images."
        )


def _listed(values: Any, *, texts: bool) -> tuple[Any, ...]:
    """Return several values as a tuple; one value by itself is the only one."""
    if values is None:
        return ()
    if _is_pair(values) or isinstance(values, str):
        return (values,)
    if isinstance(values, Sequence) and not isinstance(values, (bytes, bytearray)):
        return tuple(values)
    if texts:
        raise UsageError(f"Texts must be a str or a list, not {type(values).__name__}.")
    return (values,)


def _is_pair(value: Any) -> bool:
    """Return whether a value is one with its weight."""
    return isinstance(value, tuple) and len(value) == 2 and is_number(value[1])


def _weighted(value: Any, name: str) -> Weighted:
    if not _is_pair(value):
        return Weighted(value)
    weight = float(value[1])
    if not (math.isfinite(weight) and weight > 0):
        what = os.fspath(value[0]) if isinstance(value[0], (str, os.PathLike)) else "one"
        raise UsageError(
            f"The weight of {what!r} in {name} must be above 0, not {value[1]}: name what is not "
            "wanted in without or unlike."
        )
    return Weighted(value[0], weight)
