"""One configuration of a bundle on this machine, measured.

Times what a user waits for: the run of a graph, a query from a JPEG and a text to the hits, whole
and station by station, and the indexing of a folder. Images are drawn, and the gallery's vectors
are random.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.benchmark.inputs import draw_photos, random_index
from ztcir_sdk.benchmark.memory import forget_peak, peak_mb, resident_mb
from ztcir_sdk.benchmark.stations import measure_stations
from ztcir_sdk.benchmark.timing import WARM_UP, measure
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.environment import describe_machine, now, versions
from ztcir_sdk.names import IMAGE_ENCODER, TEXT_ENCODER, TOKEN_LEARNER
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.settings import EngineOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["BenchmarkSettings", "benchmark"]

_NO_LIMIT = 1 << 31  # images of a batch


@dataclass(frozen=True)
class BenchmarkSettings:
    """Sizes of a benchmark."""

    repeat: int = 200
    """Runs of each measurement,"""
    seconds: float = 5.0
    """within about this time."""
    image_batches: tuple[int, ...] = (1, 8, 32)
    reference_batches: tuple[int, ...] = (1, 8)
    text_shapes: tuple[tuple[int, int], ...] = ((1, 8), (1, 16), (1, 32), (1, 77), (16, 16))
    """Texts and tokens of each batch. All batches are limited to what the graphs take."""
    gallery: int = 10_000
    """Random vectors in the index that whole queries search."""
    pictures: int = 200
    """Drawn JPEGs, which are indexed and are the references of whole queries."""
    k: int = 10


def benchmark(
    bundle: Bundle,
    *,
    settings: BenchmarkSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Unpack[EngineOptions],
) -> dict[str, Any]:
    """Measure a bundle: each graph, whole queries, and indexing.

    Args:
        bundle: the bundle to measure.
        settings: sizes of the benchmark.
        progress: called with a title, the number of measurements done, and of all.
        **options: how the graphs are run; see `Retriever`.

    Returns:
        JSON values: times in milliseconds, with the machine, versions, date and threads; with ONNX
        Runtime on a GPU also the number of nodes of each graph by provider. ``memory`` is what the
        loaded graphs take and the most that the process had, in MB, or None where the system does
        not say it; ``a_second`` is how many images, texts or queries one caller gets.

    Raises:
        ZtcirError: the bundle cannot run on the device.
    """
    settings = settings or BenchmarkSettings()
    steps = _Steps(settings, progress)
    forget_peak()
    before = resident_mb()
    start = time.perf_counter_ns()
    # without a cache, since the first text of a query is about a new image
    retriever = Retriever(bundle, **options, reference_cache_mb=0)
    encoder = retriever.encoder
    names = list(bundle.manifest.graphs)
    providers = {name: encoder.graph(name).provider for name in names}
    nodes = {
        name: dict(own) for name in names if (own := getattr(encoder.graph(name), "nodes", {}))
    }
    load_ms = (time.perf_counter_ns() - start) / 1e6
    loaded = resident_mb()
    with tempfile.TemporaryDirectory(prefix="ztcir-bench-") as scratch:
        folder = Path(scratch)
        photos = folder / "photos"
        photos.mkdir()
        files = draw_photos(photos, settings.pictures)
        graphs = _measure_graphs(encoder, files, steps)
        query, stations = _measure_queries(retriever, folder, files, steps)
        steps.report_progress()
        report = retriever.index(photos, to=folder / "photos.ztcir")
        indexing = {
            "pictures": report.total,
            "seconds": round(report.seconds, 3),
            "pictures_per_second": round(report.total / report.seconds, 1),
        }
        steps.report_progress()
    grown = None if before is None or loaded is None else round(loaded - before, 1)
    return {
        "date": now(),
        "machine": describe_machine(),
        "versions": versions(),
        "bundle": {"name": bundle.name, "fingerprint": bundle.fingerprint},
        "device": encoder.device,
        "backend": encoder.settings.backend,
        "providers": providers,
        **({"nodes": nodes} if nodes else {}),
        "precision": encoder.precision,
        "precisions": encoder.precisions,
        "threads": encoder.settings.threads_in_use,
        "repeat": settings.repeat,
        "warm_up": WARM_UP,
        "load_ms": round(load_ms, 1),
        "memory": {"graphs_mb": grown, "peak_mb": peak_mb()},
        "graphs": graphs,
        "stations": stations,
        "query": query,
        "indexing": indexing,
    }


class _Steps:
    """Measures one operation after another, and reports progress."""

    def __init__(
        self, settings: BenchmarkSettings, progress: Callable[[str, int, int], None] | None
    ) -> None:
        self.settings = settings
        self._progress = progress
        self._done = -1
        self._total = (
            len(settings.image_batches)
            + len(settings.reference_batches)
            + len(settings.text_shapes)
            + 5
        )

    def report_progress(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress("Measuring", min(self._done, self._total), self._total)

    def measure(self, operation: Callable[[], object], items: int = 1) -> dict[str, Any]:
        """Time an operation on `items` images, texts or queries."""
        self.report_progress()
        settings = self.settings
        timing = measure(operation, repeat=settings.repeat, seconds=settings.seconds)
        return {**timing.to_dict(), "a_second": timing.a_second(items)}


def _measure_graphs(
    encoder: Encoder, files: Sequence[Path], steps: _Steps
) -> dict[str, list[dict[str, Any]]]:
    """Time each graph alone, on the inputs of a query."""
    settings, manifest = steps.settings, encoder.bundle.manifest
    limit = encoder.graph(IMAGE_ENCODER).limits.get("R", _NO_LIMIT)  # only an engine has one
    image_batches = _within(settings.image_batches, limit)
    reference_batches = _within(settings.reference_batches, limit)
    largest = max((1, *image_batches, *reference_batches))
    pixels = manifest.preprocessing([files[i % len(files)] for i in range(largest)])
    graphs = {IMAGE_ENCODER: _time_image_encoder(encoder, pixels, image_batches, steps)}
    learned: dict[str, NDArray[Any]] = {}
    if TOKEN_LEARNER in manifest.graphs:
        graphs[TOKEN_LEARNER], learned = _time_token_learner(
            encoder, pixels, reference_batches, steps
        )
    if TEXT_ENCODER in manifest.graphs:
        graphs[TEXT_ENCODER] = _time_text_encoder(encoder, learned, steps)
    return graphs


def _time_image_encoder(
    encoder: Encoder, pixels: NDArray[np.float32], batches: Sequence[int], steps: _Steps
) -> list[dict[str, Any]]:
    run = encoder.graph(IMAGE_ENCODER).run
    return [
        {
            "images": batch,
            **steps.measure(
                partial(run, {"pixel_values": pixels[:batch]}, ["image_embeds"]), batch
            ),
        }
        for batch in batches
    ]


def _time_token_learner(
    encoder: Encoder, pixels: NDArray[np.float32], batches: Sequence[int], steps: _Steps
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Return the timings, and the outputs for one image."""
    learner = encoder.graph(TOKEN_LEARNER)
    names = [spec.name for spec in learner.inputs]
    features = encoder.graph(IMAGE_ENCODER).run({"pixel_values": pixels}, names)

    def run(batch: int) -> dict[str, NDArray[Any]]:
        return learner.run({name: features[name][:batch] for name in names})

    timings = [
        {"references": batch, **steps.measure(partial(run, batch), batch)}
        for batch in _within(batches, learner.limits.get("R", _NO_LIMIT))
    ]
    return timings, run(1)


