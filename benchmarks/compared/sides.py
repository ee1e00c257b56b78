"""The sides of a comparison: backends of the SDK, and PyTorch eager or compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.compared.eager import TorchSearch
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import GRAPHS, IMAGE_ENCODER, TEXT_ENCODER, TOKEN_LEARNER
from ztcir_sdk.retriever import Retriever

SDK, TENSORRT, EAGER, COMPILED = "sdk", "sdk_tensorrt", "pytorch", "pytorch_compiled"
LABELS = {SDK: "SDK", TENSORRT: "SDK TensorRT", EAGER: "PyTorch", COMPILED: "torch.compile"}
WARM_UP_RUNS = 3
"""TensorRT prepares a shape in its first run and records it in the second."""

Operations = dict[str, dict[str, Callable[[], object]]]
"""Comparison -> side -> the operation to time."""
GraphInputs = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
"""One image's pixels, and one prompt's token ids: cut after its end, and padded."""


class Sides:
    """All sides that answer the same queries with one bundle's model.

    Attributes:
        sdk: side -> retriever; contains `SDK`.
        torch: side -> search in PyTorch; contains `EAGER`, which all others are compared with.
    """

    def __init__(self, sdk: Mapping[str, Retriever], torch: Mapping[str, TorchSearch]) -> None:
        self.sdk, self.torch = dict(sdk), dict(torch)
        self._bundle = self.sdk[SDK].bundle

    def largest_differences(self, files: Sequence[Path], texts: Sequence[str]) -> dict[str, float]:
        """Return side -> largest difference of its query embeddings from the eager ones.

        Raises:
            ZtcirError: a side returns another shape.
        """
        sides: dict[str, Retriever | TorchSearch] = {**self.sdk, **self.torch}
        largest = {side: 0.0 for side in sides if side != EAGER}
        for file in files:
            encoders = {side: _query_encoder(one, file) for side, one in sides.items()}
            for text in texts:
                expected = encoders[EAGER](text)
                for side in largest:
                    found = encoders[side](text)
                    self._check_shapes([found], [torch.from_numpy(expected)])
                    difference = np.abs(found - expected).max()
                    largest[side] = float(np.maximum(largest[side], difference))  # keeps NaN
        return largest

    def operations(
        self, files: Sequence[Path], texts: Sequence[str], text: str, k: int
    ) -> Operations:
        """Return the operations to time: each graph alone, then whole queries.

        Args:
            files: images of whole queries; graphs alone get the first.
            texts: texts of whole queries; every run has another one.
            text: input of the text encoder alone. Each side also runs it at the other length:
                padded to the whole context in the SDK, cut after its end in PyTorch.
            k: hits of a whole query.

        Raises:
            ZtcirError: PyTorch returns other shapes than the bundle.
        """
        encoder, eager = self.sdk[SDK].encoder, self.torch[EAGER]
        pixels = encoder.bundle.manifest.preprocessing([files[0]])
        cut = encoder.tokenizer.pad(encoder.questions("composed", [text]).prompts or [])
        padded = np.zeros((1, eager.context_length), dtype=np.int64)
        padded[:, : cut.shape[1]] = cut
        inputs = (pixels, cut, padded)
        expected = _encode_reference_torch(eager, pixels)
        result: Operations = {}

        def add(side: str, graphs: Operations, first: Any, second: Any) -> None:
            queries = zip(itertools.cycle(files), itertools.cycle(texts), strict=False)
            other_texts = itertools.cycle(texts)
            whole = {
                "first_text": {side: lambda: first(*next(queries))},
                "second_text": {side: lambda: second(next(other_texts))},
            }
            for name, operations in {**graphs, **whole}.items():
                result.setdefault(name, {}).update(operations)

        for side, retriever in self.sdk.items():
            found = _encode_reference_sdk(retriever, pixels)
            for outputs, tensors in zip(found, expected, strict=True):
                self._check_shapes(list(outputs.values()), tensors)
            reference = retriever.reference(files[0])
            graphs = _sdk_graphs(side, retriever, inputs)
            add(side, graphs, partial(retriever.search, k=k), partial(reference.search, k=k))
        for side, search in self.torch.items():
            second = partial(search.second_text, reference=search.reference(files[0]))
            add(side, _torch_graphs(side, search, inputs), search.first_text, second)
        return result

    def warm_up(self, operations: Operations, file: Path, texts: Sequence[str]) -> None:
        """Run every operation and every length of text, so that engines and compilers are ready."""
        lengths = {len(self.torch[EAGER].prompt(text)): text for text in texts}
        # First: larger buffers, for a padded text, make TensorRT prepare all shapes again.
        for sides in operations.values():
            for operation in sides.values():
                for _ in range(WARM_UP_RUNS):
                    operation()
        for retriever in self.sdk.values():
            encode = _query_encoder(retriever, file)
            for text in lengths.values():
                for _ in range(WARM_UP_RUNS):
                    encode(text)

    def _check_shapes(self, found: Sequence[NDArray[Any]], expected: Sequence[Tensor]) -> None:
        """Refuse a model of another architecture; without VSI a graph has fewer outputs."""
        for array, tensor in zip(found, expected, strict=False):
            if array.shape != tuple(tensor.shape):
                raise ZtcirError(
                    f"The bundle {self._bundle.path} returns shape {array.shape} but PyTorch "
                    f"{tuple(tensor.shape)}: name the checkpoint that it was exported from."
                )


def _query_encoder(
    side: Retriever | TorchSearch, file: Path
) -> Callable[[str], NDArray[np.float32]]:
    """Encode an image; return a function from a text to the query embedding (D,)."""
    if isinstance(side, Retriever):
        return side.reference(file).encode
    reference = side.reference(file)
    return lambda text: side.query(text, reference)[0].cpu().numpy()


def _encode_reference_sdk(
    retriever: Retriever, pixels: NDArray[np.float32]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the outputs of the image encoder and of the token learner, by name."""
    learner = retriever.encoder.graph(TOKEN_LEARNER)
    features = retriever.encoder.graph(IMAGE_ENCODER).run({"pixel_values": pixels})
    return features, learner.run({spec.name: features[spec.name] for spec in learner.inputs})


