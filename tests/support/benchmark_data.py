"""Small data sets in the published layouts, and an encoder whose vectors a test chooses."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from cli.main import main
from ztcir_sdk.encoder import EncodedImage, Questions
from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark
from ztcir_sdk.evaluation.benchmarks.embedding_cache import EmbeddingCache
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method

Array = NDArray[np.float32]
COMPOSED = Method("composed", "a photo of $ that {text}")


def png(colour: Sequence[int]) -> bytes:
    """An image of 2 x 2 pixels, encoded here, since thousands are needed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * 2) * 2
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def colour_of(name: str) -> tuple[int, int, int]:
    """A colour for each name."""
    digest = hashlib.sha256(name.encode()).digest()
    return digest[0], digest[1], digest[2]


def write_images(folder: Path, names: Iterable[str], suffix: str = ".png") -> None:
    """Write an image of its own colour for each name, with the suffix of a data set.

    All are PNG files: readers go by a file's first bytes, not by its suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(png(colour_of(name)))


def delete(*files: Path) -> None:
    """Delete files."""
    for file in files:
        file.unlink()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def link(target: Path, at: Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(target)


class PlannedEncoder:
    """Replaces `ztcir_sdk.encoder.Encoder` with vectors that a test chooses.

    An image's vector depends on its colour, a query's on its text. Encoded images are counted.
    """

    dim = 2
    image_tower = "ab" * 32
    precision = "fp32"
    precisions: Mapping[str, str] = {"image_encoder": "fp32"}

    def __init__(
        self, images: Mapping[str, Sequence[float]], queries: Mapping[str, Sequence[float]]
    ) -> None:
        self.bundle = SimpleNamespace(
            fingerprint="planned", manifest=SimpleNamespace(prompts={"mapped": "a photo of $"})
        )
        self._images = {colour_of(name): _unit(vector) for name, vector in images.items()}
        self._queries = {text: _unit(vector) for text, vector in queries.items()}
        self._asked: Sequence[str] = ()
        self.encoded = 0
        """Number of encoded images."""

    def encode_images(self, images: Sequence[Any]) -> Array:
        self.encoded += len(images)
        return np.array([self._images[image.getpixel((0, 0))] for image in images])

    def encode_references(self, images: Sequence[Any]) -> list[EncodedImage]:
        return [EncodedImage(vector, None) for vector in self.encode_images(images)]

    def questions(
        self, method: str, texts: Sequence[str], *, weight: Any = None, prompt: Any = None
    ) -> Questions:
        self._asked = texts
        return Questions(method, len(texts), None, 0.5)

    def encode_queries(
        self, questions: Questions, references: Sequence[EncodedImage], index: Sequence[int]
    ) -> Array:
        if questions.method in ("image", "mapped"):
            return np.array([references[row].embedding for row in index], dtype=np.float32)
        return np.array([self._queries[text] for text in self._asked], dtype=np.float32)


def planned_run(
    cache: Path, images: Mapping[str, Sequence[float]], queries: Mapping[str, Sequence[float]]
) -> EmbeddingRun:
    """A run with chosen vectors and a cache of its own."""
    encoder = PlannedEncoder(images, queries)
    return EmbeddingRun(
        encoder,  # type: ignore[arg-type]
        EmbeddingCache(cache, image_tower=encoder.image_tower, precision="fp32", dim=2),
        "planned",
    )


def _unit(vector: Sequence[float]) -> Array:
    row = np.array(vector, dtype=np.float64)
    return (row / np.linalg.norm(row)).astype(np.float32)


def at(degrees: float) -> tuple[float, float]:
    """A direction in the plane: the smaller the angle between two, the higher their similarity."""
    return float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))


def run_cli(
    benchmark: str, root: Path, bundle: Path, cache: Path, *options: object, exit_code: int = 0
) -> Result:
    """Run ``ztcir eval`` in this process."""
    arguments = ["eval", benchmark, "--root", root, "--bundle", bundle, "--cache", cache]
    arguments += ["--threads", 1, *options]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts longer than the tiny tokenizer accepts
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result


def measure_twice(benchmark: str, root: Path, bundle: Path, caches: Path) -> dict[str, Any]:
    """Require the same numbers from two fresh caches and from one of them again."""
    first, again, cached = (
        json.loads(run_cli(benchmark, root, bundle, caches / cache, "--json").stdout)
        for cache in ("one", "two", "one")
    )
    assert first["methods"] == again["methods"] == cached["methods"]
    result: dict[str, Any] = first
    return result


def assert_refused_before_encoding(
    benchmark: Benchmark[Any],
    root: Path,
    cache: Path,
    kind: type[Exception],
    message: str,
) -> None:
    """Require an error about a data set before any image is encoded."""
    run = planned_run(cache, {}, {})
    with pytest.raises(kind, match=message) as caught:
        benchmark.evaluate(run, root, [COMPOSED])
    assert str(caught.value).endswith(".")
    assert run.encoder.encoded == 0  # type: ignore[attr-defined]


def edit_json(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return a function that changes the content of a JSON file in a data set."""

    def apply(root: Path) -> None:
        value = json.loads((root / file).read_text())
        (root / file).write_text(json.dumps(change(value)))

    return apply


def without(*names: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return a function that removes fields from all records."""
    return lambda records: [{k: v for k, v in one.items() if k not in names} for one in records]


def changed(root: Path, to: Path, change: Callable[[Path], object]) -> Path:
    """Copy a data set and change the copy."""
    shutil.copytree(root, to)
    change(to)
    return to
