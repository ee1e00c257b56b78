"""A bundle's three graphs as functions: pictures, texts and composed queries -> vectors.

Nothing here knows of an index; `ztcir_sdk.retriever` puts the two together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.bundle.bundle import REFERENCE_TENSORS, Bundle
from ztcir_sdk.bundle.graph_source import (
    FOR_PROCESSORS,
    IMAGES_AT_ONCE,
    TEXTS_AT_ONCE,
    graph_source,
)
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.names import METHODS, PLACEHOLDER_MARK, PROMPTED_METHODS, TEXT_SLOT
from ztcir_sdk.preprocess import ImageSource
from ztcir_sdk.runtime import Graph, RuntimeSettings, open_graph, resolve_device
from ztcir_sdk.tokenizer import Tokenizer

__all__ = ["EncodedImage", "Encoder", "Questions"]

Row = TypeVar("Row")


@dataclass(eq=False)
class EncodedImage:
    """What the image encoder says of a picture, and the token learner once it is needed."""

    embedding: NDArray[np.float32]
    """v, (D,), L2-normalised."""
    patches: NDArray[np.float32] | None
    """Patch features (N, d_v); None in a bundle without a token learner."""
    said: Mapping[str, NDArray[np.float32]] | None = field(default=None, repr=False)
    """The token learner's outputs, by name. Threads may set it twice, to the same."""


@dataclass(frozen=True)
class Questions:
    """Texts to be asked by one method: checked and tokenized. Made by `Encoder.questions`."""

    method: str
    count: int
    prompts: list[list[int]] | None
    """Token ids of each; None where the method only looks at the picture."""
    weight: float
    """Of the text in "sum"."""


