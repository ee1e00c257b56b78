"""What `ztcir serve` answers in a second, beside the SDK, and whether its memory grows.

    python -m benchmarks.serve

Starts the command on the demo's gallery, on loopback. In each round the SDK and the service answer
the same texts about the same encoded images: the SDK one by one and in batches, the service for 1,
8 and 64 clients that each wait for an answer before they ask again. Then mixed requests (searches,
uploads, pictures, lists) are sent, and the memory of the service is read on the way (Linux only).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.markdown import format_count, format_table
from benchmarks.provenance import load_average, provenance
from cli.output import note
from ztcir_sdk import Query, Reference, Retriever
from ztcir_sdk.demo import run_demo
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries, draw
from ztcir_sdk.environment import now
from ztcir_sdk.errors import ZtcirError

__all__ = ["FILE", "describe_load"]

FILE = "serve.json"
CLIENTS = (1, 8, 64)
REFERENCES = 40
"""Encoded images that the texts are about."""
HITS = 10
BATCH = 16
"""Queries that the SDK answers at once in `sdk_batches`, as the service does at most."""
UPLOADS_BEFORE = 300
"""More than the service remembers, so that its memory for them is full when it is first read."""
MIX = {"search": 0.8, "upload": 0.05, "picture": 0.1, "list": 0.05}
"""Kinds of request of the long run, and their shares."""
READINGS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result file; return the exit code."""
    parser = command_parser("serve", "Measure the service beside the SDK, and its memory.")
    parser.add_argument("--rounds", type=positive, default=5, help="times that all take turns")
    parser.add_argument("--requests", type=positive, default=400, help="requests of one turn")
    parser.add_argument("--memory-requests", type=positive, default=10_000)
    parser.add_argument("--threads", type=positive, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    retriever = Retriever.from_pretrained(threads=options.threads)
    with tempfile.TemporaryDirectory(prefix="ztcir-load-") as scratch:
        note("Drawing and indexing the demo's gallery")
        demo = run_demo(retriever, scratch)
        with service(demo.index, options.threads) as (process, port):
            workload = Workload.of(demo.gallery, port)
            turns = _turns(retriever, demo.index, workload, port, options)
            memory = asyncio.run(_memory(process, workload, port, options.memory_requests))
    write_result(
        options.output,
        {
            **provenance(date, options.threads, load),
            "bundle": retriever.bundle.name,
            "pictures": demo.pictures,
            "rounds": options.rounds,
            "requests": options.requests,
            "sides": turns,
            "memory": memory,
        },
    )


# --- the service ---------------------------------------------------------------------------------


@contextmanager
def service(index: Path, threads: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `ztcir serve` on a free port; give its process and its port.

    Raises:
        ZtcirError: it does not start.
    """
    command = [sys.executable, "-m", "cli", "serve", str(index), "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen([*command, "--threads", str(threads)], stderr=log, text=True) as process,
    ):
        try:
            yield process, _port_of(process, log)
        finally:
            process.terminate()


def _port_of(process: subprocess.Popen[str], log: Any) -> int:
    while process.poll() is None:
        time.sleep(0.1)
        log.seek(0)
        if found := re.search(r"at http://localhost:(\d+)/", log.read()):
            return int(found[1])
    raise ZtcirError("The service did not start: run `ztcir serve` to see why.")


class Connection:
    """One connection to the service, kept open between requests."""

    def __init__(self, port: int) -> None:
        """Name the port; `open` connects."""
        self._port = port

    async def open(self) -> Connection:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()

    async def ask(self, request: bytes) -> bytes:
        """Send a whole request; return the body of the answer.

        Raises:
            ZtcirError: the service does not answer with 200.
        """
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        body = await self._reader.readexactly(int(length[1])) if length else b""
        if not head.startswith(b"http/1.1 200 "):
            raise ZtcirError(f"The service answered {body.decode(errors='replace')[:200]}")
        return body


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def _post(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# --- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Texts about images, and the requests that ask for them."""

    images: Sequence[Path]
    texts: Sequence[str]
    identifiers: Sequence[str]
    """Identifiers of the images in the service."""

    @classmethod
    def of(cls, gallery: Path, port: int) -> Workload:
        """Take images of the demo and its texts; the service encodes the images."""
        listed = json.loads(asyncio.run(_one(port, _get("/api/v1/items?limit=200"))))["items"]
        chosen = listed[:: max(1, len(listed) // REFERENCES)][:REFERENCES]
        texts = [query.text for query in demo_queries(demo_gallery(), 120)]
        work = cls([gallery / one["name"] for one in chosen], texts, [one["id"] for one in chosen])
        for number in range(len(chosen)):
            asyncio.run(_one(port, work.search(number)))
        return work

    def pair(self, number: int) -> tuple[int, str]:
        """Return the image and the text of a request; neighbours share neither."""
        return number % len(self.images), self.texts[number * 7 % len(self.texts)]

    def search(self, number: int) -> bytes:
        """Return a request: another text about an image that is encoded already."""
        image, text = self.pair(number)
        form = urlencode({"reference": self.identifiers[image], "text": text, "k": HITS})
        return _post("/api/v1/search", "application/x-www-form-urlencoded", form.encode())

    def mixed(self, number: int) -> bytes:
        """Return a request of the long run, of a kind by `MIX`."""
        place = np.searchsorted(np.cumsum(list(MIX.values())), (number * 37 % 100) / 100, "right")
        kind = list(MIX)[int(place)]
        image, _ = self.pair(number)
        if kind == "upload":
            return upload(number)
        if kind == "picture":
            return _get(f"/api/v1/items/{self.identifiers[image]}/thumbnail?side=320")
        if kind == "list":
            return _get(f"/api/v1/items?order=mixed&offset={number % 100}")
        return self.search(number)


def upload(number: int) -> bytes:
    """Return the upload of an image that was not uploaded before."""
    gallery = demo_gallery(per_combination=1)
    picture = draw(gallery[number % len(gallery)])
    picture.putpixel((0, 0), (number % 256, number // 256 % 256, number // 65536))
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
    body = head + stream.getvalue() + b"\r\n--x--\r\n"
    return _post("/api/v1/references", "multipart/form-data; boundary=x", body)


async def _one(port: int, request: bytes) -> bytes:
    connection = await Connection(port).open()
    try:
        return await connection.ask(request)
    finally:
        connection.close()


# --- speed ---------------------------------------------------------------------------------------


def _turns(
    retriever: Retriever, index: Path, workload: Workload, port: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Let the SDK and the service take turns; return the figures of each."""

    def clients(count: int) -> Callable[[int], list[float]]:
        return lambda first: asyncio.run(
            client_times(port, workload, count, first, options.requests)
        )

    retriever.open_index(index)
    references = retriever.references(list(workload.images))
    sides: dict[str, Callable[[int], list[float]]] = {
        "sdk": lambda first: sdk_times(references, workload, first, options.requests),
        "sdk_batches": lambda first: sdk_batch_times(
            retriever, references, workload, first, options.requests
        ),
        **{f"clients_{count}": clients(count) for count in CLIENTS},
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        note(f"Round {number} of {options.rounds}" if number else "Warming up")
        for name, side in sides.items():
            start = time.perf_counter()
            found = side(number * options.requests)
            speed = options.requests / (time.perf_counter() - start)
            if number:
                times[name] += found
                speeds[name].append(speed)
    return {name: figures(times[name], speeds[name], speeds["sdk"]) for name in sides}


def figures(
    times: Sequence[float], speeds: Sequence[float], sdk: Sequence[float]
) -> dict[str, Any]:
    """Return the figures of a side: milliseconds of an answer, and answers a second.

    Args:
        times: seconds of each answer.
        speeds: answers a second, of each round.
        sdk: the same of the SDK that answers one by one, in the same rounds.
    """
    ratios = np.array(speeds) / np.array(sdk)
    return {
        "p50_ms": round(float(np.percentile(times, 50)) * 1000, 3),
        "p99_ms": round(float(np.percentile(times, 99)) * 1000, 3),
        "per_second": round(float(np.median(speeds)), 1),
        "ratio": {
            name: round(float(np.percentile(ratios, part)), 3)
            for name, part in (("median", 50), ("p25", 25), ("p75", 75))
        },
    }


def sdk_times(
    references: Sequence[Reference], workload: Workload, first: int, count: int
) -> list[float]:
    """Return seconds of each search of the SDK, one after the other."""
    times = []
    for number in range(first, first + count):
        image, text = workload.pair(number)
        start = time.perf_counter()
        references[image].search(text, HITS)
        times.append(time.perf_counter() - start)
    return times


def sdk_batch_times(
    retriever: Retriever,
    references: Sequence[Reference],
    workload: Workload,
    first: int,
    count: int,
) -> list[float]:
    """Return seconds until each answer, in batches of `BATCH`."""
    times: list[float] = []
    pairs = [workload.pair(number) for number in range(first, first + count)]
    for place in range(0, count, BATCH):
        batch = [
            Query(images=references[image], texts=text)
            for image, text in pairs[place : place + BATCH]
        ]
        start = time.perf_counter()
        retriever.search_many(batch, HITS)
        times += [time.perf_counter() - start] * len(batch)
    return times


async def client_times(
    port: int, workload: Workload, clients: int, first: int, count: int
) -> list[float]:
    """Return seconds of each answer of the service, for clients that ask at once."""
    times: list[float] = []
    numbers = iter(range(first, first + count))

    async def ask(connection: Connection) -> None:
        for number in numbers:
            request = workload.search(number)
            start = time.perf_counter()
            await connection.ask(request)
            times.append(time.perf_counter() - start)

    await _for_clients(port, clients, ask)
    return times


async def _for_clients(
    port: int, clients: int, ask: Callable[[Connection], Awaitable[None]]
) -> None:
    connections = [await Connection(port).open() for _ in range(clients)]
    try:
        await asyncio.gather(*(ask(one) for one in connections))
    finally:
        for one in connections:
            one.close()


# --- memory --------------------------------------------------------------------------------------


async def _memory(
    process: subprocess.Popen[str], workload: Workload, port: int, count: int
) -> dict[str, Any]:
    """Send mixed requests of 8 clients; return the service's memory on the way, in MB."""
    note(f"Sending {count} mixed requests")
    before = await Connection(port).open()
    for number in range(UPLOADS_BEFORE):
        await before.ask(upload(1_000_000 + number))
    before.close()
    readings: list[float | None] = []
    step = max(1, count // READINGS)
    for first in range(0, count, step):
        if first == 0:
            readings.append(resident_mb(process.pid))
        numbers = iter(range(first, min(count, first + step)))

        async def ask(connection: Connection, numbers: Iterator[int] = numbers) -> None:
            for number in numbers:
                await connection.ask(workload.mixed(number))

        await _for_clients(port, 8, ask)
        readings.append(resident_mb(process.pid))
    known = {} if None in readings else {"resident_mb": readings}
    return {"requests": count, "every": step, "mix": MIX, **known}


def resident_mb(process: int, proc: Path = Path("/proc")) -> float | None:
    """Return the memory of a process, in MB; ``None`` where ``proc`` does not say it."""
    try:
        text = (proc / str(process) / "status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return None if found is None else round(int(found[1]) * 1024 / 1e6, 1)


# --- the documents -------------------------------------------------------------------------------

LABELS = {
    "sdk": "the SDK, one by one",
    "sdk_batches": f"the SDK, {BATCH} at once",
    "clients_1": "the service, 1 client",
    "clients_8": "the service, 8 clients",
    "clients_64": "the service, 64 clients",
}


def growth(readings: Sequence[float]) -> float:
    """Return by what fraction memory grew over the second half of the readings."""
    half = readings[len(readings) // 2 :]
    return half[-1] / half[0] - 1


def describe_load(values: Mapping[str, Any]) -> str:
    """Describe the result file, for `docs/serving.md`."""
    rows = [
        (
            LABELS[name],
            f"{one['per_second']:.0f}",
            f"{one['p50_ms']:.1f}",
            f"{one['p99_ms']:.1f}",
            f"{one['ratio']['median']:.2f}",
        )
        for name, one in values["sides"].items()
    ]
    memory = values["memory"]
    readings = memory.get("resident_mb")  # absent where /proc does not say it
    table = format_table(("", "answers a second", "p50, ms", "p99, ms", "beside the SDK"), rows)
    return "\n\n".join(
        (
            table,
            "Beside the SDK: answers a second, divided by those of the SDK one by one in the same "
            f"round; median of {values['rounds']} rounds. Texts about images that are encoded "
            f"already, {format_count(values['pictures'])} drawings, bundle `{values['bundle']}`. "
            f"{values['machine']['cpu']}, which the clients share; {values['threads']} "
            f"thread{'' if values['threads'] == 1 else 's'} of ONNX Runtime "
            f"{values['versions']['onnxruntime']}, {values['date'][:10]}.",
            *(
                [
                    f"Over {format_count(memory['requests'])} mixed requests (searches, uploads, "
                    f"pictures, lists) the service's memory went from {readings[0]:.0f} to "
                    f"{readings[-1]:.0f} MB, {growth(readings):+.1%} over the second half."
                ]
                if readings
                else []
            ),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
