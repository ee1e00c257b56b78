"""What a hundred million and a billion pictures take, from measured bytes and times a picture.

    python -m benchmarks.scale

Measures an index of random vectors with a shop's metadata in each storage, and the processor's time
to encode a picture, which other work on the machine hardly changes; and multiplies. Prices are
options; `docs/scale.md` shows the result.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.index.report import FILES as INDEX_FILES
from benchmarks.markdown import format_count, format_table
from benchmarks.provenance import load_average, provenance
from cli.output import note
from ztcir_sdk import Index, Retriever
from ztcir_sdk.drawings.drawings import demo_gallery, draw
from ztcir_sdk.environment import now
from ztcir_sdk.gallery.description import stored_bytes
from ztcir_sdk.milvus.connection import HNSW_M
from ztcir_sdk.names import STORAGES

__all__ = ["FILE", "describe_scale"]

FILE = "scale.json"
SIZES = (1_000_000, 100_000_000, 1_000_000_000)
REPEATS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result file; return the exit code."""
    parser = command_parser("scale", "Measure what a picture takes, and multiply.")
    parser.add_argument("--pictures", type=positive, default=20_000, help="size of the index")
    parser.add_argument("--encoded", type=positive, default=256, help="pictures to encode")
    parser.add_argument("--memory-gb", type=positive, default=64, help="memory of a machine")
    parser.add_argument("--machine-dollars", type=float, default=300.0, help="a month of it")
    parser.add_argument("--core-dollars", type=float, default=0.04, help="an hour of a core")
    parser.add_argument("--disk-dollars", type=float, default=0.10, help="a month of a GB")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    retriever = Retriever.from_pretrained(threads=1)
    with tempfile.TemporaryDirectory(prefix="ztcir-scale-") as scratch:
        storages = {
            storage: _storage(retriever, Path(scratch), storage, options.pictures)
            for storage in STORAGES
        }
    prices = {
        "memory_gb": options.memory_gb,
        "machine_dollars_a_month": options.machine_dollars,
        "core_dollars_an_hour": options.core_dollars,
        "disk_dollars_a_gb_month": options.disk_dollars,
    }
    measured = {
        "dim": retriever.dim,
        "pictures": options.pictures,
        "encode_seconds": _encode_seconds(retriever, options.encoded),
        "storages": storages,
        "graph_bytes": 4 * retriever.dim + 8 * HNSW_M + 4 * HNSW_M / math.log(HNSW_M) + 8,
    }
    sizes = {str(size): estimate(size, measured, prices) for size in SIZES}
    write_result(
        options.output,
        {**provenance(date, 1, load), "measured": measured, "prices": prices, "sizes": sizes},
    )


def estimate(count: int, measured: dict[str, Any], prices: dict[str, Any]) -> dict[str, float]:
    """Return what `count` pictures take: memory, disk, machines, hours and dollars.

    A machine's memory holds its part of Milvus's graph at four fifths; the rest is for Milvus.
    """
    memory = count * measured["graph_bytes"]
    disk = count * measured["storages"]["f32"]["bytes"]
    machines = max(1, math.ceil(memory / (0.8e9 * prices["memory_gb"])))
    hours = count * measured["encode_seconds"] / 3600
    return {
        "memory_gb": memory / 1e9,
        "disk_gb": disk / 1e9,
        "machines": machines,
        "dollars_a_month": machines * prices["machine_dollars_a_month"]
        + disk / 1e9 * prices["disk_dollars_a_gb_month"],
        "core_hours": hours,
        "encode_dollars": hours * prices["core_dollars_an_hour"],
        "scan_seconds": count * measured["storages"]["f32"]["scan_seconds"],
    }


def _storage(retriever: Retriever, folder: Path, storage: str, count: int) -> dict[str, float]:
    """Return bytes, and seconds of an exact search, a picture."""
    note(f"Writing {count} vectors as {storage}")
    rng = np.random.default_rng(0)
    index = Index.create(
        folder / f"{storage}.ztcir",
        dim=retriever.dim,
        image_tower=retriever.image_tower,
        precision="fp32",
        root=folder,
        storage=storage,
    )
    with index.edit() as writer:
        for i in range(count):
            writer.put(
                f"{i % 1000:03}/{i:09}.jpg",
                _unit(rng, retriever.dim),
                content_hash=f"{i:064x}",
                size=50_000,
                mtime_ns=1_700_000_000_000_000_000 + i,
                metadata={"articleType": "Shirts", "baseColour": "Red", "price": i % 500},
            )
        writer.commit(build_graph=False)
    size = stored_bytes(index) or 0
    query = _unit(rng, retriever.dim)[None]
    index.search(query, 10, exact=True)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        index.search(query, 10, exact=True)
        times.append(time.process_time() - start)
    return {"bytes": size / count, "scan_seconds": float(np.median(times)) / count}


