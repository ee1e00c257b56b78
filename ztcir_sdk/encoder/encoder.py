"""A bundle's three graphs as functions: images, texts and composed queries -> vectors.

Nothing here depends on an index; `ztcir_sdk.retriever` combines the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.bundle import REFERENCE_TENSORS, Bundle
from ztcir_sdk.bundle.graph_source import CPU_PRECISIONS
from ztcir_sdk.bundle.loaded_graphs import LoadedGraphs
from ztcir_sdk.decoding import ImageSource
from ztcir_sdk.encoder.encoded_image import EncodedImage
from ztcir_sdk.encoder.questions import Questions
from ztcir_sdk.encoder.rules import Reading, TextRules
from ztcir_sdk.errors import UsageError, ZtcirError, check_choice
from ztcir_sdk.modification import (
    UnknownWord,
    check_strength,
    join_texts,
    mix_queries,
    move_queries,
)
from ztcir_sdk.names import (
    AUTOMATIC,
    IMAGE_ENCODER,
    MAX_IMAGES,
    MAX_TEXTS,
    METHODS,
    PLACEHOLDER_MARK,
    PROMPTED_METHODS,
    TEXT_ENCODER,
    TEXT_SLOT,
    TOKEN_LEARNER,
)
from ztcir_sdk.runtime import Graph, RuntimeSettings, resolve_device
from ztcir_sdk.tokenizer import Tokenizer

__all__ = ["Encoder"]

Row = TypeVar("Row")


class Encoder:
    """Runs a bundle's graphs, each loaded when it is first needed. Threads may share one.

    A vector depends on the rest of its batch by less than 1e-6. In int8, which scales each batch as
    a whole, the third decimal may differ.

    Attributes:
        bundle: the bundle in use.
        device: "cpu", "cuda:N", or a name such as "openvino".
        settings: how graphs are run, with `device` resolved.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        settings: RuntimeSettings | None = None,
        correct_slips: bool = True,
    ) -> None:
        """Choose variants and device; see `ztcir_sdk.Retriever`.

        Raises:
            ZtcirError: the bundle lacks the precision, or the device cannot run it.
            UsageError: there is no such device or backend.
        """
        self.bundle = bundle
        settings = settings or RuntimeSettings()
        self._correct_slips = correct_slips
        if precision is None and bundle.cpu_precision is not None:
            on_cpu = resolve_device(settings.device, settings.backend) == "cpu"
            precision = bundle.cpu_precision if on_cpu else None
        self._variants = {
            graph: bundle.variant(graph, precision) for graph in bundle.manifest.graphs
        }
        self.device = self._choose_device(settings)
        self.settings = replace(settings, device=self.device)
        self._graphs = LoadedGraphs(bundle, self._variants, self.settings)
        self._rules = TextRules(bundle, self.encode_texts)

    def _choose_device(self, settings: RuntimeSettings) -> str:
        """Return the device for the chosen variants, as `resolve_device` gives it."""
        precisions = {variant.precision for variant in self._variants.values()}
        cpu_only = precisions.intersection(CPU_PRECISIONS)
        if not cpu_only or settings.backend not in (AUTOMATIC, "onnx"):
            return resolve_device(settings.device, settings.backend)
        if settings.device == AUTOMATIC:
            return "cpu"
        device = resolve_device(settings.device, settings.backend)
        if device != "cpu":
            # ONNX Runtime would run it on the CPU, node by node, and report CUDA
            raise ZtcirError(
                f"The {', '.join(sorted(cpu_only))} graphs of the bundle {self.bundle.name} run "
                f"on the CPU only, not on {device}: choose device cpu, or precision fp16 or fp32."
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
        return self._variants[IMAGE_ENCODER].precision

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
        """Return a graph of `ztcir_sdk.names.GRAPHS`, loaded at the first call.

        Raises:
            MissingDependencyError: the backend is not installed.
            ZtcirError: the bundle lacks the graph, or it cannot be loaded on the device.
        """
        return self._graphs.graph(name)

    def open_graph(self, name: str, *, threads: int | None = None) -> Graph:
        """Load a graph anew, with another number of threads; for errors see `graph`."""
        return self._graphs.open(name, threads=threads)

    def preload(self, graphs: Sequence[str]) -> None:
        """Start to load graphs, if they run on the CPU, and what rules need; return at once."""
        self._graphs.preload(graphs)
        if TOKEN_LEARNER in graphs:  # rules are for composed queries
            self._rules.preload()

    def encode_images(self, images: Sequence[ImageSource]) -> NDArray[np.float32]:
        """Encode N images for a gallery: (N, D) float32, L2-normalised.

        Raises:
            ImageError: an image cannot be used; see `ztcir_sdk.preprocess.load_image`.
        """
        vectors = np.empty((len(images), self.dim), dtype=np.float32)
        graph = self.graph(IMAGE_ENCODER)
        for rows in _chunks(range(len(images)), _batch_size(graph, MAX_IMAGES)):
            pixel_values = self.bundle.manifest.preprocessing([images[i] for i in rows])
            vectors[rows] = self.run_image_encoder(graph, pixel_values)
        return vectors

    def run_image_encoder(
        self, graph: Graph, pixel_values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Encode a batch (N, 3, H, W) with a loaded image encoder: (N, D), L2-normalised.

        Raises:
            ZtcirError: the graph fails, or a vector is not finite.
        """
        outputs = graph.run({"pixel_values": pixel_values}, ["image_embeds"])
        return self._normalised(outputs["image_embeds"], IMAGE_ENCODER)

    def encode_references(self, images: Sequence[ImageSource]) -> list[EncodedImage]:
        """Encode reference images for queries.

        Raises:
            ImageError: an image cannot be used; see `ztcir_sdk.preprocess.load_image`.
        """
        outputs = ["image_embeds"]
        if TOKEN_LEARNER in self._variants:
            outputs.append("patch_features")
        encoded: list[EncodedImage] = []
        graph = self.graph(IMAGE_ENCODER)
        for rows in _chunks(range(len(images)), _batch_size(graph, MAX_IMAGES)):
            pixel_values = self.bundle.manifest.preprocessing([images[i] for i in rows])
            arrays = graph.run({"pixel_values": pixel_values}, outputs)
            embeddings = self._normalised(arrays["image_embeds"], IMAGE_ENCODER)
            patches = arrays.get("patch_features", [None] * len(rows))
            # copies, since a row of an array keeps the whole batch in memory
            encoded += [
                EncodedImage(embedding.copy(), None if own is None else own.copy())
                for embedding, own in zip(embeddings, patches, strict=True)
            ]
        return encoded

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode B texts with the frozen text encoder alone: (B, D) float32, L2-normalised.

        Raises:
            UsageError: a text is empty.
        """
        return self._run_text_encoder([self.tokenizer.encode(text) for text in _as_list(texts)])

    def unknown_words(self, text: str, *, as_typed: bool = False) -> tuple[UnknownWord, ...]:
        """Return the words of a text that the model was not trained on, each once, in order.

        With `as_typed` none of them counts as corrected.

        Raises:
            BundleError: the bundle's vocabulary cannot be read.
        """
        vocabulary = self.bundle.vocabulary
        if vocabulary is None:
            return ()
        return vocabulary.unknown_words(
            text, self.tokenizer.is_word if self._correct_slips and not as_typed else None
        )

    def as_read(self, text: str) -> str:
        """Return a text as `questions` reads it: with its likely slips corrected.

        A word that the tokenizer has as one token is no slip. Without a vocabulary in the bundle,
        nothing is corrected.
        """
        vocabulary = self.bundle.vocabulary
        if vocabulary is None or not self._correct_slips or not isinstance(text, str):
            return text
        return vocabulary.corrected(text, self.tokenizer.is_word)

    def refused(self, text: str, *, as_typed: bool = False) -> tuple[str, ...]:
        """Return the colours and patterns that a text refuses, and that leave a composed query."""
        return self._rules.refused(text if as_typed else self.as_read(text))

    def shortened(self, text: str, *, alone: bool, as_typed: bool = False) -> str | None:
        """Return the short English that is read in place of a text; None if it is left as it is.

        Args:
            text: a long text, or one in another language.
            alone: whether it is without an image, and without what it refuses.
            as_typed: whether texts stay as they are.
        """
        if as_typed or not self._correct_slips:
            return None
        return self._rules.shortened(text) if alone else self._rules.composed_as(self.as_read(text))

    def questions(
        self,
        method: str,
        texts: Sequence[str],
        *,
        weight: float | None = None,
        strength: float | None = None,
        prompt: str | None = None,
        as_typed: bool = False,
    ) -> Questions:
        """Check, correct and tokenize texts for `encode_queries`; see `as_read`.

        Args:
            method: one of `METHODS`.
            texts: modification texts; "mapped" and "image" ignore their content.
            weight: weight of the text in "sum", from 0 (image only) to 1 (text only); by default
                the bundle's own, else 0.5.
            strength: how much the text counts in "composed" and "stage1": 0 is the image, 1, the
                default, the query as trained, and above 1 the query goes on away from the image.
            prompt: template for "composed" and "stage1", with a ``$`` and a ``{text}``; by default
                the bundle's own.
            as_typed: whether texts stay as they are: no slip is corrected, and none shortened.

        Raises:
            UsageError: the method is unknown or takes no weight, strength or prompt, a number is
                out of its range, a text is empty, or the prompt is malformed.
            ZtcirError: the bundle cannot answer this method.
        """
        check_choice("method", method, METHODS)
        manifest = self.bundle.manifest
        if method not in manifest.methods:
            raise ZtcirError(
                f"The bundle {manifest.name} cannot answer {method!r}: choose from "
                f"{', '.join(manifest.methods)}, or use another bundle."
            )
        if weight is not None and method != "sum":
            raise UsageError(f"The method {method!r} takes no weight: leave it out, or use sum.")
        weight = self.bundle.sum_weight if weight is None else float(weight)
        if not 0 <= weight <= 1:
            raise UsageError(f"The weight must be from 0 to 1, not {weight}.")
        if strength is not None and method not in PROMPTED_METHODS:
            way_out = "use weight" if method == "sum" else "leave it out"
            raise UsageError(
                f"The method {method!r} takes no strength: {way_out}, or choose from "
                f"{', '.join(PROMPTED_METHODS)}."
            )
        strength = 1.0 if strength is None else check_strength(strength)
        if prompt is not None and method not in PROMPTED_METHODS:
            raise UsageError(f"The method {method!r} takes no prompt: leave it out.")
        if prompt is not None and not (PLACEHOLDER_MARK in prompt and TEXT_SLOT in prompt):
            raise UsageError(f"The prompt {prompt!r} needs a {PLACEHOLDER_MARK} and a {TEXT_SLOT}.")

        texts = _as_list(texts) if as_typed else [self.as_read(text) for text in _as_list(texts)]
        prompts: list[list[int]] | None = None
        template = prompt or manifest.prompts.get(method, "")
        reading: Reading | None = None
        if method == "composed":
            tokens = manifest.placeholder.tokens
            reading = self._rules.read(
                texts,
                lambda text: self.tokenizer.fits(template, text, n_tokens=tokens),
                as_typed=as_typed or not self._correct_slips,
            )
        if method in ("text", "sum"):
            prompts = [self.tokenizer.encode(text) for text in texts]
        elif method == "mapped":
            prompts = self._prompts(template, [None] * len(texts))
        elif method != "image":
            prompts = self._prompts(template, texts if reading is None else reading.texts)
        return Questions(method, len(texts), prompts, weight, strength, texts, template, reading)

    def _prompts(self, template: str, texts: Sequence[str | None]) -> list[list[int]]:
        tokens = self.bundle.manifest.placeholder.tokens
        return [self.tokenizer.encode_prompt(template, text, n_tokens=tokens) for text in texts]

    def encode_queries(
        self, questions: Questions, references: Sequence[EncodedImage], reference_index: ArrayLike
    ) -> NDArray[np.float32]:
        """Encode B queries, each with one of R references: (B, D) float32, L2-normalised.

        Args:
            questions: the B texts.
            references: the R reference images; "text" needs none.
            reference_index: (B,) integers from 0 to R - 1.

        Raises:
            UsageError: the lengths differ, or an index is out of range.
        """
        index = np.asarray(reference_index, dtype=np.int64)
        if index.shape != (questions.count,):
            raise UsageError(
                f"reference_index must have one number for each of {questions.count} texts, not "
                f"the shape {index.shape}."
            )
        alone = questions.method == "text" and not references
        if len(index) and not alone and not (index.min() >= 0 and index.max() < len(references)):
            raise UsageError(f"reference_index must be from 0 to {len(references) - 1}.")

        if questions.prompts is None or questions.strength == 0:
            return self._embeddings(references, index)
        if questions.method == "text":
            return self._run_text_encoder(questions.prompts)
        if questions.method == "sum":
            text = self._run_text_encoder(questions.prompts)
            image = self._embeddings(references, index)
            mixed = (1 - questions.weight) * image + questions.weight * text
            return self._normalised(mixed, TEXT_ENCODER)
        scale = 1.0 if questions.method == "composed" else 0.0
        reading = questions.reading
        if questions.method in PROMPTED_METHODS and any(references[i].former for i in index):
            queries, reading = self._run_with_former(questions, references, index, scale)
        else:
            queries = self._run_text_encoder(questions.prompts, references, index, scale)
        images = self._embeddings(references, index)
        if reading is not None:
            ruled = self._rules.apply(reading, queries, images)
            queries = queries if ruled is queries else self._normalised(ruled, TEXT_ENCODER)
        return move_queries(images, queries, questions.strength)

    def _run_with_former(
        self,
        questions: Questions,
        references: Sequence[EncodedImage],
        index: NDArray[np.int64],
        scale: float,
    ) -> tuple[NDArray[np.float32], Reading | None]:
        """Compose references, and the images that they were refined from, in one run.

        Returns:
            The queries, and their texts' reading: what was refused before is refused still.
        """
        template, tokens = questions.template, self.bundle.manifest.placeholder.tokens
        former = [
            (row, one, joined)
            for row, text in enumerate(questions.texts)
            for one in reversed(references[index[row]].former)
            if self.tokenizer.fits(template, joined := join_texts(one.asked, text), n_tokens=tokens)
        ]
        images = [*references, *(one.image for _, one, _ in former)]
        texts, reading = [text for _, _, text in former], questions.reading
        if reading is not None:
            read = self._rules.read(texts, lambda _: True, as_typed=reading.as_typed)
            refused = dict(reading.refused)
            for place, values in read.refused.items():
                row = former[place][0]
                refused[row] = tuple(dict.fromkeys((*refused.get(row, ()), *values)))
            texts, reading = list(read.texts), replace(reading, refused=refused)
        prompts = [*(questions.prompts or []), *self._prompts(template, texts)]
        rows = np.concatenate([index, np.arange(len(references), len(images))])
        queries = self._run_text_encoder(prompts, images, rows, scale)
        own = questions.count
        return mix_queries(queries[:own], queries[own:], [row for row, _, _ in former]), reading

    def _embeddings(
        self, references: Sequence[EncodedImage], index: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        rows = [references[i].embedding for i in index]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.dim)

    def _run_text_encoder(
        self,
        prompts: Sequence[Sequence[int]],
        references: Sequence[EncodedImage] = (),
        index: NDArray[np.int64] | None = None,
        scale: float = 0.0,
    ) -> NDArray[np.float32]:
        """Run the text encoder; prompts with a placeholder need `references`."""
        graph = self.graph(TEXT_ENCODER)
        declared = {spec.name for spec in graph.inputs}
        vectors = np.empty((len(prompts), self.dim), dtype=np.float32)
        # sorted by length, since a batch is padded to its longest text
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for rows in _chunks(by_length, _batch_size(graph, MAX_TEXTS)):
            if index is None:
                local, learned = np.zeros(len(rows), dtype=np.int64), self._empty_reference
            else:
                used, local = np.unique(index[rows], return_inverse=True)
                learned = self._token_learner_outputs([references[i] for i in used])
            inputs: dict[str, NDArray[Any]] = {
                "input_ids": self.tokenizer.pad([prompts[i] for i in rows]),
                "reference_index": local.astype(np.int64),
                "adapter_scale": np.full(len(rows), scale, dtype=np.float32),
                **learned,
            }
            given = {name: array for name, array in inputs.items() if name in declared}
            vectors[rows] = graph.run(given, ["query_embeds"])["query_embeds"]
        return self._normalised(vectors, TEXT_ENCODER)

    @cached_property
    def _empty_reference(self) -> dict[str, NDArray[np.float32]]:
        """The tensors of one reference, all zero, for texts without a placeholder."""
        sizes, tokens = self.bundle.manifest.dimensions, self.bundle.manifest.placeholder.tokens
        injected = (1, sizes.vsi_layers, sizes.patches, sizes.vsi)
        shapes = ((1, tokens, sizes.text), injected, injected)
        return {
            name: np.zeros(shape, dtype=np.float32)
            for name, shape in zip(REFERENCE_TENSORS, shapes, strict=True)
        }

    def _token_learner_outputs(
        self, references: Sequence[EncodedImage]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the token learner's outputs, (R, ...) each; runs it once for each reference."""
        if new := [reference for reference in references if reference.learned is None]:
            graph = self.graph(TOKEN_LEARNER)
            declared = {spec.name for spec in graph.inputs}
            for rows in _chunks(new, _batch_size(graph, MAX_IMAGES)):
                inputs = {
                    "image_embeds": np.stack([one.embedding for one in rows]),
                    "patch_features": np.stack([_patches(one) for one in rows]),
                }
                outputs = graph.run({name: inputs[name] for name in inputs if name in declared})
                for row, reference in enumerate(rows):
                    reference.learned = {name: array[row].copy() for name, array in outputs.items()}
        learned = [reference.learned or {} for reference in references]
        return {name: np.stack([one[name] for one in learned]) for name in learned[0]}

    def _normalised(self, vectors: NDArray[Any], graph: str) -> NDArray[np.float32]:
        """L2-normalise rows, and refuse a graph's output that is zero or not finite."""
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
        raise ValueError("the image was encoded by a bundle without a token learner")
    return image.patches


def _as_list(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise UsageError("texts must be a list, even for a single text.")
    return list(texts)


def _batch_size(graph: Graph, most: int) -> int:
    """Return the batch size of one run: `most`, or the graph's own limit."""
    return min([most, *(graph.limits[axis] for axis in ("R", "B") if axis in graph.limits)])


def _chunks(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
