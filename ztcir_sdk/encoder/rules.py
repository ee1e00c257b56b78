"""What a bundle does with composed queries beside its graphs, as its manifest says.

Before a text is composed, what it refuses and the parts that it speaks of are cut out, and a
neutral text stands for one of which nothing is left. After that, such a query keeps closer to the
picture, what is refused is taken out of the query, the words of a detail count once more, by
themselves, and the query is pulled towards the items that were seen to be like it. None of it looks
at an image again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import EXPORT_AGAIN, BundleError
from ztcir_sdk.files import read_bounded
from ztcir_sdk.modification import (
    main_clauses,
    move_queries,
    plain_letters,
    read_request,
    refused_values,
    shortened,
    without_unwanted,
)

__all__ = ["Reading", "TextRules"]


@dataclass(frozen=True)
class Reading:
    """What the texts of composed queries ask for, by their rows."""

    texts: Sequence[str]
    """The texts to compose, in place of those that were asked."""
    refused: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Row -> the colours and patterns that its text refuses; see `Manifest.neutral_text`."""
    neutral: Sequence[int] = ()
    """Texts that neither ask for anything known nor refuse it; see `Manifest.neutral_strength`."""
    details: Collection[int] = ()
    """Texts that ask for a detail; see `Manifest.detail_weight`."""
    as_typed: bool = False
    """Whether no text was shortened."""


