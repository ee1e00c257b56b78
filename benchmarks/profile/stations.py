"""One query, taken apart: run as a process of its own, it prints milliseconds by station as JSON.

    python -m benchmarks.profile.stations BUNDLE PRECISION DEVICE PHOTO INDEX

A cold command is the first pass of a fresh process; a warm query is the median of later ones.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

WARM_QUERIES = 15
TEXT = "make it red"
K = 10


class Stopwatch:
    """Milliseconds of named stations, in the order of their first run.

    Attributes:
        passes: the times of each pass.
    """

    def __init__(self) -> None:
        self.passes: list[dict[str, float]] = []

    def start(self) -> None:
        """Begin a pass."""
        self.passes.append({})

    def __call__(self, station: str, work: Callable[[], Result]) -> Result:
        """Do the work of a station and add its time."""
        start = time.perf_counter()
        result = work()
        spent = 1e3 * (time.perf_counter() - start)
        self.passes[-1][station] = self.passes[-1].get(station, 0.0) + spent
        return result


def main(arguments: list[str]) -> None:
    """Answer one query cold and several warm, and print the stations."""
    folder, precision, device, photo, index_folder = arguments
    watch = Stopwatch()
    watch.start()
    modules = watch("import", _import)
    bundle = watch("open bundle", lambda: modules["Bundle"].load(folder))
    settings = modules["RuntimeSettings"](backend="onnx", device=device)
    encoder = modules["Encoder"](bundle, precision=precision, settings=settings)
    watch("load tokenizer", lambda: encoder.tokenizer)
    for graph in bundle.manifest.graphs:
        watch(f"load {graph}", lambda graph=graph: encoder.graph(graph))  # type: ignore[misc]
    index = watch("open index", lambda: modules["Index"].open(index_folder, image_tower=None))
    _query(watch, modules, encoder, index, photo)
    for _ in range(WARM_QUERIES):
        watch.start()
        _query(watch, modules, encoder, index, photo)
    print(json.dumps(watch.passes))


def _import() -> dict[str, Any]:
    import numpy as np
    import PIL.Image

    from ztcir_sdk.answers import SearchSettings, find_hits
    from ztcir_sdk.bundle import Bundle
    from ztcir_sdk.decoding import load_image
    from ztcir_sdk.encoder import EncodedImage, Encoder
    from ztcir_sdk.index import Index
    from ztcir_sdk.runtime import RuntimeSettings
    from ztcir_sdk.runtime.onnx.graph import import_onnxruntime

    import_onnxruntime()
    del PIL
    return {
        **{"np": np, "Bundle": Bundle, "Encoder": Encoder, "EncodedImage": EncodedImage},
        **{"SearchSettings": SearchSettings, "find_hits": find_hits},
        **{"Index": Index, "RuntimeSettings": RuntimeSettings, "load_image": load_image},
    }


def _query(watch: Stopwatch, modules: dict[str, Any], encoder: Any, index: Any, photo: str) -> None:
    """Answer one query as `Retriever.search` does, station by station."""
    from pathlib import Path

    np, manifest = modules["np"], encoder.bundle.manifest
    data = watch("read", Path(photo).read_bytes)
    image = watch("decode", lambda: modules["load_image"](data))
    fitted = watch("resize", lambda: np.asarray(manifest.preprocessing.fit(image)))
    pixels = watch("normalise", lambda: manifest.preprocessing.normalised(fitted[None]))
    graph = encoder.graph("image_encoder")
    outputs = [spec.name for spec in graph.outputs]
    arrays = watch("image graph", lambda: graph.run({"pixel_values": pixels}, outputs))
    vector = arrays["image_embeds"][0] / np.linalg.norm(arrays["image_embeds"][0])
    reference = modules["EncodedImage"](vector, arrays["patch_features"][0])
    watch("token learner", lambda: encoder._token_learner_outputs([reference]))
    questions = watch("tokenise", lambda: encoder.questions("composed", [TEXT]))
    query = watch("text graph", lambda: encoder.encode_queries(questions, [reference], [0]))
    nothing: dict[str, Any] = {"exclude_labels": [()], "exclude_hashes": [()]}
    settings = modules["SearchSettings"]()
    [hits] = watch("index", lambda: modules["find_hits"](index, query, K, settings, **nothing))
    watch("output", lambda: json.dumps([one.to_dict() for one in hits]))


if __name__ == "__main__":
    main(sys.argv[1:])
