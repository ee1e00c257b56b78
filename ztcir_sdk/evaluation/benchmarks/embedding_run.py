"""What every benchmark does with a bundle: images and composed queries -> vectors, by the cache.

Whatever is wrong with the call, the bundle or the images is said before anything is computed.
Then images stream by: some are read and decoded ahead, at most `BATCH` are encoded at once, and
what is computed goes to the cache, so memory does not grow with the gallery, and a run that was
killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    require_whole,
)
from ztcir_sdk.evaluation.benchmarks.streamed_ranking import BLOCK
from ztcir_sdk.loading import iter_images
from ztcir_sdk.names import PROMPTED_METHODS, TEXT_SLOT
from ztcir_sdk.tokenizer import canonicalize

__all__ = ["ComposedQuery", "EmbeddingRun", "Method", "Progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

BATCH = 32
"""Images that are encoded at once, at most,"""
PIXELS = 32_000_000
"""and decoded pixels that are held for it, beside one more image."""
COMMIT_IMAGES = 1000
"""Images after which what is computed is committed,"""
COMMIT_SECONDS = 30.0
"""or seconds: what a kill can cost."""

_NEEDS_PATCHES = ("composed", "mapped", "stage1")


@dataclass(frozen=True)
class ComposedQuery:
    """A reference image and a modification text."""

    reference: BenchmarkImage
    text: str


@dataclass(frozen=True)
class Method:
    """How queries are answered: see ``ztcir_sdk.bundle.bundle.METHODS``."""

    name: str
    prompt: str
    """Template of "composed" and "stage1"; the other methods do not read it."""
    weight: float | None = None
    """Of the text in "sum"; 0.5 by default."""


class EmbeddingRun:
    """One run of a benchmark: an encoder, a cache, and whom to tell of progress."""

    def __init__(
        self,
        encoder: Encoder,
        cache: EmbeddingCache,
        benchmark: str,
        progress: Progress | None = None,
    ) -> None:
        """Put them together; nothing is computed yet."""
        self.encoder = encoder
        self.cache = cache
        self.benchmark = benchmark
        self._progress = progress

    @property
    def mapped_prompt(self) -> str:
        """The bundle's prompt for "mapped"; empty where it cannot answer that."""
        return self.encoder.bundle.manifest.prompts.get("mapped", "")

    def check(self, methods: Sequence[Method], texts: Sequence[str]) -> None:
        """Refuse what cannot be answered, before any work.

        Raises:
            UsageError: there is no method, or one is unknown, or its prompt or weight wrong.
            ZtcirError: the bundle cannot answer a method.
        """
        if not methods:
            raise UsageError("Name one or more methods.")
        for method in methods:
            self._questions(method, texts[:1])

    def embed(self, images: Sequence[BenchmarkImage]) -> None:
        """Bring the embedding of each image into the cache.

        Raises:
            UnusableImagesError: some are missing or broken. Before anything is computed, for all
                that can be known without decoding; else when all others are done.
        """
        require_files(images, self.benchmark)
        unique = list({image.key: image for image in images}.values())
        known = self.cache.known([image.key for image in unique])
        new = [image for image, there in zip(unique, known, strict=True) if not there]
        require_whole(new, lambda seen: self._tell("Checking images", seen, len(new)))
        broken: list[str] = []
        done = len(unique) - len(new)
        committed = (done, time.monotonic())
        for batch in _batches(_decoded(new, broken)):
            vectors = self.encoder.encode_images([picture for _, picture in batch])
            self.cache.put([image.key for image, _ in batch], vectors)
            done += len(batch)
            committed = self._commit(done, committed)
            self._tell("Encoding images", done + len(broken), len(unique))
        self.cache.commit()
        self._tell("Encoding images", len(unique), len(unique))
        refuse_broken(broken, len(unique))

    def vectors(self, images: Sequence[BenchmarkImage]) -> NDArray[np.float32]:
        """Return the embeddings of N images that `embed` has seen: (N, D) float32."""
        return self.cache.read([image.key for image in images])

    def blocks(self, images: Sequence[BenchmarkImage]) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings of images that `embed` has seen, `BLOCK` at a time, in order."""
        for start in range(0, len(images), BLOCK):
            yield self.vectors(images[start : start + BLOCK])

    def encode(self, queries: Sequence[ComposedQuery], method: Method) -> NDArray[np.float32]:
        """Encode Q queries whose references `embed` has seen: (Q, D) float32, L2-normalised.

        Raises:
            UsageError, ZtcirError: as in `check`.
            UnusableImagesError: a reference is broken after all.
        """
        keys = [self._query_key(query, method) for query in queries]
        known = self.cache.known(keys)
        new = {
            key: query for key, query, there in zip(keys, queries, known, strict=True) if not there
        }
        by_reference: dict[str, list[str]] = {}
        for key, query in new.items():
            by_reference.setdefault(query.reference.key, []).append(key)
        references = list({query.reference.key: query.reference for query in new.values()}.values())
        done, committed = 0, (0, time.monotonic())
        for encoded in self._references(references, method):
            asked = [
                (row, key)
                for row, (image, _) in enumerate(encoded)
                for key in by_reference[image.key]
            ]
            questions = self._questions(method, [new[key].text for _, key in asked])
            vectors = self.encoder.encode_queries(
                questions, [one for _, one in encoded], [row for row, _ in asked]
            )
            self.cache.put([key for _, key in asked], vectors)
            done += len(asked)
            committed = self._commit(done, committed)
            self._tell(f"Encoding queries: {method.name}", done, len(new))
        self.cache.commit()
        return self.cache.read(keys)

    def _references(
        self, references: Sequence[BenchmarkImage], method: Method
    ) -> Iterator[list[tuple[BenchmarkImage, EncodedImage]]]:
        """Yield references as a method needs them, a batch at a time, and keep none."""
        if method.name not in _NEEDS_PATCHES:
            for start in range(0, len(references), BATCH):
                part = references[start : start + BATCH]
                yield [
                    (image, EncodedImage(vector, None))
                    for image, vector in zip(part, self.vectors(part), strict=True)
                ]
            return
        broken: list[str] = []
        for batch in _batches(_decoded(references, broken)):
            encoded = self.encoder.encode_references([picture for _, picture in batch])
            yield [(image, one) for (image, _), one in zip(batch, encoded, strict=True)]
        refuse_broken(broken, len(references))

    def _questions(self, method: Method, texts: Sequence[str]) -> Questions:
        """Tokenize texts; one without a word, which some annotations have, is nothing said."""
        prompt = method.prompt if method.name in PROMPTED_METHODS else None
        weight = method.weight if method.name == "sum" else None
        silent = [_says_nothing(self.encoder, text) for text in texts]
        said = ["nothing" if none else text for none, text in zip(silent, texts, strict=True)]
        questions = self.encoder.questions(method.name, said, weight=weight, prompt=prompt)
        if questions.prompts is None or method.name == "mapped" or not any(silent):
            return questions
        tokenizer, tokens = self.encoder.tokenizer, self.encoder.bundle.manifest.placeholder.tokens
        # what CLIP's encode_text("") reads; some tokenizers have no start
        nothing = [] if tokenizer.sot is None else [tokenizer.sot]
        nothing.append(tokenizer.eot)
        if prompt is not None:
            nothing = tokenizer.encode_prompt(prompt.replace(TEXT_SLOT, ""), n_tokens=tokens)
        prompts = [
            nothing if none else one for none, one in zip(silent, questions.prompts, strict=True)
        ]
        return dataclasses.replace(questions, prompts=prompts)

    def _query_key(self, query: ComposedQuery, method: Method) -> str:
        """Say what a query's embedding is computed from."""
        parts = {
            "bundle": self.encoder.bundle.fingerprint,
            "precisions": self.encoder.precisions,
            "method": method.name,
            "prompt": method.prompt if method.name in PROMPTED_METHODS else None,
            "weight": (0.5 if method.weight is None else method.weight)
            if method.name == "sum"
            else None,
            "text": query.text if method.name not in ("image", "mapped") else None,
            "reference": query.reference.key if method.name != "text" else None,
        }
        return f"query {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"

    def _commit(self, done: int, last: tuple[int, float]) -> tuple[int, float]:
        """Commit if enough was done since the last time; return when that is."""
        now = time.monotonic()
        if done - last[0] < COMMIT_IMAGES and now - last[1] < COMMIT_SECONDS:
            return last
        self.cache.commit()
        return done, now

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)