class TextRules:
    """The rules of one bundle. Threads may share it."""

    def __init__(
        self, bundle: Bundle, encode_texts: Callable[[Sequence[str]], NDArray[np.float32]]
    ) -> None:
        """Take a bundle, and what encodes texts alone: B texts -> (B, D) float32."""
        self._bundle = bundle
        self._encode_texts = encode_texts
        self._values: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def _attribute_words(self) -> frozenset[str]:
        words = self._bundle.manifest.attribute_words
        return frozenset(words).union(map(plain_letters, words))

    @cached_property
    def _detail_words(self) -> frozenset[str]:
        return frozenset(self._bundle.manifest.detail_words)

    @cached_property
    def _known_words(self) -> frozenset[str]:
        return self._attribute_words | self._detail_words

    @cached_property
    def _prototypes(self) -> NDArray[np.float32]:
        """The bundle's prototypes, (N, D), L2-normalised."""
        bundle, entry = self._bundle, self._bundle.manifest.prototypes
        assert entry is not None
        path = bundle.path / entry.file
        try:
            content = read_bounded(path, bundle.manifest.files[entry.file].bytes)
        except OSError as error:
            raise BundleError(
                f"{entry.file} of the bundle {bundle.path} cannot be read ({error.strerror}): "
                f"{EXPORT_AGAIN}."
            ) from error
        stored = np.frombuffer(content, "<f2").reshape(-1, bundle.manifest.dimensions.embed)
        vectors = stored.astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise BundleError(
                f"{entry.file} of the bundle {bundle.path} has a vector that is zero or not "
                "finite: export the bundle again."
            )
        unit: NDArray[np.float32] = vectors / norms
        return unit

    def preload(self) -> None:
        """Read the prototypes beside what the caller does next; an error is raised by `apply`."""
        if self._bundle.manifest.prototypes is not None and "_prototypes" not in vars(self):
            threading.Thread(target=self._read_quietly).start()

    def _read_quietly(self) -> None:
        with contextlib.suppress(BundleError):
            _ = self._prototypes

    def refused(self, text: str) -> tuple[str, ...]:
        """Return the colours and patterns that a text refuses, if they leave its query."""
        return refused_values(text) if self._bundle.manifest.neutral_text else ()

    def shortened(self, text: str) -> str | None:
        """Return what a text without an image says in short English, if that is done."""
        if self._bundle.manifest.neutral_text is None:
            return None
        short = shortened(text, self._attribute_words, self._detail_words)
        return short.text or None if short is not None else None

    def composed_as(self, text: str) -> str | None:
        """Return the short English text that is composed in place of another, if that is done."""
        if self._bundle.manifest.neutral_text is None:
            return None
        request = read_request(text, self._attribute_words, self._detail_words)
        return request.text if request.is_shortened else None

    def read(
        self, texts: Sequence[str], fits: Callable[[str], bool], *, as_typed: bool = False
    ) -> Reading:
        """Read what texts ask for; of one that does not fit, the clauses with known words."""
        neutral, weight = self._bundle.manifest.neutral_text, self._bundle.manifest.detail_weight
        if neutral is None and weight is None:
            return Reading(texts)
        texts = [text if fits(text) else main_clauses(text, self._known_words) for text in texts]
        requests = [
            read_request(text, self._attribute_words, self._detail_words, as_typed=as_typed)
            for text in texts
        ]
        details = {row for row, one in enumerate(requests) if one.has_detail}
        if neutral is None:
            return Reading(texts, details=details, as_typed=as_typed)
        composed = [one.text or neutral for one in requests]
        refused = {row: one.refused for row, one in enumerate(requests) if one.refused}
        nothing = [row for row, one in enumerate(requests) if not (one.text or one.refused)]
        details = details if weight is not None else set()
        return Reading(composed, refused, nothing, details, as_typed)

    def apply(
        self, reading: Reading, queries: NDArray[np.float32], images: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return composed queries as the rules leave them.

        Args:
            reading: what their texts ask for.
            queries: (B, D), L2-normalised; not changed.
            images: (B, D), the embeddings of their references.

        Returns:
            (B, D); rows are L2-normalised again where a rule changed them, unless they are zero.

        Raises:
            BundleError: the bundle's prototypes cannot be read.
        """
        manifest = self._bundle.manifest
        if (rows := list(reading.neutral)) and (strength := manifest.neutral_strength) is not None:
            moved = move_queries(images[rows], queries[rows], strength)
            queries = _with_rows(queries, rows, moved)
        if reading.refused:
            queries = self._without_refused(queries, reading.refused)
        if rows := sorted(reading.details):
            alone = self._encode_texts([reading.texts[row] for row in rows])
            detailed = _unit(queries[rows] + (manifest.detail_weight or 0.0) * alone)
            queries = _with_rows(queries, rows, detailed)
        # A prototype has no details: they would be lost.
        rows = [row for row in range(len(queries)) if row not in reading.details]
        if rows and (entry := manifest.prototypes) is not None:
            pulled = pull(queries[rows], self._prototypes, entry.weight, entry.temperature)
            queries = _with_rows(queries, rows, pulled)
        return queries

    def _without_refused(
        self, queries: NDArray[np.float32], refused: Mapping[int, Sequence[str]]
    ) -> NDArray[np.float32]:
        new = sorted({value for own in refused.values() for value in own} - self._values.keys())
        if new:
            self._values.update(zip(new, self._encode_texts(new), strict=True))
        rows = sorted(refused)
        left = [
            without_unwanted(queries[row], [self._values[value] for value in refused[row]], [])
            for row in rows
        ]
        return _with_rows(queries, rows, _unit(np.array(left)))


def pull(
    queries: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    weight: float,
    temperature: float,
) -> NDArray[np.float32]:
    """Pull queries towards prototypes, the mean images of classes (Snell et al., 2017, sec. 2.2).

    With q a query, c_i the prototypes, w the weight and t the temperature,

        p = sum_i softmax_i(q . c_i / t) c_i,    q' = normalise((1 - w) q + w normalise(p)).

    Args:
        queries: (B, D), L2-normalised.
        prototypes: (N, D), L2-normalised.
        weight: 0 returns the queries, 1 the mixtures of prototypes alone.
        temperature: above 0; the smaller, the more the nearest prototype counts.

    Returns:
        (B, D) float32, L2-normalised.
    """
    scores = queries @ prototypes.T / temperature  # (B, N)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    mixture = _unit(scores @ prototypes)  # the softmax's denominator is a scale, which goes
    return _unit((1 - weight) * queries + weight * mixture)


def _with_rows(
    vectors: NDArray[np.float32], rows: Sequence[int], new: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a copy of vectors with other ones in some rows."""
    changed = vectors.copy()
    changed[rows] = new
    return changed


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """L2-normalise rows; a row of zeros stays, and is refused with the query."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit
