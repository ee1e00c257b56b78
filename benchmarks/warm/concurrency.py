"""One `Retriever` and 1 to 16 threads that ask at the same time, each for itself or batched.

    python -m benchmarks.warm.concurrency

Every thread asks new texts about encoded references and waits for the hits. Alone, it calls
`Reference.search`. Batched, one thread answers all texts that wait at that moment with
`Retriever.search_many`, as the service does; the others only wait.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.comparison import Ratio
from benchmarks.provenance import load_average, provenance
from benchmarks.warm.report import CONCURRENCY
from cli.output import note, table
from ztcir_sdk import Query, Reference, Retriever
from ztcir_sdk.benchmark import draw_photos, random_index
from ztcir_sdk.drawings.drawings import demo_gallery, demo_queries
from ztcir_sdk.environment import now
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["Batcher", "main"]

CALLERS = (1, 2, 4, 8, 16)
REFERENCES = 16
GALLERY = 10_000
MAX_AT_ONCE = 16
K = 10

Ask = Callable[[Reference, str], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the rates; return the exit code."""
    parser = command_parser("warm.concurrency", "Measure simultaneous queries of one Retriever.")
    add = parser.add_argument
    add("--callers", type=positive, nargs="+", default=list(CALLERS), help="threads that ask")
    add("--texts", type=positive, default=320, help="texts of a turn, over all callers")
    add("--rounds", type=positive, default=5, help="times that all take turns")
    add("--gallery", type=positive, default=GALLERY, help="random vectors of the index")
    add("--threads", type=positive, default=available_cores(), help="threads of ONNX Runtime")
    add("--out", type=Path, default=RESULTS / CONCURRENCY, help="result file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    retriever = Retriever.from_pretrained(device="cpu", threads=options.threads)
    with tempfile.TemporaryDirectory(prefix="ztcir-concurrency-") as scratch:
        files = draw_photos(Path(scratch), REFERENCES)
        retriever.open_index(
            random_index(retriever, Path(scratch) / "random.ztcir", options.gallery)
        )
        references = retriever.references(files)
        texts = [query.text for query in demo_queries(demo_gallery(), 120)]
        sides = _measure(retriever, references, texts, options)
    rows = [
        (
            str(one["threads"]),
            f"{one['alone']['a_second']:.0f}",
            f"{one['batched']['a_second']:.0f}",
            f"{one['ratio']['median']:.2f}",
        )
        for one in sides
    ]
    table(("callers", "texts a second", "batched", "ratio"), rows)
    write_result(
        options.out,
        {
            **provenance(date, options.threads, load),
            "bundle": retriever.bundle.name,
            "precision": retriever.precision,
            "precisions": retriever.encoder.precisions,
            "pictures": options.gallery,
            "texts": options.texts,
            "rounds": options.rounds,
            "sides": sides,
        },
    )


def _measure(
    retriever: Retriever,
    references: Sequence[Reference],
    texts: Sequence[str],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return the rates of each number of callers; both ways take turns in every round."""

    def alone(reference: Reference, text: str) -> object:
        return reference.search(text, K)

    sides = []
    with Batcher(retriever) as batcher:
        for callers in options.callers:
            note(f"{callers} caller{'' if callers == 1 else 's'}")
            seconds: dict[str, list[float]] = {"alone": [], "batched": []}
            waits: dict[str, list[float]] = {"alone": [], "batched": []}
            for number in range(-1, options.rounds):  # the first is not timed
                for name, ask in (("alone", alone), ("batched", batcher.ask)):
                    spent, own = _turn(ask, references, texts, callers, options.texts)
                    if number >= 0:
                        seconds[name].append(spent)
                        waits[name] += own
            ratios = [
                one / other for one, other in zip(seconds["alone"], seconds["batched"], strict=True)
            ]
            asked = options.texts // callers * callers
            sides.append(
                {
                    "threads": callers,
                    **{name: _summary(seconds[name], waits[name], asked) for name in seconds},
                    "ratio": Ratio.of(ratios).to_dict(),
                }
            )
    return sides


def _turn(
    ask: Ask, references: Sequence[Reference], texts: Sequence[str], callers: int, count: int
) -> tuple[float, list[float]]:
    """Ask `count` texts from `callers` threads; return the seconds, and each text's."""
    each = count // callers

    def work(caller: int) -> list[float]:
        waits = []
        for number in range(each):
            place = caller * each + number
            start = time.perf_counter()
            ask(references[place % len(references)], texts[place % len(texts)])
            waits.append(time.perf_counter() - start)
        return waits

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        waits = [wait for own in pool.map(work, range(callers)) for wait in own]
    return time.perf_counter() - start, waits


def _summary(seconds: Sequence[float], waits: Sequence[float], count: int) -> dict[str, float]:
    p50, p99 = (1e3 * float(value) for value in np.percentile(waits, (50, 99)))
    rate = count / float(np.median(seconds))
    return {"a_second": round(rate, 1), "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


class Batcher:
    """Answers texts in one thread, all that wait at the same time in a batch."""

    def __init__(self, retriever: Retriever) -> None:
        """Take a retriever with an open index."""
        self._retriever = retriever
        self._waiting: queue.SimpleQueue[tuple[Query, Future[object]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def ask(self, reference: Reference, text: str) -> object:
        """Wait for the hits of a text about an encoded image."""
        answer: Future[object] = Future()
        self._waiting.put((Query(reference, text), answer))
        return answer.result()

    def _answer(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = [first], False
            while len(batch) < MAX_AT_ONCE:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                    break
                batch.append(more)
            try:
                found = self._retriever.search_many([query for query, _ in batch], K)
                for (_, answer), hits in zip(batch, found, strict=True):
                    answer.set_result(hits)
            except Exception as error:  # the callers that wait must get it
                for _, answer in batch:
                    answer.set_exception(error)
            if ended:
                return


if __name__ == "__main__":
    sys.exit(main())
