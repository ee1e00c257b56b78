"""Latency through the SDK beside PyTorch eager, in one run, as ratios.

    python -m benchmarks.latency --checkpoint runs/compose
    python -m benchmarks.latency --device cuda:0 --compile --models fashion-lite ViT-B-32 ViT-L-14

Every model is exported by this checkout's own code and measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.comparison import Rounds, add_round_options, positive
from benchmarks.gpu import check_gpu, slug
from benchmarks.measurement import (
    LatencySettings,
    export_random,
    measure_random,
    measure_trained,
)
from benchmarks.sides import EAGER, NAMES, SDK
from benchmarks.surroundings import ROOT, load_average, surroundings
from cli.output import note, table, write_file
from ztcir_sdk.bundle.bundle import DEFAULT_BUNDLE, Bundle, embedded_names
from ztcir_sdk.environment import now
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.runtime import resolve_device
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["main"]

RESULTS = ROOT / "benchmarks" / "results"
MODELS = ("ViT-B-32", "ViT-L-14")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What NumPy's matrix products obey, when it is loaded."""

Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the JSON file and print the ratios; gives the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = run(options)
        out = options.out or RESULTS / _file(result["settings"])
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    except ZtcirError as error:
        note(f"Error: {error}")
        return error.exit_code
    for side in result["settings"].get("sides", (SDK,)):
        if side != EAGER:
            columns = ("model", "what", f"{NAMES[side]} p50 ms", "PyTorch p50 ms", "times as fast")
            table(columns, _rows(result, side))
    note(f"{out} is written.")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for; gives the JSON values.

    Raises:
        ZtcirError: a model or bundle cannot be measured, or there is no such device.
    """
    device, gpu = resolve_device(options.device, "onnx"), None
    if device != "cpu":  # tried in another process, whose share of the GPU is given back
        gpu = _alone(options.threads, check_gpu, device)
    trained: Path | None = options.bundle
    if trained is None and DEFAULT_BUNDLE in embedded_names():
        trained = Bundle.embedded().path
    if trained is not None:
        Bundle.load(trained, verify=False)  # what is wrong is told now, not after minutes
    elif options.checkpoint is not None:
        raise UsageError("There is no embedded bundle to compare --checkpoint with: add --bundle.")
    settings = LatencySettings(
        threads=options.threads,
        how=Rounds(options.rounds, options.runs, options.seconds),
        gallery=options.gallery,
        device=device,
        compiled=options.compile,
    )
    started, load, models = now(), load_average(), []
    with tempfile.TemporaryDirectory(prefix="ztcir-bundles-") as scratch:
        for name in options.models:
            note(f"{name}: exporting")
            _alone(settings.threads, export_random, name, Path(scratch, name))
        for name in options.models:
            folder = Path(scratch, name)
            models.append(_alone(settings.threads, measure_random, name, folder, settings))
    if trained is not None:
        checkpoint = options.checkpoint
        models.append(_alone(settings.threads, measure_trained, trained, checkpoint, settings))
    return {
        **surroundings(started, settings.threads, load),
        "settings": {
            "rounds": settings.how.rounds,
            "runs": settings.how.runs,
            "seconds": settings.how.seconds,
            "gallery": settings.gallery,
            "k": settings.k,
            **settings.describe_sides(),
            **({} if gpu is None else {"gpu": gpu}),
        },
        "models": models,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description="Measure latency through the SDK beside PyTorch eager, in one run, as ratios.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="*", default=MODELS, help="backbones, measured at random weights")
    add("--bundle", type=Path, help="also measure this one; if None, the embedded one")
    add("--checkpoint", type=Path, help="what that bundle was exported from")
    add("--device", default=LatencySettings.device, help="of all sides: cpu or cuda:0")
    add("--compile", action="store_true", help="also measure what torch.compile makes of PyTorch")
    add("--out", type=Path, help="the file to write; if None, one in benchmarks/results by device")
    add("--threads", type=positive, default=available_cores(), help="of one operation")
    add_round_options(parser)
    add("--gallery", type=positive, default=LatencySettings.gallery, help="vectors to search")
    return parser


def _alone(threads: int, task: Callable[..., Result], *arguments: Any) -> Result:
    """Run a task in a fresh process, whose memory is given back when it ends.

    Raises:
        ZtcirError: the task's own; or its process was killed.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    context = multiprocessing.get_context("spawn")
    quiet = (logging.disable, (logging.WARNING,))  # open_clip warns that weights are random
    with ProcessPoolExecutor(1, context, *quiet) as executor:
        try:
            return executor.submit(task, *arguments).result()
        except BrokenProcessPool as error:
            raise ZtcirError(
                f"Measuring {arguments[0]} was killed, as happens when memory runs out: measure "
                "fewer --models, or free some memory."
            ) from error


def _file(settings: Mapping[str, Any]) -> str:
    """Name the file of a result: one for each model of GPU, so that none takes another's place."""
    if "gpu" in settings:
        return f"latency-{slug(settings['gpu'])}.json"
    return "latency-compiled.json" if "compile" in settings else "latency.json"


def _rows(result: dict[str, Any], side: str) -> list[tuple[str, ...]]:
    """Return a side's ratios, of the models that it was measured on."""
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