def _says_nothing(encoder: Encoder, text: str) -> bool:
    """Tell whether no word of a text is left when the bundle's tokenizer has cleaned it."""
    if canonicalize(text):  # the strictest cleaning there is, and no tokenizer is loaded for it
        return False
    try:
        encoder.tokenizer.encode(text)
    except UsageError:
        return True
    return False


def _decoded(
    images: Sequence[BenchmarkImage], broken: list[str]
) -> Iterator[tuple[BenchmarkImage, Image.Image]]:
    """Decode images in order, some ahead; warn of broken ones, and add a sentence to `broken`."""
    by_path: dict[Path, list[BenchmarkImage]] = {}
    for image in images:
        by_path.setdefault(Path(os.path.abspath(image.path)), []).append(image)  # noqa: PTH100
    if not by_path:
        return
    root = Path(os.path.commonpath([path.parent for path in by_path]))  # as `list_images` has it
    for one in iter_images(list(by_path)):
        if one.image is None:
            broken.append(one.error or f"{one.path} cannot be used.")
            warnings.warn(broken[-1], stacklevel=2)  # at once: the rest may take hours
            continue
        for image in by_path[root / one.path]:
            try:
                yield image, image.cut(one.image)
            except ImageError as error:
                broken.append(str(error))


def _batches(
    images: Iterable[tuple[BenchmarkImage, Image.Image]],
) -> Iterator[list[tuple[BenchmarkImage, Image.Image]]]:
    batch: list[tuple[BenchmarkImage, Image.Image]] = []
    pixels = 0
    for image, picture in images:
        batch.append((image, picture))
        pixels += picture.width * picture.height
        if len(batch) == BATCH or pixels >= PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch
