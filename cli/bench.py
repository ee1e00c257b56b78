"""`ztcir bench`: latency and throughput on this machine."""

from __future__ import annotations

from typing import Any

import click

from cli.options import Command, Engine, as_json, with_engine
from cli.output import emit_json, progress_bars, table


@click.command(cls=Command)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Runs of each measurement, within about five seconds.",
)
@with_engine
@as_json
def bench(repeat: int, engine: Engine, as_json: bool) -> None:
    """Measure latency and throughput on this machine.

    Times each graph, indexing, and whole queries: from a JPEG and a text to the hits among 10 000
    images.

    \b
    Examples:
      ztcir bench
      ztcir bench --repeat 50 --threads 1 --json
    """
    from ztcir_sdk.benchmark import BenchmarkSettings, benchmark

    loaded = engine.load_bundle()
    with progress_bars() as progress:
        result = benchmark(
            loaded,
            settings=BenchmarkSettings(repeat=repeat),
            **engine.options,
            progress=progress,
        )
    if as_json:
        emit_json(result)
        return
    machine = result["machine"]
    click.echo(
        f"{result['bundle']['name']} ({result['precision']}) on {machine['cpu']}, "
        f"{result['device']}, {result['threads']} threads"
    )
    table(("what", "p50 ms", "p90 ms", "p99 ms", "runs"), _rows(result))
    click.echo(f"indexing: {result['indexing']['pictures_per_second']:.0f} images/s")


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [
        (f"{graph.replace('_', ' ')}: {_sizes(timing)}", *_times(timing))
        for graph, timings in result["graphs"].items()
        for timing in timings
    ]
    query = result["query"]
    gallery = f"{query['index']:,} images".replace(",", " ")
    rows.append((f"query: new JPEG and text, {gallery}", *_times(query["first_text"])))
    rows.append((f"query: same JPEG, new text, {gallery}", *_times(query["second_text"])))
    return rows


def _sizes(timing: dict[str, Any]) -> str:
    names = ("images", "references", "texts", "tokens")
    return ", ".join(f"{timing[name]} {name}" for name in names if name in timing)


def _times(timing: dict[str, Any]) -> tuple[str, ...]:
    times = (f"{timing[name]:.2f}" for name in ("p50_ms", "p90_ms", "p99_ms"))
    return (*times, str(timing["runs"]))
