"""Pictures a second from JPEG files to vectors: the SDK beside open_clip, in one run.

    python -m benchmarks.indexing --photos 'val-{0000..0001}.tar' --size 900x1200
    python -m benchmarks.indexing --photos 'val-{0000..0001}.tar' --size '12 MP' --files 96
    python -m benchmarks.indexing --photos 'val-{0000..0001}.tar' --parts decoders tolerance

The photos are a catalogue's, enlarged, with grain. Weights are random but for the default bundle's.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.comparison import Ratio, Rounds
from benchmarks.indexing.photos import SIZES, catalogue_photos, write_photos
from benchmarks.provenance import load_average, provenance
from cli.output import note, table
from export.speed import in_turns
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.environment import installed, now
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["main"]

PARTS = ("speed", "decoders", "tolerance")
LOADER = "open_clip, DataLoader"
DISTRIBUTIONS = ("simplejpeg", "pyvips", "av")
TOLERANCE_PHOTOS = 200
DECODED = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write result files; return the exit code."""
    parser = command_parser("indexing", "Measure how fast JPEG files are indexed.")
    add = parser.add_argument
    add("--photos", nargs="+", required=True, help="webdataset shards of photos")
    add("--parts", nargs="+", choices=PARTS, default=["speed"], help="what to measure")
    add("--size", choices=SIZES, default="900x1200", help="size of the JPEG files")
    add("--files", type=positive, default=256, help="JPEG files of a run")
    add("--model", default="ViT-B-32", help="backbone of the comparison with PyTorch")
    add("--threads", type=positive, default=available_cores(), help="threads of all sides")
    add("--folder", type=Path, default=Path("runs/indexing"), help="for photos and bundles")
    add("--out", type=Path, help="result file; default: named after the size")
    add("--rounds", type=positive, default=3, help="timed rounds")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    shards = expand_paths(options.photos)
    values: dict[str, Any] = {}
    if "speed" in options.parts:
        values = _speed(options, shards)
    if "decoders" in options.parts:
        values["decoders"] = _decoders(options, shards)
    if "tolerance" in options.parts:
        values["tolerance"] = _tolerance(shards)
    found = provenance(date, options.threads, load)
    found["versions"] |= {name: installed(name) for name in DISTRIBUTIONS}
    name = options.size.replace(" ", "") if "speed" in options.parts else "decoding"
    write_result(options.out or RESULTS / f"indexing-{name}.json", {**found, **values})


def _speed(options: argparse.Namespace, shards: Sequence[Path]) -> dict[str, Any]:
    """Compare whole ways from files to vectors, and the encoders alone."""
    from benchmarks.compared.eager import torch_threads
    from benchmarks.indexing.models import random_bundle
    from benchmarks.indexing.sides import PyTorchSides, encoder_alone, index_files, torch_encoder

    photos = catalogue_photos(shards, min(options.files, 60))
    folder = options.folder.absolute() / f"{options.size.replace(' ', '')}-{options.files}"
    files = write_photos(photos, folder, SIZES[options.size], options.files)
    model = random_bundle(options.model, options.folder.absolute())
    default = Bundle.embedded()
    operations: dict[str, Callable[[], object]] = {}
    with contextlib.ExitStack() as stack, torch_threads(options.threads):
        scratch = stack.enter_context(_scratch())
        torch_side = PyTorchSides(options.model)
        operations["open_clip, loop"] = lambda: torch_side.loop(files)
        operations[LOADER] = lambda: torch_side.loader(files)
        size = model.manifest.preprocessing.image_size
        operations["open_clip, encoder alone"] = torch_encoder(torch_side, size, len(files), 32)
        for bundle, precisions in ((model, model.precisions), (default, default.precisions)):
            for precision in precisions:
                keywords = {"precision": precision, "threads": options.threads, "device": "cpu"}
                retriever = Retriever(bundle, **keywords)
                name = f"ztcir, {bundle.name} {precision}"
                operations[name] = index_files(retriever, folder, scratch)
                operations[f"{name}, encoder alone"] = stack.enter_context(
                    encoder_alone(bundle, precision, options.threads, len(files))
                )
        note(f"{options.size}: {len(operations)} sides")
        seconds = in_turns(operations, options.rounds, untimed=1)
    rates = {name: round(len(files) / float(np.median(own)), 2) for name, own in seconds.items()}
    ratios = {
        name: Ratio.of([a / b for a, b in zip(seconds[LOADER], own, strict=True)]).to_dict()
        for name, own in seconds.items()
    }
    rows = [(name, f"{rate:.1f}", f"{ratios[name]['median']:.2f}") for name, rate in rates.items()]
    table(("side", "pictures a second", f"times {LOADER}"), rows)
    return {
        "size": options.size,
        "files": len(files),
        "bytes_a_file": sum(file.stat().st_size for file in files) // len(files),
        "model": options.model,
        "pictures_a_second": rates,
        "baseline": LOADER,
        "ratios": ratios,
        "reached": _reached(seconds, options.model),
    }


def _reached(seconds: Mapping[str, list[float]], model: str) -> dict[str, Any]:
    """Return how much of its encoder's speed each index reaches, and others' speed beside it."""
    default = Bundle.embedded().name
    pairs = {
        f"{name} / its encoder alone": (name, f"{name}, encoder alone")
        for name in (f"ztcir, {model} fp32", f"ztcir, {model} int8")
    }
    pairs |= {
        f"{name} / its encoder alone": (name, f"{name}, encoder alone")
        for name in (f"ztcir, {default} fp32", f"ztcir, {default} int8")
    }
    encoders = [f"ztcir, {model} fp32, encoder alone", "open_clip, encoder alone"]
    pairs["encoder alone, ztcir fp32 / open_clip"] = (encoders[0], encoders[1])
    return {
        what: Ratio.of([b / a for a, b in zip(seconds[one], seconds[other], strict=True)]).to_dict()
        for what, (one, other) in pairs.items()
        if one in seconds
    }


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ztcir-indexing-") as folder:
        yield Path(folder)


def _decoders(options: argparse.Namespace, shards: Sequence[Path]) -> dict[str, Any]:
    from benchmarks.indexing.decoders import measure_decoders

    photos = catalogue_photos(shards, DECODED)
    length = Rounds(options.rounds, 1, 60.0)
    return {name: measure_decoders(photos, SIZES[name], DECODED, length) for name in SIZES}


def _tolerance(shards: Sequence[Path]) -> dict[str, Any]:
    from benchmarks.indexing.decoders import measure_tolerance

    retriever = Retriever.from_pretrained(device="cpu", precision="fp32")
    return measure_tolerance(retriever.encoder, catalogue_photos(shards, TOLERANCE_PHOTOS))


if __name__ == "__main__":
    sys.exit(main())