def _unit(rng: np.random.Generator, dim: int) -> NDArray[np.float32]:
    vector = rng.standard_normal(dim)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _encode_seconds(retriever: Retriever, count: int) -> float:
    """Return seconds to encode a picture in batches, on one core."""
    note(f"Encoding {count} pictures")
    drawn = [draw(one) for one in demo_gallery(per_combination=1)]
    pictures = [drawn[i % len(drawn)] for i in range(count)]
    retriever.encode_images(pictures[:32])
    start = time.process_time()
    for first in range(0, count, 32):
        retriever.encode_images(pictures[first : first + 32])
    return (time.process_time() - start) / count


def latency(part: float, measured: dict[str, Any], graph_ms: float) -> tuple[float, float]:
    """Return the estimated seconds of an exact i8 search, and milliseconds of a graph's.

    Args:
        part: pictures on one machine.
        measured: what `python -m benchmarks.scale` measured.
        graph_ms: measured milliseconds of a search in a graph of a million vectors; they are taken
            to grow with the logarithm of the number of vectors.
    """
    scan_seconds = part * measured["storages"]["i8"]["scan_seconds"]
    return scan_seconds, graph_ms * math.log(part) / math.log(1_000_000)


def describe_scale(values: Any) -> str:
    """Describe the result file, for `docs/scale.md`."""
    measured, prices = values["measured"], values["prices"]
    million = json.loads((RESULTS / INDEX_FILES["index-1000000"]).read_text(encoding="utf-8"))
    graph_ms = million["engines"]["ztcir"]["search"]["p50_ms"]
    latencies = []
    for count, one in values["sizes"].items():
        part = int(count) / one["machines"]
        scan, graph = latency(part, measured, graph_ms)
        latencies.append(
            (
                format_count(int(count)),
                format_count(one["machines"]),
                f"{part / 1e6:.1f}",
                f"{scan:.2f}",
                f"{graph:.1f}",
            )
        )
    storages = [
        (f"`{name}`", f"{one['bytes']:.0f}", f"{1e9 * one['scan_seconds']:.0f}")
        for name, one in measured["storages"].items()
    ]
    sizes = [
        (
            format_count(int(count)),
            f"{one['memory_gb']:,.0f} GB",
            f"{one['disk_gb']:,.0f} GB",
            format_count(one["machines"]),
            f"{one['dollars_a_month']:,.0f}",
            f"{one['core_hours']:,.0f}",
            f"{one['encode_dollars']:,.0f}",
        )
        for count, one in values["sizes"].items()
    ]
    return "\n\n".join(
        (
            format_table(("storage", "bytes a picture", "exact search, ns a picture"), storages),
            f"Measured with {format_count(measured['pictures'])} vectors of width "
            f"{measured['dim']} and metadata of three fields, on {values['machine']['cpu']}, "
            f"{values['date'][:10]}, load {values['load_average']['before']}. A picture of the "
            f"graph in Milvus takes {measured['graph_bytes']:.0f} bytes of memory (the vector, and "
            f"{2 * HNSW_M} links), and {1000 * measured['encode_seconds']:.1f} ms of one core to "
            "encode.",
            format_table(
                (
                    "pictures",
                    "memory",
                    "disk",
                    "machines",
                    "dollars a month",
                    "core hours to encode",
                    "dollars once",
                ),
                sizes,
            ),
            f"A machine has {prices['memory_gb']} GB of memory, of which four fifths hold the "
            f"graph, and costs {prices['machine_dollars_a_month']:g} dollars a month; a GB of disk "
            f"{prices['disk_dollars_a_gb_month']:g} dollars a month; an hour of a core "
            f"{prices['core_dollars_an_hour']:g} dollars. Pass your own prices to "
            "`python -m benchmarks.scale`.",
            format_table(
                (
                    "pictures",
                    "machines",
                    "millions of pictures on each",
                    "exact search with `i8`, s of one core",
                    "search in a graph, ms",
                ),
                latencies,
            ),
            "Latency of a query on one machine's part, estimated and not measured. Exact: the time "
            "of a picture measured above, times the pictures of the part; more cores divide it. "
            f"Graph: the p50 of {graph_ms:.2f} ms of ztcir's graph of a million vectors of width "
            f"{million['dim']} (below), times the ratio of the logarithms of the numbers of "
            "vectors. All machines search at the same time. What the network, and merging the "
            "answers, add is not in it.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
