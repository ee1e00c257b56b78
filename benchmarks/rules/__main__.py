r"""Measure what each rule for texts adds to the default bundle, on both sets of validation queries.

    python -m benchmarks.rules --images val-*.tar --triplets val-triplets.jsonl \
        val-open-triplets.jsonl

The rules are what a bundle does with a composed query beside its graphs: see docs/method.md. The
validation queries only measure; the rules were chosen on held-out training images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.provenance import load_average, provenance
from benchmarks.rules.measure import FILE, measure_rules
from ztcir_sdk.environment import now
from ztcir_sdk.runtime.cores import available_cores


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result file; return the exit code."""
    parser = command_parser("rules", "Measure what each rule for texts adds.")
    add = parser.add_argument
    add("--images", type=Path, nargs="+", required=True, help="shards of the gallery")
    add("--triplets", type=Path, nargs="+", required=True, help="files of queries")
    add("--threads", type=positive, default=available_cores(), help="threads of one graph")
    add("--out", type=Path, default=RESULTS / FILE, help="result file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    started, load = now(), load_average()
    values = measure_rules(options.images, options.triplets, options.threads)
    write_result(options.out, {**provenance(started, options.threads, load), **values})


if __name__ == "__main__":
    sys.exit(main())