def _time_text_encoder(
    encoder: Encoder, learned: dict[str, NDArray[Any]], steps: _Steps
) -> list[dict[str, Any]]:
    text, graph = encoder.bundle.manifest.text, encoder.graph(TEXT_ENCODER)
    longest = min(text.context_length, graph.limits.get("T", _NO_LIMIT))
    most = graph.limits.get("B", _NO_LIMIT)
    timings = []
    for texts, tokens in _shapes(steps.settings.text_shapes, most, longest):
        ids = _input_ids(encoder, texts, text.pad_to or tokens)
        tensors: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "reference_index": np.zeros(texts, dtype=np.int64),
            "adapter_scale": np.ones(texts, dtype=np.float32),
            **learned,
        }
        inputs = {spec.name: tensors[spec.name] for spec in graph.inputs}
        timing = steps.measure(partial(graph.run, inputs), texts)
        timings.append({"texts": texts, "tokens": ids.shape[1], **timing})
    return timings


def _within(batches: Sequence[int], most: int) -> list[int]:
    """Return batch sizes limited to `most`, each once."""
    return list(dict.fromkeys(min(batch, most) for batch in batches))


def _shapes(shapes: Sequence[tuple[int, int]], texts: int, tokens: int) -> list[tuple[int, int]]:
    """Return numbers of texts and tokens limited to `texts` and `tokens`, each pair once."""
    return list(dict.fromkeys((min(one, texts), min(length, tokens)) for one, length in shapes))


def _input_ids(encoder: Encoder, texts: int, tokens: int) -> NDArray[np.int64]:
    """Return prompts of start (if any), placeholder, words and end: (texts, tokens) int64."""
    tokenizer = encoder.tokenizer
    placeholder = encoder.bundle.manifest.placeholder
    start = [] if tokenizer.sot is None else [tokenizer.sot]
    words = tokenizer.encode("a red cotton shirt with long sleeves")
    ids = np.resize(np.array(words[len(start) : -1], dtype=np.int64), (texts, tokens))
    ids[:, : len(start)], ids[:, -1] = start, tokenizer.eot
    if TOKEN_LEARNER in encoder.bundle.manifest.graphs:
        ids[:, len(start) : len(start) + placeholder.tokens] = placeholder.id
    return ids


def _measure_queries(
    retriever: Retriever, folder: Path, files: Sequence[Path], steps: _Steps
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Time whole queries, a JPEG and a text in, hits out; and the stations of the first text."""
    settings = steps.settings
    index = random_index(retriever, folder / "random.ztcir", settings.gallery)
    retriever.open_index(index)
    methods, method = retriever.bundle.methods, retriever.bundle.default_method
    method = method if method in methods else methods[0]
    texts = [query.text for query in demo_queries(demo_gallery(), 120)]
    paths, changes = cycle(files), cycle(texts)
    k = settings.k
    first = steps.measure(lambda: retriever.search(next(paths), next(changes), k, method=method))
    reference = retriever.reference(files[0])
    second = steps.measure(lambda: reference.search(next(changes), k, method=method))
    steps.report_progress()
    assert retriever.current_index is not None
    stations = measure_stations(
        retriever.encoder,
        retriever.current_index,
        files,
        texts,
        k=k,
        method=method,
        repeat=settings.repeat,
        seconds=settings.seconds,
    )
    values = {
        "index": settings.gallery,
        "k": k,
        "method": method,
        "first_text": first,
        "second_text": second,
    }
    return values, stations
