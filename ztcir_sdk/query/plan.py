"""From queries to vectors: all texts are checked first, then everything is encoded in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.encoder import Encoder, Questions
from ztcir_sdk.errors import UsageError
from ztcir_sdk.modification.unwanted import without_unwanted
from ztcir_sdk.names import IMAGE_ENCODER, METHODS, PROMPTED_METHODS, TEXT_ENCODER
from ztcir_sdk.query.query import EncodedReference, Picture, Query, Weighted
from ztcir_sdk.query.reading import read_alone

__all__ = ["QueryPlan", "as_query", "graphs_for"]

IMAGE_METHODS = ("image", "mapped")
"""Methods that use the image alone."""


class QueryPlan:
    """The questions that answer some queries. Making one checks every text before any work.

    Several images or texts of a query give one question for each pair, whose vectors are averaged
    by the product of their weights.

    Attributes:
        queries: the queries, in order.
    """

    def __init__(
        self,
        encoder: Encoder,
        queries: Sequence[Query],
        method: str,
        *,
        weight: float | None = None,
        strength: float | None = None,
        as_typed: bool = False,
    ) -> None:
        """Check and tokenize; for the arguments see `ztcir_sdk.Retriever.search`.

        Raises:
            UsageError: there is no such method, it takes no weight, or a query lacks what the
                method needs.
            ZtcirError: the bundle cannot answer the method.
        """
        self.queries = queries
        self._encoder = encoder
        encoder.questions(method, [], weight=weight, strength=strength)
        self._rows: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
        texts: dict[str, list[str]] = defaultdict(list)
        self._without = [dict.fromkeys(query.unwanted_texts) for query in queries]
        for number, query in enumerate(queries):
            if not (query.images and query.asked):
                _refuse_alone(strength=strength, weight=weight)
            images: list[tuple[int, Weighted | None]] = [*enumerate(query.weighted_images)]
            images = images or [(-1, None)]
            for position, image in images:
                wordings: Sequence[Weighted | None] = query.texts_for(image)
                used = _method_of(query, method, has_text=bool(wordings))
                if used == "text" and position > 0:
                    continue
                if used in IMAGE_METHODS:
                    wordings = [None]
                for wording in wordings:
                    weights = [one.weight for one in (image, wording) if one is not None]
                    self._rows[used].append((number, position, float(np.prod(weights))))
                    text = "" if wording is None else wording.value
                    if not query.images:
                        alone = read_alone(encoder, text, method, as_typed=as_typed)
                        self._without[number] |= dict.fromkeys(alone.refused)
                        text = alone.text
                    texts[used].append(text)
        self._questions: dict[str, Questions] = {
            used: encoder.questions(
                used,
                asked,
                weight=weight if used == "sum" else None,
                strength=strength if used in PROMPTED_METHODS else None,
                as_typed=as_typed,
            )
            for used, asked in texts.items()
        }
        unwanted = [text for own in self._without for text in own]
        self._unwanted = (
            encoder.questions("text", unwanted, as_typed=as_typed) if unwanted else None
        )

    def vectors(
        self,
        images: Sequence[Sequence[EncodedReference]],
        unlike: Sequence[Sequence[EncodedReference]],
    ) -> NDArray[np.float32]:
        """Encode the queries: (B, D) float32, L2-normalised.

        Args:
            images: the reference images of each query, encoded.
            unlike: its unwanted images, encoded.
        """
        total = np.zeros((len(self.queries), self._encoder.dim), dtype=np.float64)
        for method, questions in self._questions.items():
            rows = self._rows[method]
            used = [images[number][at] for number, at, _ in rows if at >= 0]
            unique = {id(one.encoded): one.encoded for one in used}
            places = {key: place for place, key in enumerate(unique)}
            index = [
                0 if at < 0 else places[id(images[number][at].encoded)] for number, at, _ in rows
            ]
            found = self._encoder.encode_queries(questions, list(unique.values()), index)
            for (number, _, weight), vector in zip(rows, found, strict=True):
                total[number] += weight * vector
        return self._subtract(total, unlike)

    def _subtract(
        self, vectors: NDArray[np.float64], unlike: Sequence[Sequence[EncodedReference]]
    ) -> NDArray[np.float32]:
        """Take what is not wanted out of the queries' vectors, and L2-normalise them."""
        encoded: Iterator[NDArray[np.float32]] = iter(())
        if self._unwanted is not None:
            nowhere = np.zeros(self._unwanted.count, dtype=np.int64)
            encoded = iter(self._encoder.encode_queries(self._unwanted, [], nowhere))
        for number, own in enumerate(self._without):
            words = [next(encoded) for _ in own]
            pictures = [one.encoded.embedding for one in unlike[number]]
            if words or pictures:
                vectors[number] = without_unwanted(vectors[number], words, pictures)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (norms > 1e-6).all():
            raise UsageError(
                "What is wanted and what is not wanted are the same: leave one of them out."
            )
        unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
        return unit


def _refuse_alone(**options: float | None) -> None:
    """Refuse what weighs a text against an image, for a query that has only one of them."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"A {name} weighs a text against an image: give both, or leave the {name} out."
            )


def _method_of(query: Query, method: str, *, has_text: bool) -> str:
    """Return the method for what a query has: with an image or a text alone it needs no other."""
    if query.images and has_text:
        return method
    if query.images:
        if method == "text":
            raise UsageError("The method 'text' needs a text: describe what to find.")
        return method if method in IMAGE_METHODS else "image"
    if method in IMAGE_METHODS:
        raise UsageError(f"The method {method!r} needs an image: give a reference image.")
    return "text"


def as_query(image: Picture | Query, text: str, method: str | None = None) -> Query:
    """Return the query of an image and a text, which may be a query already."""
    if isinstance(image, Query):
        if text:
            raise UsageError("The text belongs into the Query: Query(image, text).")
        return image
    needed = text and method not in IMAGE_METHODS
    return Query(images=[image], texts=[text] if needed else ())


def graphs_for(queries: Sequence[Query], method: str) -> list[str]:
    """Return the graphs that some queries need with a method, in the order of their use."""
    graphs = list(METHODS.get(method, ()))
    if not any(query.images or query.unlike for query in queries):
        return [name for name in graphs if name == TEXT_ENCODER]
    if method != "mapped" and not any(query.asked or query.without for query in queries):
        return [name for name in graphs if name == IMAGE_ENCODER]
    return graphs
