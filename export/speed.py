"""How fast a precision is beside fp32 on the machine that exports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from export.variants import Variants
from ztcir_sdk.environment import describe_machine
from ztcir_sdk.names import IMAGE_ENCODER
from ztcir_sdk.runtime import OnnxGraph, RuntimeSettings

__all__ = ["is_faster", "measure_speed"]

IMAGES = 8
"""Images of a timed run: a batch of an index."""
ROUNDS = 15
FEW_IDS = 100
"""Ids that any vocabulary has."""
FASTER = 1.1
"""Times as fast as fp32 that the graphs must be, in the geometric mean, to be the default."""


def is_faster(speed: Mapping[str, Any]) -> bool:
    """Return whether the graphs that `measure_speed` timed are faster than fp32, by `FASTER`."""
    ratios = [one["times_as_fast"] for one in speed["graphs"].values()]
    return bool(ratios) and float(np.exp(np.mean(np.log(ratios)))) >= FASTER


def measure_speed(variants: Variants, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Time each graph that is not in fp32 beside fp32, in turns.

    Returns:
        JSON values; under "graphs" the medians, and how many times as fast as fp32 each is.
    """
    settings = RuntimeSettings(backend="onnx", device="cpu")
    figures = {}
    for graph, key in chosen.items():
        if key == "fp32":
            continue
        loaded = {
            name: OnnxGraph(variants.folder / variants.graphs[graph][name].file, settings)
            for name in ("fp32", key)
        }
        inputs = _inputs(loaded["fp32"], IMAGES if graph == IMAGE_ENCODER else 1)
        times = in_turns({name: _run(one, inputs) for name, one in loaded.items()}, ROUNDS)
        ratios = [a / b for a, b in zip(times["fp32"], times[key], strict=True)]
        figures[graph] = {
            "variant": key,
            "times_as_fast": round(float(np.median(ratios)), 2),
            **{
                f"{name}_ms": round(1000 * float(np.median(times[one])), 3)
                for name, one in (("fp32", "fp32"), ("this", key))
            },
        }
    return {
        "what": f"{IMAGES} images, or 1 text or reference, in turns with fp32",
        "machine": describe_machine(),
        "graphs": figures,
    }


def _run(graph: OnnxGraph, inputs: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: graph.run(inputs)


def in_turns(
    operations: Mapping[str, Callable[[], object]], rounds: int, *, untimed: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of some runs of each operation, one after the other in each round."""
    times: dict[str, list[float]] = {name: [] for name in operations}
    for number in range(-untimed, rounds):
        for name, operation in operations.items():
            start = time.perf_counter()
            operation()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def _inputs(graph: OnnxGraph, count: int) -> dict[str, Any]:
    """Return inputs of a graph: `count` rows, 12 tokens, random numbers."""
    rng = np.random.default_rng(0)
    inputs = {}
    for spec in graph.inputs:
        shape = [
            edge if isinstance(edge, int) else (12 if edge == "T" else count) for edge in spec.shape
        ]
        if spec.dtype == "int64":
            high = FEW_IDS if spec.name == "input_ids" else 1
            inputs[spec.name] = rng.integers(0, high, shape, dtype=np.int64)
        else:
            inputs[spec.name] = rng.standard_normal(shape).astype(np.float32)
    return inputs
