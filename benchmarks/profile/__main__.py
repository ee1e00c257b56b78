"""Where time goes, station by station, beside the least that arithmetic and memory allow.

    python -m benchmarks.profile --photos 'val-0000.tar' --models fashion-lite ViT-B-32
    python -m benchmarks.profile --photos 'val-0000.tar' --devices cpu openvino

A cold command runs in a fresh process, several times; a warm query in the same process; indexing on
one core, image by image. Times are medians. ViT weights are random.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.indexing.photos import SIZES, catalogue_photos, write_photos
from benchmarks.profile.floors import Rates, graph_work, measure_rates
from benchmarks.provenance import ROOT, load_average, provenance
from cli.output import note, table
from ztcir_sdk.benchmark import random_index
from ztcir_sdk.bundle import DEFAULT_BUNDLE, Bundle
from ztcir_sdk.encoder import bulk_images
from ztcir_sdk.environment import now
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index import Index
from ztcir_sdk.names import IMAGE_ENCODER, TEXT_ENCODER, TOKEN_LEARNER
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["main"]

MODELS = (DEFAULT_BUNDLE, "ViT-B-32", "ViT-L-14")
GALLERY = 10_000
TOKENS = 12
GRAPHS = {"image graph": IMAGE_ENCODER, "token learner": TOKEN_LEARNER, "text graph": TEXT_ENCODER}
PHOTOS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the stations; return the exit code."""
    parser = command_parser("profile", "Measure where time goes, station by station.")
    add = parser.add_argument
    add("--photos", nargs="+", required=True, help="webdataset shards of photos")
    add("--models", nargs="+", default=MODELS, help="bundle and backbones")
    add("--devices", nargs="+", default=["cpu"], help="cpu, openvino or others, side by side")
    add("--size", choices=SIZES, default="900x1200", help="size of the JPEG files")
    add("--repeat", type=positive, default=3, help="cold processes")
    add("--folder", type=Path, default=Path("runs/indexing"), help="for photos and bundles")
    add("--out", type=Path, help="result file; if None, profile.json, with devices but cpu in it")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date, load, threads = now(), load_average(), available_cores()
    photos = catalogue_photos(expand_paths(options.photos), PHOTOS)
    folder = options.folder.absolute()
    place = folder / f"profile-{options.size.replace(' ', '')}"
    files = write_photos(photos, place, SIZES[options.size], PHOTOS)
    with tempfile.TemporaryDirectory(prefix="ztcir-profile-") as scratch:
        rates = measure_rates(Path(scratch), threads)
        note(f"{rates.fp32 / 1e9:.0f} GFLOP/s in fp32, {rates.bandwidth / 1e9:.1f} GB/s")
        models = [
            _measure(_bundle(name, folder), run, files, Path(scratch), rates, options.repeat)
            for name in options.models
            for run in itertools.product(_bundle(name, folder).precisions, options.devices)
            if run[0] != "int8" or run[1] == "cpu"  # elsewhere int8 does not run
        ]
    for model in models:
        for what in ("cold", "warm", "indexing"):
            note(f"{model['name']} {model['precision']} {model['device']}, {what}")
            rows = [
                (
                    name,
                    f"{one['ms']:.2f}",
                    "" if one["floor_ms"] is None else f"{one['floor_ms']:.2f}",
                )
                for name, one in model[what].items()
            ]
            table(("station", "ms", "floor, ms"), rows)
    measured = {"fp32_gflops": rates.fp32 / 1e9, "int8_gops": rates.int8 / 1e9}
    others = "".join(f"-{device}" for device in options.devices if device != "cpu")
    write_result(
        options.out or RESULTS / f"profile{others.replace(':', '')}.json",
        {
            **provenance(date, threads, load),
            "size": options.size,
            "gallery": GALLERY,
            "rates": {
                **{name: round(value, 1) for name, value in measured.items()},
                "bandwidth_gb": round(rates.bandwidth / 1e9, 2),
            },
            "models": models,
        },
    )


def _bundle(name: str, folder: Path) -> Bundle:
    if name == DEFAULT_BUNDLE:
        return Bundle.embedded()
    from benchmarks.indexing.models import random_bundle

    return random_bundle(name, folder)


def _measure(
    bundle: Bundle,
    run: tuple[str, str],
    files: list[Path],
    scratch: Path,
    rates: Rates,
    repeat: int,
) -> dict[str, Any]:
    precision, device = run
    note(f"{bundle.name} {precision} {device}")
    retriever = Retriever(bundle, precision=precision, device=device)
    index = random_index(retriever, scratch / f"{bundle.name}-{precision}-{device}.ztcir", GALLERY)
    del retriever
    floors = _query_floors(bundle, precision, files[0], rates)
    passes = [_process(bundle, run, files[i % len(files)], index) for i in range(repeat)]
    cold = _medians([one[0] for one in passes])
    warm = _medians([each for one in passes for each in one[1:]])
    return {
        "name": bundle.name,
        "precision": precision,
        "device": device,
        "cold": {name: _entry(ms, floors.get(name)) for name, ms in cold.items()},
        "warm": {name: _entry(ms, floors.get(name)) for name, ms in warm.items()},
        "indexing": _indexing(bundle, run, files, rates),
    }