def _encode_reference_torch(
    search: TorchSearch, pixels: NDArray[np.float32]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    features = search.on_host(search.encode_image, torch.from_numpy(pixels))
    return features, search.on_host(search.learn_token, *features)


def _sdk_graphs(side: str, retriever: Retriever, inputs: GraphInputs) -> Operations:
    """Return the SDK's graphs as operations."""
    pixels, cut, padded = inputs
    image_encoder, token_learner, text_encoder = map(retriever.encoder.graph, GRAPHS)
    features, reference = _encode_reference_sdk(retriever, pixels)
    shown = {spec.name: features[spec.name] for spec in token_learner.inputs}

    def run_text_encoder(ids: NDArray[np.int64]) -> Callable[[], object]:
        given: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "reference_index": np.zeros(1, dtype=np.int64),
            "adapter_scale": np.ones(1, dtype=np.float32),
            **reference,
        }
        given = {spec.name: given[spec.name] for spec in text_encoder.inputs}
        return lambda: text_encoder.run(given)

    return {
        IMAGE_ENCODER: {side: lambda: image_encoder.run({"pixel_values": pixels})},
        TOKEN_LEARNER: {side: lambda: token_learner.run(shown)},
        TEXT_ENCODER: {
            side: run_text_encoder(cut),
            f"{side}_padded": run_text_encoder(padded),
        },
    }


def _torch_graphs(side: str, search: TorchSearch, inputs: GraphInputs) -> Operations:
    """Return the same operations in PyTorch, with inputs and outputs on the host."""
    pixels, cut, padded = inputs
    run = search.on_host
    features, reference = _encode_reference_torch(search, pixels)

    def run_text_encoder(ids: NDArray[np.int64]) -> Callable[[], object]:
        first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
        tokens = torch.from_numpy(ids)
        return lambda: run(search.encode_query, tokens, first, scale, *reference)

    return {
        IMAGE_ENCODER: {side: lambda: run(search.encode_image, torch.from_numpy(pixels))},
        TOKEN_LEARNER: {side: lambda: run(search.learn_token, *features)},
        TEXT_ENCODER: {f"{side}_cut": run_text_encoder(cut), side: run_text_encoder(padded)},
    }
