"""Encodes a benchmark's images and composed queries with a bundle; vectors are cached on disk.

Errors in the call, the bundle or the images are raised before anything is encoded. Then images pass
in batches: some are read and decoded ahead, and vectors go to the cache. So memory does not grow
with the gallery, and an interrupted run resumes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ztcir_sdk.encoder import EncodedImage, Encoder, Questions
from ztcir_sdk.errors import ImageError, UsageError
from ztcir_sdk.evaluation.benchmarks.embedding_cache import EmbeddingCache
from ztcir_sdk.evaluation.benchmarks.images import (
    BenchmarkImage,
    refuse_broken,
    require_files,
    require_intact,
)
from ztcir_sdk.evaluation.benchmarks.queries import Query
from ztcir_sdk.evaluation.image_batches import BATCH, image_batches
from ztcir_sdk.evaluation.ranking import BLOCK
from ztcir_sdk.loading import iter_images
from ztcir_sdk.names import METHODS, PROMPTED_METHODS, TEXT_SLOT, TOKEN_LEARNER
from ztcir_sdk.preprocess import pad_to_ratio
from ztcir_sdk.tokenizer import canonicalize

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the number of items done, and the number of all items."""

COMMIT_IMAGES = 1000
"""Images between two commits to the cache, at most,"""
COMMIT_SECONDS = 30.0
"""or seconds; a kill loses what is newer."""


@dataclass(frozen=True)
class Method:
    """A search method with its settings."""

    name: str
    """One of ``ztcir_sdk.names.METHODS``."""
    prompt: str
    """Template for "composed" and "stage1"; the other methods ignore it."""
    weight: float | None = None
    """Weight of the text in "sum"; 0.5 by default."""

    @property
    def sum_weight(self) -> float | None:
        """The weight in use; None unless the method is "sum"."""
        if self.name != "sum":
            return None
        return 0.5 if self.weight is None else self.weight


