"""`ztcir bench`: latency, throughput and memory on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.options import Command, Engine, as_json, with_engine
from cli.output import emit_json, note, printable, progress_bars, table


@click.command(cls=Command)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Runs of each measurement, within about five seconds.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Measure every precision of the bundle, and every backend of the device.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also compare with an older result of --json.",
)
@with_engine
@as_json
def bench(repeat: int, every: bool, compare: Path | None, engine: Engine, as_json: bool) -> None:
    """Measure latency, throughput and memory on this machine.

    Times each graph, each step of a query, indexing, and whole queries: from a JPEG and a text
    to the hits among 10 000 images. The first three runs of each are not counted.

    \b
    Examples:
      ztcir bench
      ztcir bench --all
      ztcir bench --repeat 50 --threads 1 --json
    """
    from ztcir_sdk.benchmark import (
        BenchmarkSettings,
        benchmark,
        benchmark_all,
        changes,
        read_result,
    )

    old = None if compare is None else read_result(compare)
    loaded = engine.load_bundle()
    with progress_bars() as progress:
        result = (benchmark_all if every else benchmark)(
            loaded,
            settings=BenchmarkSettings(repeat=repeat),
            **engine.options,
            progress=progress,
        )
    if old is not None:
        result["compared"] = changes(old, result)
    if as_json:
        emit_json(result)
        return
    for one in (result, *result.get("others", ())):
        _print_result(one)
    for name, why in result.get("not_measured", {}).items():
        note(f"{name} was not measured: {why}")
    if old is not None:
        _print_changes(result["compared"])


def _print_result(result: Mapping[str, Any]) -> None:
    from ztcir_sdk.benchmark.changes import configuration, named_timings

    threads = result["threads"]
    click.echo(f"{printable(result['bundle']['name'])}: {configuration(result)}")
    click.echo(f"{result['machine']['cpu']}, {threads} thread{'' if threads == 1 else 's'}")
    rows = [(name, *_times(timing)) for name, timing in named_timings(result)]
    table(("what", "p50 ms", "p90 ms", "p99 ms", "a second"), rows)
    pictures = result["indexing"]["pictures"]
    click.echo(
        f"indexing: {result['indexing']['pictures_per_second']:.0f} images/s "
        f"({pictures} image{'' if pictures == 1 else 's'})"
    )
    memory = result["memory"]
    sizes = {"graphs": memory["graphs_mb"], "peak of the process": memory["peak_mb"]}
    known = [f"{name} {size:.0f} MB" for name, size in sizes.items() if size is not None]
    if known:
        click.echo(f"memory: {', '.join(known)}")
    click.echo()


def _times(timing: Mapping[str, Any]) -> tuple[str, ...]:
    times = (f"{timing[name]:.2f}" for name in ("p50_ms", "p90_ms", "p99_ms"))
    return (*times, f"{timing['a_second']:.0f}")


def _print_changes(compared: Mapping[str, Any]) -> None:
    for run in compared["runs"]:
        click.echo(f"compared: {run['configuration']}")
        rows = [
            (
                one["name"],
                f"{one['old_ms']:.2f}",
                f"{one['new_ms']:.2f}",
                "" if one["ratio"] is None else f"{one['ratio']:.2f}",
            )
            for one in run["times"]
        ]
        table(("what", "old ms", "new ms", "times as fast"), rows)
    if not compared["runs"]:
        note("The older result has no configuration of this one: measure both with --all.")
    for what in compared["differs"]:
        note(f"The older result has another {_DIFFERS[what]}: its times say little about this one.")


_DIFFERS = {"machine": "processor", "threads": "number of threads", "bundle": "bundle"}
