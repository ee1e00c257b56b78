"""Latency of the SDK and of PyTorch eager, measured in one run, as ratios.

    python -m benchmarks.latency --checkpoint runs/compose
    python -m benchmarks.latency --device cuda:0 --compile --models fashion-lite ViT-B-32 ViT-L-14

Every model is exported by this checkout and measured in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.compared.gpu import check_gpu, slug
from benchmarks.compared.measurement import (
    LatencySettings,
    export_random,
    measure_random,
    measure_trained,
)
from benchmarks.compared.sides import EAGER, LABELS, SDK
from benchmarks.comparison import Rounds, add_round_options
from benchmarks.provenance import load_average, provenance
from cli.output import note, table
from ztcir_sdk.bundle import DEFAULT_BUNDLE, Bundle, embedded_names
from ztcir_sdk.environment import now
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.runtime import resolve_device
from ztcir_sdk.runtime.cores import available_cores

MODELS = ("ViT-B-32", "ViT-L-14")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Limit the threads of NumPy's matrix products; read when NumPy is loaded."""

Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and print the ratios; return the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _measure_and_report(options))


def _measure_and_report(options: argparse.Namespace) -> None:
    result = run(options)
    for side in result["settings"].get("sides", (SDK,)):
        if side != EAGER:
            columns = ("model", "what", f"{LABELS[side]} p50 ms", "PyTorch p50 ms", "times as fast")
            table(columns, _rows(result, side))
    write_result(options.out or RESULTS / _file_name(result["settings"]), result)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the requested models and return the values of the result file.

    Raises:
        ZtcirError: a model or bundle cannot be measured, or the device does not exist.
    """
    device, threads, gpu = resolve_device(options.device, "onnx"), options.threads, None
    if device != "cpu":  # in another process, which returns its GPU memory when it ends
        gpu = _in_own_process(threads, check_gpu, device)
    trained: Path | None = options.bundle
    if trained is None and DEFAULT_BUNDLE in embedded_names():
        trained = Bundle.embedded().path
    if trained is not None:
        Bundle.load(trained, verify=False)  # report errors now, not after minutes
    elif options.checkpoint is not None:
        raise UsageError("There is no embedded bundle to compare --checkpoint with: add --bundle.")
    settings = LatencySettings(
        threads=threads,
        length=Rounds.from_options(options),
        gallery=options.gallery,
        device=device,
        compiled=options.compile,
    )
    started, load, models = now(), load_average(), []
    with tempfile.TemporaryDirectory(prefix="ztcir-bundles-") as scratch:
        for name in options.models:
            note(f"{name}: exporting")
            _in_own_process(threads, export_random, name, Path(scratch, name))
        for name in options.models:
            arguments = (name, Path(scratch, name), settings)
            models.append(_in_own_process(threads, measure_random, *arguments))
    if trained is not None:
        arguments = (trained, options.checkpoint, settings)
        models.append(_in_own_process(threads, measure_trained, *arguments))
    return {
        **provenance(started, threads, load),
        "settings": {
            **asdict(settings.length),
            "gallery": settings.gallery,
            "k": settings.k,
            **settings.describe_sides(),
            **({} if gpu is None else {"gpu": gpu}),
        },
        "models": models,
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("latency", "Measure the SDK and PyTorch eager in one run, as ratios.")
    add = parser.add_argument
    add("--models", nargs="*", default=MODELS, help="backbones to measure with random weights")
    add("--bundle", type=Path, help="bundle to measure too; if None, the embedded one")
    add("--checkpoint", type=Path, help="checkpoint that the bundle was exported from")
    add("--device", default=LatencySettings.device, help="device of all sides: cpu or cuda:0")
    add("--compile", action="store_true", help="also measure PyTorch with torch.compile")
    add("--out", type=Path, help="result file; if None, one in benchmarks/results by device")
    add("--threads", type=positive, default=available_cores(), help="threads of one operation")
    add_round_options(parser)
    add("--gallery", type=positive, default=LatencySettings.gallery, help="vectors to search")
    return parser


def _in_own_process(threads: int, task: Callable[..., Result], *arguments: Any) -> Result:
    """Run a task in a fresh process, which returns its memory when it ends.

    Raises:
        ZtcirError: from the task; or its process was killed.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    context = multiprocessing.get_context("spawn")
    quiet = (logging.disable, (logging.WARNING,))  # open_clip warns that weights are random
    with ProcessPoolExecutor(1, context, *quiet) as executor:
        try:
            return executor.submit(task, *arguments).result()
        except BrokenProcessPool as error:
            raise ZtcirError(
                f"The process that measures {arguments[0]} was killed, probably because memory "
                "ran out: measure fewer --models, or free some memory."
            ) from error


def _file_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the result file: each GPU model has its own."""
    if "gpu" in settings:
        return f"latency-{slug(settings['gpu'])}.json"
    return "latency-compiled.json" if "compile" in settings else "latency.json"


def _rows(result: dict[str, Any], side: str) -> list[tuple[str, ...]]:
    """Return a side's ratios on the models that it was measured on."""
    return [
        (
            model["name"],
            what.replace("_", " "),
            f"{sides['timings'][side]['p50_ms']:.2f}",
            f"{sides['timings'][EAGER]['p50_ms']:.2f}",
            f"{sides['ratios'][side]['median']:.2f}",
        )
        for model in result["models"]
        for what, sides in model["comparisons"].items()
        if side in sides["ratios"]
    ]


if __name__ == "__main__":
    sys.exit(main())