class EmbeddingRun:
    """One run of a benchmark: an encoder, a cache, and a callback for progress."""

    def __init__(
        self,
        encoder: Encoder,
        cache: EmbeddingCache,
        benchmark: str,
        progress: Progress | None = None,
        *,
        pad_ratio: float | None = None,
    ) -> None:
        """Combine them; nothing is encoded yet.

        With `pad_ratio`, images are padded before the bundle's own preprocessing; see
        `pad_to_ratio`. Then the cache must be one of its own, see `EmbeddingCache`.
        """
        self._pad_ratio = pad_ratio
        self.encoder = encoder
        self.cache = cache
        self.benchmark = benchmark
        self._progress = progress

    @property
    def mapped_prompt(self) -> str:
        """The bundle's prompt for "mapped"; empty if the bundle does not support it."""
        return self.encoder.bundle.manifest.prompts.get("mapped", "")

    def check(self, methods: Sequence[Method], text: str) -> None:
        """Check that the bundle supports methods, without running it.

        Args:
            methods: the methods.
            text: a query's text.

        Raises:
            UsageError: there is no method, one is unknown, or its prompt or weight is wrong.
            ZtcirError: the bundle does not support a method.
        """
        if not methods:
            raise UsageError("Choose one or more methods.")
        for method in methods:
            self._questions(method, [text])

    def embed(self, images: Sequence[BenchmarkImage]) -> None:
        """Encode all images that are not in the cache.

        Raises:
            UnusableImagesError: some are missing or broken. It is raised before anything is
                encoded, or, if only decoding shows it, after all other images are encoded.
        """
        require_files(images, self.benchmark)
        unique = list({image.key: image for image in images}.values())
        known = self.cache.known([image.key for image in unique])
        new = [image for image, is_known in zip(unique, known, strict=True) if not is_known]
        require_intact(new, lambda done: self._report("Checking images", done, len(new)))
        broken: list[str] = []
        done = len(unique) - len(new)
        committed = (done, time.monotonic())
        for batch in image_batches(_decoded(new, broken, self._pad_ratio), _pixels):
            vectors = self.encoder.encode_images([pixels for _, pixels in batch])
            self.cache.put([image.key for image, _ in batch], vectors)
            done += len(batch)
            committed = self._commit(done, committed)
            self._report("Encoding images", done + len(broken), len(unique))
        self.cache.commit()
        self._report("Encoding images", len(unique), len(unique))
        refuse_broken(broken, len(unique))

    def vectors(self, images: Sequence[BenchmarkImage]) -> NDArray[np.float32]:
        """Return the embeddings of N images after `embed`: (N, D) float32."""
        return self.cache.read([image.key for image in images])

    def blocks(self, images: Sequence[BenchmarkImage]) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings of images after `embed`, `BLOCK` at a time, in order."""
        for start in range(0, len(images), BLOCK):
            yield self.vectors(images[start : start + BLOCK])

    def encode(self, queries: Sequence[Query], method: Method) -> NDArray[np.float32]:
        """Encode Q queries after `embed` of their references: (Q, D) float32, L2-normalised.

        Raises:
            UsageError, ZtcirError: as in `check`.
            UnusableImagesError: a reference broke since `embed`.
        """
        keys = [self._query_key(query, method) for query in queries]
        known = self.cache.known(keys)
        new = {
            key: query
            for key, query, is_known in zip(keys, queries, known, strict=True)
            if not is_known
        }
        by_reference: dict[str, list[str]] = {}
        for key, query in new.items():
            by_reference.setdefault(query.reference.key, []).append(key)
        references = list({query.reference.key: query.reference for query in new.values()}.values())
        done, committed = 0, (0, time.monotonic())
        for encoded in self._references(references, method):
            batch = [
                (row, key)
                for row, (image, _) in enumerate(encoded)
                for key in by_reference[image.key]
            ]
            questions = self._questions(method, [new[key].text for _, key in batch])
            vectors = self.encoder.encode_queries(
                questions, [one for _, one in encoded], [row for row, _ in batch]
            )
            self.cache.put([key for _, key in batch], vectors)
            done += len(batch)
            committed = self._commit(done, committed)
            self._report(f"Encoding queries: {method.name}", done, len(new))
        self.cache.commit()
        return self.cache.read(keys)

    def _references(
        self, references: Sequence[BenchmarkImage], method: Method
    ) -> Iterator[list[tuple[BenchmarkImage, EncodedImage]]]:
        """Yield references in batches, with patch features if the method needs them."""
        if TOKEN_LEARNER not in METHODS[method.name]:
            for start in range(0, len(references), BATCH):
                part = references[start : start + BATCH]
                yield [
                    (image, EncodedImage(vector, None))
                    for image, vector in zip(part, self.vectors(part), strict=True)
                ]
            return
        broken: list[str] = []
        for batch in image_batches(_decoded(references, broken, self._pad_ratio), _pixels):
            encoded = self.encoder.encode_references([pixels for _, pixels in batch])
            yield [(image, one) for (image, _), one in zip(batch, encoded, strict=True)]
        refuse_broken(broken, len(references))

    def _questions(self, method: Method, texts: Sequence[str]) -> Questions:
        """Tokenize texts. A text without a word, which some annotations have, counts as empty."""
        prompt = method.prompt if method.name in PROMPTED_METHODS else None
        weight = method.sum_weight
        empty = [_is_empty(self.encoder, text) for text in texts]
        words = ["nothing" if none else text for none, text in zip(empty, texts, strict=True)]
        questions = self.encoder.questions(method.name, words, weight=weight, prompt=prompt)
        if questions.prompts is None or method.name == "mapped" or not any(empty):
            return questions
        tokenizer, tokens = self.encoder.tokenizer, self.encoder.bundle.manifest.placeholder.tokens
        # the input for CLIP's encode_text(""); some tokenizers have no start token
        without_text = [] if tokenizer.sot is None else [tokenizer.sot]
        without_text.append(tokenizer.eot)
        if prompt is not None:
            without_text = tokenizer.encode_prompt(prompt.replace(TEXT_SLOT, ""), n_tokens=tokens)
        prompts = [
            without_text if none else one
            for none, one in zip(empty, questions.prompts, strict=True)
        ]
        return dataclasses.replace(questions, prompts=prompts)

    def _query_key(self, query: Query, method: Method) -> str:
        """Return a key of everything that determines a query's embedding."""
        parts = {
            "bundle": self.encoder.bundle.fingerprint,
            "precisions": self.encoder.precisions,
            "method": method.name,
            "prompt": method.prompt if method.name in PROMPTED_METHODS else None,
            "weight": method.sum_weight,
            "text": query.text if method.name not in ("image", "mapped") else None,
            "reference": query.reference.key if method.name != "text" else None,
        }
        return f"query {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"

    def _commit(self, done: int, last: tuple[int, float]) -> tuple[int, float]:
        """Commit if enough was done since the last commit; return its count and time."""
        now = time.monotonic()
        if done - last[0] < COMMIT_IMAGES and now - last[1] < COMMIT_SECONDS:
            return last
        self.cache.commit()
        return done, now

    def _report(self, step: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(step, done, total)


def _is_empty(encoder: Encoder, text: str) -> bool:
    """Return whether the tokenizer's cleaning leaves no word of a text."""
    if canonicalize(text):  # the strictest cleaning, which needs no tokenizer
        return False
    try:
        encoder.tokenizer.encode(text)
    except UsageError:
        return True
    return False


def _decoded(
    images: Sequence[BenchmarkImage], broken: list[str], pad_ratio: float | None
) -> Iterator[tuple[BenchmarkImage, Image.Image]]:
    """Yield decoded images in order; warn of broken ones and add a sentence to `broken`.

    Those that are turned upright come before those that are not.
    """
    for upright in (True, False):
        same = [image for image in images if image.upright == upright]
        for image, decoded in _decoded_alike(same, broken):
            yield image, decoded if pad_ratio is None else pad_to_ratio(decoded, pad_ratio)


def _decoded_alike(
    images: Sequence[BenchmarkImage], broken: list[str]
) -> Iterator[tuple[BenchmarkImage, Image.Image]]:
    """Yield decoded images, of which all or none are turned upright."""
    by_path: dict[Path, list[BenchmarkImage]] = {}
    for image in images:
        by_path.setdefault(Path(os.path.abspath(image.path)), []).append(image)  # noqa: PTH100
    if not by_path:
        return
    root = Path(os.path.commonpath([path.parent for path in by_path]))  # as in `list_images`
    for one in iter_images(list(by_path), upright=images[0].upright):
        if one.image is None:
            broken.append(one.error or f"{one.path} cannot be used.")
            warnings.warn(broken[-1], stacklevel=2)  # now, since the others may take hours
            continue
        for image in by_path[root / one.path]:
            try:
                yield image, image.crop(one.image)
            except ImageError as error:
                broken.append(str(error))


def _pixels(decoded: tuple[BenchmarkImage, Image.Image]) -> int:
    return decoded[1].width * decoded[1].height