class Encoder:
    """A bundle at work. Graphs are loaded when first used; any number of threads may share one.

    Vectors do not depend on what else is in a batch beyond 1e-6; but the int8 precision scales a
    batch as a whole, so there the third decimal may.

    Attributes:
        bundle: what it runs.
        device: "cpu" or "cuda:N".
        settings: how graphs are run, with that device.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        settings: RuntimeSettings | None = None,
    ) -> None:
        """Choose what to run; see `ztcir_sdk.Retriever`.

        Raises:
            ZtcirError: the bundle lacks the precision, or it is none for the device.
            UsageError: there is no such device or backend.
        """
        self.bundle = bundle
        settings = settings or RuntimeSettings()
        self._variants = {
            graph: bundle.variant(graph, precision) for graph in bundle.manifest.graphs
        }
        self.device = self._choose_device(settings)
        self.settings = replace(settings, device=self.device)
        self._graphs: dict[str, Graph] = {}
        self._lock = threading.Lock()

    def _choose_device(self, settings: RuntimeSettings) -> str:
        """What the settings mean for the variants: "cpu" or "cuda:N"."""
        precisions = {variant.precision for variant in self._variants.values()}
        for_processors = precisions.intersection(FOR_PROCESSORS)
        if not for_processors or settings.backend not in ("auto", "onnx"):
            return resolve_device(settings.device, settings.backend)
        if settings.device == "auto":
            return "cpu"
        device = resolve_device(settings.device, settings.backend)
        if device != "cpu":
            # ONNX Runtime would run it on the processor, node by node, and call it CUDA
            raise ZtcirError(
                f"The {', '.join(sorted(for_processors))} graphs of the bundle {self.bundle.name} "
                f"are for processors, not for {device}: choose device cpu, or precision fp16 or "
                "fp32."
            )
        return device

    @property
    def dim(self) -> int:
        """Width D of all vectors."""
        return self.bundle.manifest.dimensions.embed

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of image-tower weights and preprocessing."""
        return self.bundle.manifest.image_tower

    @property
    def precision(self) -> str:
        """Precision of the image encoder."""
        return self._variants["image_encoder"].precision

    @property
    def precisions(self) -> dict[str, str]:
        """Precision of each graph."""
        return {graph: variant.precision for graph, variant in self._variants.items()}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        options = self.bundle.manifest.text.tokenizer_options()
        return Tokenizer.from_file(self.bundle.tokenizer_path, **options)

    def graph(self, name: str) -> Graph:
        """Return a graph, of `ztcir_sdk.bundle.bundle.GRAPHS`, loaded at the first call.

        Raises:
            MissingDependencyError: the backend is not installed.
            ZtcirError: the bundle lacks the graph, or it cannot be loaded on the device.
        """
        with self._lock:
            if name not in self._graphs:
                variant = self._variants.get(name) or self.bundle.variant(name)
                source = graph_source(self.bundle, name, variant)
                self._graphs[name] = open_graph(source, self.settings)
            return self._graphs[name]

    def encode_images(self, images: Sequence[ImageSource]) -> NDArray[np.float32]:
        """Encode pictures for a gallery: (N, D) float32, L2-normalised.

        Raises:
            ImageError: one of them cannot be used; see `ztcir_sdk.preprocess.load_image`.
        """
        vectors = np.empty((len(images), self.dim), dtype=np.float32)
        graph = self.graph("image_encoder")
        for rows in _chunks(range(len(images)), _at_once(graph, IMAGES_AT_ONCE)):
            outputs = self._look(graph, [images[i] for i in rows], ["image_embeds"])
            vectors[rows] = outputs["image_embeds"]
        return vectors

    def encode_references(self, images: Sequence[ImageSource]) -> list[EncodedImage]:
        """Encode pictures to be asked about.

        Raises:
            ImageError: one of them cannot be used; see `ztcir_sdk.preprocess.load_image`.
        """
        outputs = ["image_embeds"]
        if "token_learner" in self._variants:
            outputs.append("patch_features")
        encoded: list[EncodedImage] = []
        graph = self.graph("image_encoder")
        for rows in _chunks(range(len(images)), _at_once(graph, IMAGES_AT_ONCE)):
            seen = self._look(graph, [images[i] for i in rows], outputs)
            patches = seen.get("patch_features", [None] * len(rows))
            # Copies: a row of an array would keep the whole batch in memory.
            encoded += [
                EncodedImage(embedding.copy(), None if own is None else own.copy())
                for embedding, own in zip(seen["image_embeds"], patches, strict=True)
            ]
        return encoded

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts by the frozen text encoder alone: (B, D) float32, L2-normalised.

        Raises:
            UsageError: one of the texts is empty.
        """
        return self._read([self.tokenizer.encode(text) for text in _listed(texts)])

    def questions(
        self,
        method: str,
        texts: Sequence[str],
        *,
        weight: float | None = None,
        prompt: str | None = None,
    ) -> Questions:
        """Check and tokenize texts for `encode_queries`.

        Args:
            method: of `METHODS`.
            texts: modification texts; "mapped" and "image" do not read them.
            weight: of the text in "sum", from 0 to 1, against 1 - weight of the picture; 0.5 by
                default.
            prompt: template for "composed" and "stage1" in place of the bundle's own, with a
                ``$`` and a ``{text}``.

        Raises:
            UsageError: the method is unknown, needs a text that is empty, or takes no weight or
                no prompt; or the prompt is malformed.
            ZtcirError: the bundle cannot answer this method.
        """
        if method not in METHODS:
            raise UsageError(f"There is no method {method!r}: choose from {', '.join(METHODS)}.")
        manifest = self.bundle.manifest
        if method not in manifest.methods:
            raise ZtcirError(
                f"The bundle {manifest.name} cannot answer {method!r}: choose from "
                f"{', '.join(manifest.methods)}, or use another bundle."
            )
        if weight is not None and method != "sum":
            raise UsageError(f"The method {method!r} takes no weight: leave it out, or use sum.")
        weight = 0.5 if weight is None else float(weight)
        if not 0 <= weight <= 1:
            raise UsageError(f"The weight must be from 0 to 1, not {weight}.")
        if prompt is not None and method not in PROMPTED_METHODS:
            raise UsageError(f"The method {method!r} takes no prompt: leave it out.")
        if prompt is not None and not (PLACEHOLDER_MARK in prompt and TEXT_SLOT in prompt):
            raise UsageError(f"The prompt {prompt!r} needs a {PLACEHOLDER_MARK} and a {TEXT_SLOT}.")

        texts = _listed(texts)
        prompts: list[list[int]] | None = None
        if method in ("text", "sum"):
            prompts = [self.tokenizer.encode(text) for text in texts]
        elif method != "image":
            template, tokens = prompt or manifest.prompts[method], manifest.placeholder.tokens
            prompts = [
                self.tokenizer.encode_prompt(
                    template, None if method == "mapped" else text, n_tokens=tokens
                )
                for text in texts
            ]
        return Questions(method, len(texts), prompts, weight)

    def encode_queries(
        self, questions: Questions, references: Sequence[EncodedImage], reference_index: ArrayLike
    ) -> NDArray[np.float32]:
        """Encode B questions, each about one of R references: (B, D) float32, L2-normalised.

        Args:
            questions: B texts.
            references: R pictures.
            reference_index: (B,) integers, from 0 to R - 1.

        Raises:
            UsageError: the lengths differ, or an index is out of range.
        """
        index = np.asarray(reference_index, dtype=np.int64)
        if index.shape != (questions.count,):
            raise UsageError(
                f"reference_index must be one number for each of {questions.count} texts, "
                f"not of shape {index.shape}."
            )
        if len(index) and not (index.min() >= 0 and index.max() < len(references)):
            raise UsageError(f"reference_index must be from 0 to {len(references) - 1}.")

        if questions.prompts is None:
            return self._embeddings(references, index)
        if questions.method == "text":
            return self._read(questions.prompts)
        if questions.method == "sum":
            text = self._read(questions.prompts)
            image = self._embeddings(references, index)
            mixed = (1 - questions.weight) * image + questions.weight * text
            return self._unit(mixed, "text_encoder")
        scale = 1.0 if questions.method == "composed" else 0.0
        return self._read(questions.prompts, references, index, scale)

    def _look(
        self, graph: Graph, images: list[ImageSource], outputs: list[str]
    ) -> dict[str, NDArray[Any]]:
        pixel_values = self.bundle.manifest.preprocessing(images)
        seen = graph.run({"pixel_values": pixel_values}, outputs)
        seen["image_embeds"] = self._unit(seen["image_embeds"], "image_encoder")
        return seen

    def _embeddings(
        self, references: Sequence[EncodedImage], index: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        rows = [references[i].embedding for i in index]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.dim)

    def _read(
        self,
        prompts: Sequence[Sequence[int]],
        references: Sequence[EncodedImage] = (),
        index: NDArray[np.int64] | None = None,
        scale: float = 0.0,
    ) -> NDArray[np.float32]:
        """Run the text encoder: with `references` where the prompts have placeholders."""
        graph = self.graph("text_encoder")
        declared = {spec.name for spec in graph.inputs}
        vectors = np.empty((len(prompts), self.dim), dtype=np.float32)
        # Texts of a length together, since a batch is padded to its longest.
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for rows in _chunks(by_length, _at_once(graph, TEXTS_AT_ONCE)):
            if index is None:
                local, said = np.zeros(len(rows), dtype=np.int64), self._nothing
            else:
                used, local = np.unique(index[rows], return_inverse=True)
                said = self._said([references[i] for i in used])
            inputs: dict[str, NDArray[Any]] = {
                "input_ids": self.tokenizer.pad([prompts[i] for i in rows]),
                "reference_index": local.astype(np.int64),
                "adapter_scale": np.full(len(rows), scale, dtype=np.float32),
                **said,
            }
            given = {name: array for name, array in inputs.items() if name in declared}
            vectors[rows] = graph.run(given, ["query_embeds"])["query_embeds"]
        return self._unit(vectors, "text_encoder")

    @cached_property
    def _nothing(self) -> dict[str, NDArray[np.float32]]:
        """One reference that says nothing, for texts without a placeholder."""
        sizes, tokens = self.bundle.manifest.dimensions, self.bundle.manifest.placeholder.tokens
        injected = (1, sizes.vsi_layers, sizes.patches, sizes.vsi)
        shapes = ((1, tokens, sizes.text), injected, injected)
        return {
            name: np.zeros(shape, dtype=np.float32)
            for name, shape in zip(REFERENCE_TENSORS, shapes, strict=True)
        }

    def _said(self, references: Sequence[EncodedImage]) -> dict[str, NDArray[np.float32]]:
        """Return the token learner's outputs of all references, which it sees but once."""
        if new := [reference for reference in references if reference.said is None]:
            graph = self.graph("token_learner")
            declared = {spec.name for spec in graph.inputs}
            for rows in _chunks(new, _at_once(graph, IMAGES_AT_ONCE)):
                inputs = {
                    "image_embeds": np.stack([one.embedding for one in rows]),
                    "patch_features": np.stack([_patches(one) for one in rows]),
                }
                outputs = graph.run({name: inputs[name] for name in inputs if name in declared})
                for row, reference in enumerate(rows):
                    reference.said = {name: array[row].copy() for name, array in outputs.items()}
        said = [reference.said or {} for reference in references]
        return {name: np.stack([one[name] for one in said]) for name in said[0]}

    def _unit(self, vectors: NDArray[Any], graph: str) -> NDArray[np.float32]:
        """Normalise rows, which also finds the numbers that a graph must not give."""
        rows = vectors.astype(np.float64)
        norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise ZtcirError(
                f"The {graph} of the bundle {self.bundle.name} gave a vector that is zero or not "
                f"finite on {self.device}: choose another precision or device."
            )
        unit: NDArray[np.float32] = (rows / norms).astype(np.float32)
        return unit


def _patches(image: EncodedImage) -> NDArray[np.float32]:
    if image.patches is None:
        raise ValueError("this picture was encoded by a bundle without a token learner")
    return image.patches


def _listed(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise UsageError("Give a list of texts, even for a single one.")
    return list(texts)


def _at_once(graph: Graph, most: int) -> int:
    """Return the rows of one run: `most`, or fewer where the graph takes no more."""
    return min([most, *(graph.limits[axis] for axis in ("R", "B") if axis in graph.limits)])


def _chunks(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