def _process(
    bundle: Bundle, run: tuple[str, str], photo: Path, index: Path
) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.profile.stations"]
    arguments = [str(bundle.path), *run, str(photo), str(index)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ZtcirError(f"The profiled process failed: {done.stderr.strip()[-400:]}")
    passes: list[dict[str, float]] = json.loads(done.stdout)
    return passes


def _medians(passes: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([one[name] for one in passes])) for name in passes[0]}


def _entry(ms: float, floor: float | None) -> dict[str, float | None]:
    return {"ms": round(ms, 3), "floor_ms": None if floor is None else round(floor, 4)}


def _query_floors(bundle: Bundle, precision: str, photo: Path, rates: Rates) -> dict[str, float]:
    """Return station -> the least milliseconds, for the stations of one query."""
    floors = _picture_floors(bundle, photo, rates)
    for station, graph in GRAPHS.items():
        sizes = {"R": 1, "B": 1, "T": TOKENS}
        operations, _ = graph_work(bundle.file(bundle.variant(graph, "fp32")), sizes)
        variant = bundle.variant(graph, precision)
        moved = float(bundle.manifest.files[variant.file].bytes)
        if graph == TEXT_ENCODER:  # only some rows of the token table are read
            moved = 0.0
        floors[station] = rates.floor_ms(operations, moved, variant.precision)
        floors[f"load {graph}"] = rates.floor_ms(
            0, bundle.manifest.files[variant.file].bytes, "fp32"
        )
    whole = sum(record.bytes for record in bundle.manifest.files.values())
    floors["open bundle"] = rates.floor_ms(0, whole, "fp32")
    floors["index"] = rates.floor_ms(0, 4 * GALLERY * bundle.manifest.dimensions.embed, "fp32")
    return floors


def _picture_floors(bundle: Bundle, photo: Path, rates: Rates) -> dict[str, float]:
    """Return the least milliseconds of what happens to one picture: its bytes, moved once."""
    from PIL import Image

    with Image.open(photo) as header:
        pixels = 3 * header.width * header.height
    height, width = bundle.manifest.preprocessing.image_size
    moved = {
        "read": photo.stat().st_size,
        "decode": photo.stat().st_size + pixels,
        "resize": pixels + 3 * height * width,
        "normalise": 15 * height * width,
    }
    return {name: rates.floor_ms(0, count, "fp32") for name, count in moved.items()}


def _indexing(
    bundle: Bundle, run: tuple[str, str], files: list[Path], rates: Rates
) -> dict[str, dict[str, float | None]]:
    """Return the stations of one picture of an index, each on one core."""
    from hashlib import sha256

    from ztcir_sdk.decoding import load_scaled

    transform, (precision, device) = bundle.manifest.preprocessing, run
    retriever = Retriever(bundle, precision=precision, device=device, threads=1)
    data = [file.read_bytes() for file in files]
    scaled = [load_scaled(one, transform.reduction, name="photo") for one in data]
    times = {
        "read": _each(lambda i: files[i].read_bytes(), len(files)),
        "hash": _each(lambda i: sha256(data[i]).hexdigest(), len(files)),
        "decode": _each(
            lambda i: load_scaled(data[i], transform.reduction, name="photo"), len(files)
        ),
        "resize": _each(lambda i: transform.fit_scaled(scaled[i]), len(files)),
    }
    with bulk_images(retriever.encoder) as bulk:
        levels = [bulk.prepare(one, "photo") for one in data][: bulk.batch]
        stacked = np.stack(levels)
        times["normalise"] = _each(lambda _: transform.normalised(stacked), 5) / len(levels)
        times["image graph"] = _each(lambda _: bulk.encode(levels), 5) / len(levels)
        times["image graph"] -= times["normalise"]
        vectors = bulk.encode(levels)
    with tempfile.TemporaryDirectory(prefix="ztcir-profile-") as folder:
        times["index"] = _write(Path(folder) / "photos.ztcir", retriever, vectors)
    floors = _picture_floors(bundle, files[0], rates)
    operations, _ = graph_work(
        bundle.file(bundle.variant(IMAGE_ENCODER, "fp32")), {"R": bulk.batch}
    )
    used = bundle.variant(IMAGE_ENCODER, precision).precision
    # the rates are those of all cores, the stations those of one
    one_core = available_cores() / bulk.batch
    floors["image graph"] = rates.floor_ms(operations * one_core, 0, used)
    return {name: _entry(ms, floors.get(name)) for name, ms in times.items()}


def _each(work: Callable[[int], object], count: int) -> float:
    """Return the median milliseconds of a call, after one that is not timed."""
    work(0)
    times = []
    for number in range(count):
        start = time.perf_counter()
        work(number)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def _write(path: Path, retriever: Retriever, vectors: np.ndarray) -> float:
    """Return the milliseconds of putting a picture into an index of 1000, with its commit."""
    index = Index.create(
        path,
        dim=retriever.dim,
        image_tower=retriever.image_tower,
        precision=retriever.precision,
        root=path.parent,
    )
    count, start = 1000, time.perf_counter()
    with index.edit() as writer:
        for number in range(count):
            vector = vectors[number % len(vectors)]
            key = f"{number:064x}"
            writer.put(f"{number:06}.jpg", vector, content_hash=key, size=0, mtime_ns=0)
    return 1e3 * (time.perf_counter() - start) / count


if __name__ == "__main__":
    sys.exit(main())
