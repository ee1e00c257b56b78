"""A warm query, the SDK beside PyTorch eager, in one run: first text and second text on a JPEG.

    python -m benchmarks.warm --photos val-0000.tar

The index has 100 000 vectors spread as CLIP's are, as in `benchmarks.index`; the photos are a
catalogue's, enlarged and with grain. Weights are random, which are as fast as trained ones. PyTorch
runs the same weights in open_clip's modules: its own transform of the whole image, and texts padded
to the whole context.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.comparison import Rounds, add_round_options, compare
from benchmarks.index.growth import clip_like_index
from benchmarks.indexing.photos import SIZES, catalogue_photos, write_photos
from benchmarks.provenance import load_average, provenance
from benchmarks.warm.report import FILE
from cli.output import note, table
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.environment import now
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["main"]

EAGER = "pytorch"
GALLERY = 100_000
PHOTOS = 4
K = 10
MIN_COSINE = {"fp32": 1 - 1e-5, "int8": 0.9}
"""Cosine of a query's vectors in the SDK and in PyTorch, below which nothing is measured. The int8
graphs of random weights passed no gate: they only must not answer another query."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the ratios; return the exit code."""
    parser = command_parser("warm", "Measure warm queries beside PyTorch eager.")
    add = parser.add_argument
    add("--photos", nargs="+", required=True, help="webdataset shards of photos")
    add("--model", default="ViT-B-32", help="backbone, with random weights")
    add("--gallery", type=positive, default=GALLERY, help="vectors of the index")
    add("--threads", type=positive, default=available_cores(), help="threads of all sides")
    add("--folder", type=Path, default=Path("runs/indexing"), help="for photos and bundles")
    add("--out", type=Path, default=RESULTS / FILE, help="result file")
    add_round_options(parser)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from benchmarks.indexing.models import random_bundle

    date, load = now(), load_average()
    folder = options.folder.absolute()
    photos = catalogue_photos(expand_paths(options.photos), PHOTOS)
    files = {
        size: write_photos(photos, folder / f"warm-{size.replace(' ', '')}", SIZES[size], PHOTOS)
        for size in SIZES
    }
    bundle = random_bundle(options.model, folder)
    index = _index(
        bundle, folder / f"warm-{options.model}-clip-like-{options.gallery}.ztcir", options
    )
    length = Rounds.from_options(options)
    models = _measure(bundle, index, files, options, length)
    rows = [
        (f"{one['size']}, {one['what']}", side, f"{ratio['median']:.2f}")
        for one in models["comparisons"]
        for side, ratio in one["ratios"].items()
    ]
    table(("query", "side", f"times {EAGER}"), rows)
    settings = {"rounds": length.rounds, "runs": length.runs, "k": K}
    write_result(
        options.out,
        {
            **provenance(date, options.threads, load),
            "model": options.model,
            "gallery": options.gallery,
            "settings": settings,
            **models,
        },
    )


def _index(bundle: Bundle, path: Path, options: argparse.Namespace) -> Path:
    """Return an index of vectors like CLIP's, made once; one that was interrupted is made again."""
    if (path / "index.json").exists():
        if len(Index.open(path, image_tower=bundle.manifest.image_tower)) == options.gallery:
            return path
        shutil.rmtree(path)
    note(f"Writing an index of {options.gallery} vectors")
    clip_like_index(path, bundle, options.gallery, build_graph=True)
    return path


def _measure(
    bundle: Bundle,
    index: Path,
    files: Mapping[str, Sequence[Path]],
    options: argparse.Namespace,
    length: Rounds,
) -> dict[str, Any]:
    import torch

    from benchmarks.compared.eager import TorchSearch, random_model, torch_threads

    retrievers = {
        precision: Retriever(
            bundle,
            precision=precision,
            device="cpu",
            threads=options.threads,
            reference_cache_mb=0,  # a first text must encode its image
        )
        for precision in bundle.precisions
    }
    for retriever in retrievers.values():
        retriever.open_index(index)
    encoder = retrievers["fp32"].encoder
    texts = [query.text for query in demo_queries(demo_gallery(), 120)]

    def prompt(text: str) -> list[int]:
        return (encoder.questions("composed", [text]).prompts or [])[0]

    vectors = Index.open(index, image_tower=bundle.manifest.image_tower).vectors()
    with (
        random_model(options.model) as model,
        torch_threads(options.threads),
        torch.inference_mode(),
    ):
        eager = TorchSearch(model, prompt, vectors, K)
        cosines = _agreement(retrievers, eager, files["900x1200"][0], texts[:5])
        comparisons = []
        for size, own in files.items():
            for what, operations in _operations(retrievers, eager, own, texts).items():
                note(f"{size}, {what}")
                found = compare(operations, baseline=EAGER, length=length).to_dict()
                comparisons.append({"size": size, "what": what, **found})
    return {
        "tokens": {"cut": len(prompt(texts[0])), "padded": eager.context_length},
        "cosine_to_pytorch": cosines,
        "comparisons": comparisons,
    }


def _operations(
    retrievers: Mapping[str, Retriever], eager: Any, files: Sequence[Path], texts: Sequence[str]
) -> dict[str, dict[str, Callable[[], object]]]:
    """Return the queries of each kind, by side; photos and texts take turns."""
    photos, changes = cycle(files), cycle(texts)
    references = {name: one.reference(files[0]) for name, one in retrievers.items()}
    tensors = eager.reference(files[0])
    first: dict[str, Callable[[], object]] = {
        EAGER: lambda: eager.first_text(next(photos), next(changes))
    }
    second: dict[str, Callable[[], object]] = {
        EAGER: lambda: eager.second_text(next(changes), tensors)
    }
    for name, one in retrievers.items():
        first[name] = lambda one=one: one.search(  # type: ignore[misc]
            next(photos), next(changes), K, method="composed"
        )
        second[name] = lambda own=references[name]: own.search(  # type: ignore[misc]
            next(changes), K, method="composed"
        )
        references[name].search(texts[0], K, method="composed")  # the token learner runs once
    return {"first text": first, "second text": second}


def _agreement(
    retrievers: Mapping[str, Retriever], eager: Any, file: Path, texts: Sequence[str]
) -> dict[str, float]:
    """Return the least cosine of each precision's queries and PyTorch's.

    Raises:
        ZtcirError: a side answers another query.
    """
    tensors = eager.reference(file)
    wanted = np.concatenate([eager.query(text, tensors).numpy() for text in texts])
    cosines = {}
    for name, one in retrievers.items():
        reference = one.reference(file)
        found = one.encode_queries([reference], texts, [0] * len(texts), method="composed")
        cosines[name] = round(float((found * wanted).sum(axis=1).min()), 6)
        if not cosines[name] >= MIN_COSINE[name]:
            raise ZtcirError(
                f"The bundle in {name} and PyTorch differ (cosine {cosines[name]}), so their times "
                "cannot be compared: remove the bundle of --folder, so that it is exported again."
            )
    return cosines


if __name__ == "__main__":
    sys.exit(main())
