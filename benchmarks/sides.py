"""The sides of a comparison: backends of the SDK, and PyTorch eager or compiled, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.eager import TorchSearch
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.retriever import Retriever

__all__ = [
    "COMPILED",
    "EAGER",
    "NAMES",
    "SDK",
    "TENSORRT",
    "Operations",
    "Sides",
]

SDK, TENSORRT, EAGER, COMPILED = "sdk", "sdk_tensorrt", "pytorch", "pytorch_compiled"
NAMES = {SDK: "SDK", TENSORRT: "SDK TensorRT", EAGER: "PyTorch", COMPILED: "torch.compile"}
"""What a person is told."""
WARM_UP_RUNS = 3
"""TensorRT prepares a shape in its first run and records it in the second."""

Operations = dict[str, dict[str, Callable[[], object]]]
"""Comparison -> side -> what is timed."""


class Sides:
    """Who answers the same queries on one bundle.

    Attributes:
        sdk: side -> retriever; `SDK` is there.
        torch: side -> search in PyTorch; `EAGER` is there, with which all others are compared.
    """

    def __init__(self, sdk: Mapping[str, Retriever], torch: Mapping[str, TorchSearch]) -> None:
        self.sdk, self.torch = dict(sdk), dict(torch)
        self._bundle = self.sdk[SDK].bundle

    def largest_differences(self, files: Sequence[Path], texts: Sequence[str]) -> dict[str, float]:
        """Compare query embeddings with the eager ones, from the file on: side -> difference.

        Raises:
            ZtcirError: a side gives another shape.
        """
        asked: dict[str, Retriever | TorchSearch] = {**self.sdk, **self.torch}
        worst = {side: 0.0 for side in asked if side != EAGER}
        for file in files:
            ask = {side: _asking(one, file) for side, one in asked.items()}
            for text in texts:
                expected = ask[EAGER](text)
                for side in worst:
                    got = ask[side](text)
                    self._check_shapes([got], [torch.from_numpy(expected)])
                    difference = np.abs(got - expected).max()
                    worst[side] = float(np.maximum(worst[side], difference))  # keeps NaN
        return worst

    def operations(
        self, files: Sequence[Path], texts: Sequence[str], text: str, k: int
    ) -> Operations:
        """Return what is timed: each graph alone, then whole queries.

        Args:
            files: pictures of whole queries; the graphs alone are given the first.
            texts: of whole queries; every run has another one.
            text: what the text encoder alone is given, also at the other length than a side's own:
                padded to the whole context by the SDK, cut after its end by PyTorch.
            k: hits of a whole query.

        Raises:
            ZtcirError: PyTorch gives other shapes than the bundle.
        """
        encoder, eager = self.sdk[SDK].encoder, self.torch[EAGER]
        pixels = encoder.bundle.manifest.preprocessing([files[0]])
        cut = encoder.tokenizer.pad(encoder.questions("composed", [text]).prompts or [])
        padded = np.zeros((1, eager.context_length), dtype=np.int64)
        padded[:, : cut.shape[1]] = cut
        expected = _torch_said(eager, pixels)
        result: Operations = {}
        for side, retriever in self.sdk.items():
            for got, wanted in zip(_sdk_said(retriever, pixels), expected, strict=True):
                self._check_shapes(list(got.values()), wanted)
            _add(result, _sdk_graphs(side, retriever, pixels, cut, padded))
            _add(result, _sdk_queries(side, retriever, files, texts, k))
        for side, search in self.torch.items():
            _add(result, _torch_graphs(side, search, pixels, cut, padded))
            _add(result, _torch_queries(side, search, files, texts))
        return result

    def warm_up(self, operations: Operations, file: Path, texts: Sequence[str]) -> None:
        """Let engines meet the length of every text, and everything be compiled that is timed."""
        lengths = {len(self.torch[EAGER].prompt(text)): text for text in texts}
        # First, since larger buffers, as a padded text needs, make TensorRT prepare all again.
        for sides in operations.values():
            for operation in sides.values():
                for _ in range(WARM_UP_RUNS):
                    operation()
        for retriever in self.sdk.values():
            ask = _asking(retriever, file)
            for text in lengths.values():
                for _ in range(WARM_UP_RUNS):
                    ask(text)

    def _check_shapes(self, got: Sequence[NDArray[Any]], expected: Sequence[Tensor]) -> None:
        """Refuse a model of another architecture; without VSI a graph has fewer outputs."""
        for array, tensor in zip(got, expected, strict=False):
            if array.shape != tuple(tensor.shape):
                raise ZtcirError(
                    f"The bundle {self._bundle.path} gives {array.shape} where PyTorch gives "
                    f"{tuple(tensor.shape)}: name the checkpoint that it was exported from."
                )


def _add(operations: Operations, more: Operations) -> None:
    for what, sides in more.items():
        operations.setdefault(what, {}).update(sides)


def _asking(side: Retriever | TorchSearch, file: Path) -> Callable[[str], NDArray[np.float32]]:
    """Encode a picture; return what turns texts on it into query embeddings (D,)."""
    if isinstance(side, Retriever):
        return side.reference(file).encode
    said = side.reference(file)
    return lambda text: side.query(text, said)[0].cpu().numpy()


Said = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]


def _sdk_said(retriever: Retriever, pixels: NDArray[np.float32]) -> Said:
    """Run the image encoder and the token learner: the outputs of each, by name."""
    learner = retriever.encoder.graph("token_learner")
    seen = retriever.encoder.graph("image_encoder").run({"pixel_values": pixels})
    return seen, learner.run({spec.name: seen[spec.name] for spec in learner.inputs})


def _torch_said(
    search: TorchSearch, pixels: NDArray[np.float32]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    seen = search.on_host(search.encode_image, torch.from_numpy(pixels))
    return seen, search.on_host(search.learn_token, *seen)


def _sdk_graphs(
    side: str,
    retriever: Retriever,
    pixels: NDArray[np.float32],
    cut: NDArray[np.int64],
    padded: NDArray[np.int64],
) -> Operations:
    image_encoder, token_learner, text_encoder = (
        retriever.encoder.graph(name) for name in ("image_encoder", "token_learner", "text_encoder")
    )
    seen, said = _sdk_said(retriever, pixels)
    shown = {spec.name: seen[spec.name] for spec in token_learner.inputs}

    def read(ids: NDArray[np.int64]) -> Callable[[], object]:
        given: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "reference_index": np.zeros(1, dtype=np.int64),
            "adapter_scale": np.ones(1, dtype=np.float32),
            **said,
        }
        inputs = {spec.name: given[spec.name] for spec in text_encoder.inputs}
        return lambda: text_encoder.run(inputs)

    return {
        "image_encoder": {side: lambda: image_encoder.run({"pixel_values": pixels})},
        "token_learner": {side: lambda: token_learner.run(shown)},
        "text_encoder": {side: read(cut), f"{side}_padded": read(padded)},
    }


def _torch_graphs(
    side: str,
    search: TorchSearch,
    pixels: NDArray[np.float32],
    cut: NDArray[np.int64],
    padded: NDArray[np.int64],
) -> Operations:
    """Return the same of PyTorch: from the host's memory to the host's memory."""
    run = search.on_host
    seen, said = _torch_said(search, pixels)

    def read(ids: NDArray[np.int64]) -> Callable[[], object]:
        first, scale = torch.zeros(1, dtype=torch.long), torch.ones(1)
        tokens = torch.from_numpy(ids)
        return lambda: run(search.encode_query, tokens, first, scale, *said)

    return {
        "image_encoder": {side: lambda: run(search.encode_image, torch.from_numpy(pixels))},
        "token_learner": {side: lambda: run(search.learn_token, *seen)},
        "text_encoder": {f"{side}_cut": read(cut), side: read(padded)},
    }


def _sdk_queries(
    side: str, retriever: Retriever, files: Sequence[Path], texts: Sequence[str], k: int
) -> Operations:
    """Return whole queries: every run has another text, and a first text another picture."""
    reference = retriever.reference(files[0])
    first, second = _endless(files, texts), itertools.cycle(texts)
    return {
        "first_text": {side: lambda: retriever.search(*next(first), k)},
        "second_text": {side: lambda: reference.search(next(second), k)},
    }


def _torch_queries(
    side: str, search: TorchSearch, files: Sequence[Path], texts: Sequence[str]
) -> Operations:
    said = search.reference(files[0])
    first, second = _endless(files, texts), itertools.cycle(texts)
    return {
        "first_text": {side: lambda: search.first_text(*next(first))},
        "second_text": {side: lambda: search.second_text(next(second), said)},
    }


def _endless(files: Sequence[Path], texts: Sequence[str]) -> Iterator[tuple[Path, str]]:
    return zip(itertools.cycle(files), itertools.cycle(texts), strict=False)
