"""Read files of strangers made by chance, and count what goes wrong."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from benchmarks.command import RESULTS, command_parser, run_command, write_result
from benchmarks.fuzz.run import CASE_BYTES, CASE_SECONDS, KINDS, run_kind
from benchmarks.provenance import load_average, provenance
from cli.output import note, progress_bars
from ztcir_sdk.environment import now

CASES = {
    "indexes": 2_000,
    "manifests": 5_000,
    "tokenizers": 2_000,
    "archives": 5_000,
    "heic": 5_000,
    "raw": 5_000,
    "pictures": 100_000,
}
"""Kind -> number of cases."""


def main() -> int:
    """Run the cases, and write their figures."""
    parser = command_parser("fuzz", "Read many damaged and hostile files, each kind in processes.")
    for name, count in CASES.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"number of {name}")
    parser.add_argument("--output", type=Path, default=RESULTS / "fuzz.json", help="result file")
    parser.add_argument(
        "--add", action="store_true", help="keep the kinds of the file that are not run again"
    )
    given = parser.parse_args()

    def work() -> None:
        date, load = now(), load_average()
        limits = {"core_seconds": CASE_SECONDS, "memory_mb": CASE_BYTES // 10**6}
        kinds = json.loads(given.output.read_text())["kinds"] if given.add else {}
        with progress_bars() as progress:
            for name in CASES:
                if not (count := getattr(given, name)):
                    continue
                if not KINDS[name].is_available:
                    note(f"{name}: left out, because {KINDS[name].package} is not installed")
                    continue
                found = run_kind(name, count, functools.partial(progress, name))
                where = provenance(date, 1, load)
                kinds[name] = {**found.to_dict(), "date": date, "git": where["git"]}
                note(f"{name}: {found.cases} cases, {len(found.findings)} findings")
                values = {**where, "limits_a_case": limits, "kinds": kinds}
                write_result(given.output, values)  # again after each, so that none is lost

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
