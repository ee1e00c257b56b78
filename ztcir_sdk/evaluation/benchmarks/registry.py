"""The public benchmarks, each imported when it is used.

To add a benchmark, write ``NAME.py`` in this folder with a `Benchmark` named ``BENCHMARK``
(``cirr.py`` is an example), and add its line to `BENCHMARKS`. The command ``ztcir eval NAME``, its
options and its help follow from these two.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark


BENCHMARKS: Mapping[str, str] = {
    "fashioniq": "Measure R@10 and R@50 on FashionIQ.",
    "cirr": "Measure R@1, 5, 10, 50 and R_subset@1, 2, 3 on CIRR.",
    "circo": "Measure mAP@5, 10, 25, 50 on CIRCO.",
    "genecis": "Measure R@1, 2, 3 on GeneCIS.",
}
"""Name -> a line of help."""


def load_benchmark(name: str) -> Benchmark[Any]:
    """Import a benchmark.

    Args:
        name: one of `BENCHMARKS`.
    """
    benchmark: Benchmark[Any] = importlib.import_module(f"{__package__}.{name}").BENCHMARK
    return benchmark
