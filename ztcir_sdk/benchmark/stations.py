"""One query, taken apart: how long each of its stations takes, in the same passes.

A pass does what `Retriever.search` does about a new JPEG file, step by step. The whole is the sum
of its stations, so that a station's share can be read off.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ztcir_sdk.answers import SearchSettings, find_hits
from ztcir_sdk.benchmark.timing import WARM_UP, Timing, measure
from ztcir_sdk.decoding import load_image
from ztcir_sdk.encoder import EncodedImage, Encoder
from ztcir_sdk.index import GalleryIndex
from ztcir_sdk.names import IMAGE_ENCODER, TEXT_ENCODER, TOKEN_LEARNER

__all__ = ["WHOLE", "measure_stations"]

Result = TypeVar("Result")

WHOLE = "whole query"
"""The name beside the stations: their sum."""


class _Stopwatch:
    """Nanoseconds of named stations, pass by pass."""

    def __init__(self) -> None:
        self.passes: list[dict[str, int]] = []

    def __call__(self, station: str, work: Callable[[], Result]) -> Result:
        start = time.perf_counter_ns()
        result = work()
        own = self.passes[-1]
        own[station] = own.get(station, 0) + time.perf_counter_ns() - start
        return result


def measure_stations(
    encoder: Encoder,
    index: GalleryIndex,
    files: Sequence[Path],
    texts: Sequence[str],
    *,
    k: int,
    method: str,
    repeat: int,
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Time the stations of queries about JPEG files, after a few that are not timed.

    Args:
        encoder: what encodes; graphs that its bundle lacks have no station.
        index: an index of its vectors.
        files: JPEG files, used in turn.
        texts: modification texts, used in turn.
        k: number of hits.
        method: search method of the prompts.
        repeat: number of timed passes,
        seconds: within about this time, but a tenth of them at least.

    Returns:
        Station -> its times, as `Timing.to_dict`, and ``a_second``, in the order of a query; then
        `WHOLE`.
    """
    watch = _Stopwatch()
    photos, changes = cycle(files), cycle(texts)

    def query() -> None:
        watch.passes.append({})
        _pass(watch, encoder, index, next(photos), next(changes), k, method)

    measure(query, repeat=repeat, warm_up=WARM_UP, seconds=seconds)
    passes = watch.passes[WARM_UP:]
    durations = {name: [one[name] for one in passes] for name in passes[0]}
    durations[WHOLE] = [sum(one.values()) for one in passes]
    timings = {}
    for name, own in durations.items():
        timing = Timing.of(own)
        timings[name] = {**timing.to_dict(), "a_second": timing.a_second()}
    return timings


def _pass(
    watch: _Stopwatch,
    encoder: Encoder,
    index: GalleryIndex,
    file: Path,
    text: str,
    k: int,
    method: str,
) -> None:
    """Answer one query, station by station."""
    graphs, transform = encoder.bundle.manifest.graphs, encoder.bundle.manifest.preprocessing
    data = watch("read", file.read_bytes)
    image = watch("decode", lambda: load_image(data))
    levels = watch("resize", lambda: np.asarray(transform.fit(image))[None])
    pixels = watch("normalise", lambda: transform.normalised(levels))
    graph = encoder.graph(IMAGE_ENCODER)
    outputs = ["image_embeds", *(["patch_features"] if TOKEN_LEARNER in graphs else [])]
    arrays = watch("image encoder", lambda: graph.run({"pixel_values": pixels}, outputs))
    query = arrays["image_embeds"] / np.linalg.norm(arrays["image_embeds"])
    if TEXT_ENCODER in graphs:
        reference = EncodedImage(query[0], None)
        if TOKEN_LEARNER in graphs:
            learner = encoder.graph(TOKEN_LEARNER)
            given = {"image_embeds": query, "patch_features": arrays["patch_features"]}
            inputs = {spec.name: given[spec.name] for spec in learner.inputs}
            learned = watch("token learner", lambda: learner.run(inputs))
            reference.learned = {name: array[0] for name, array in learned.items()}
        questions = watch("tokenise", lambda: encoder.questions(method, [text]))
        query = watch("text encoder", lambda: encoder.encode_queries(questions, [reference], [0]))
    nothing: dict[str, Any] = {"exclude_labels": [()], "exclude_hashes": [()]}
    settings = SearchSettings()
    [hits] = watch("search", lambda: find_hits(index, query, k, settings, **nothing))
    watch("output", lambda: json.dumps([one.to_dict() for one in hits]))
