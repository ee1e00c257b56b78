"""What must not grow with the index: opening it, committing to it, and one command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.index.data import DataSet, clip_like
from benchmarks.provenance import ROOT
from cli.output import note
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.index import Index, IndexWriter

__all__ = ["clip_like_index", "measure_commands", "measure_commits"]

COMMITS, ITEMS = 1000, 100
_FIRST, _LAST = slice(1, 51), slice(COMMITS - 50, COMMITS)
_SMALL = 1000


def measure_commits(data: DataSet, folder: Path) -> dict[str, Any]:
    """Time commits of `ITEMS` new items each, and count the bytes that each writes."""
    place = folder / "commits.ztcir"
    shutil.rmtree(place, ignore_errors=True)
    index = Index.create(place, dim=data.dim, image_tower="00" * 32, precision="fp32", root=folder)
    vectors = data.vectors()
    seconds, written = [], []
    with index.edit(build_graph=False) as writer:
        for number in range(COMMITS):
            begun, before = time.perf_counter(), _bytes_written()
            for row in range(number * ITEMS, (number + 1) * ITEMS):
                _put(writer, row, vectors[row % data.rows])
            writer.commit(build_graph=False)
            seconds.append(time.perf_counter() - begun)
            written.append(_bytes_written() - before)
    size = sum(file.stat().st_size for file in place.iterdir())
    shutil.rmtree(place)
    first, last = np.median(seconds[_FIRST]), np.median(seconds[_LAST])
    return {
        "commits": COMMITS,
        "items_each": ITEMS,
        "first_50_ms": 1000 * float(first),
        "last_50_ms": 1000 * float(last),
        "ratio": float(last / first),
        "first_50_bytes": float(np.median(written[_FIRST])),
        "last_50_bytes": float(np.median(written[_LAST])),
        "bytes_written": int(sum(written)),
        "bytes": size,
    }


def measure_commands(rows: int, folder: Path, rounds: int = 5) -> dict[str, Any]:
    """Time whole commands ``ztcir search`` over `rows` items and over 1000, in turns.

    The index has the default storage, vectors like CLIP's, as wide as the default bundle's, and no
    graph, which a single command would not load.
    """
    picture = folder / "reference.jpg"
    Image.new("RGB", (224, 224), (200, 30, 30)).save(picture)
    places = {count: folder / f"command-{count}.ztcir" for count in (_SMALL, rows)}
    for count, place in places.items():
        if (place / "index.json").exists():
            continue
        note(f"building an index of {count} items for one command")
        clip_like_index(place, Bundle.embedded(), count)
    times: dict[int, list[float]] = {count: [] for count in places}
    opened: dict[int, list[float]] = {count: [] for count in places}
    for _ in range(rounds):
        for count, place in places.items():
            times[count].append(_command_seconds(picture, place))
            begun = time.perf_counter()
            Index.open(place, image_tower=None)
            opened[count].append(time.perf_counter() - begun)
    extra = [large - small for small, large in zip(times[_SMALL], times[rows], strict=True)]
    return {
        "items": rows,
        "seconds": {str(count): float(np.median(found)) for count, found in times.items()},
        "extra_seconds": {"median": float(np.median(extra)), "max": max(extra)},
        "open_ms": {str(c): 1000 * float(np.median(found)) for c, found in opened.items()},
    }


def clip_like_index(path: Path, bundle: Bundle, rows: int, *, build_graph: bool = False) -> None:
    """Write an index of vectors like CLIP's, as wide as a bundle's; the images do not exist."""
    manifest = bundle.manifest
    index = Index.create(
        path,
        dim=manifest.dimensions.embed,
        image_tower=manifest.image_tower,
        precision="fp32",
        root=path.parent,
    )
    vectors = clip_like(path.parent, rows, index.dim).vectors()
    with index.edit(build_graph=build_graph) as writer:
        for start in range(0, rows, 10_000):
            for row, vector in enumerate(vectors[start : start + 10_000], start):
                _put(writer, row, vector)
            writer.commit(build_graph=False)


def _put(writer: IndexWriter, row: int, vector: NDArray[np.float32]) -> None:
    # Hashes are in no order, as those of files are.
    content_hash = f"{(row * 0x9E3779B97F4A7C15) % (1 << 64):016x}" * 4
    writer.put(f"{row:09}.jpg", vector, content_hash=content_hash, size=1, mtime_ns=row)


def _command_seconds(picture: Path, index: Path) -> float:
    command = [sys.executable, "-m", "cli", "search", str(picture), "in green", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    subprocess.run(
        [*command, "--index", str(index)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def _bytes_written() -> int:
    """Return the bytes that this process wrote so far, where Linux tells; else 0."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        return 0
    [line] = [one for one in counters.read_text().splitlines() if one.startswith("wchar")]
    return int(line.split()[1])
