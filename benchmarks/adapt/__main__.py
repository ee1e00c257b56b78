"""Adapt the default bundle's backbone to photos alone, and measure what it takes and gains.

    python -m benchmarks.adapt --catalogue catalogue --counts 1000 10000

Some photos of the training split are written into a folder, without their captions and attributes,
and `ztcir adapt` runs on it as a process of its own. Its bundle is then measured on the validation
split's triplets, whose photos and texts it has not seen.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adapt.report import FILE, PLAIN
from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.provenance import ROOT, load_average, provenance
from cli.output import note
from ztcir_sdk.environment import now
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import DEFAULT_BUNDLE
from ztcir_sdk.path_patterns import expand_paths
from ztcir_sdk.runtime.cores import available_cores

__all__ = ["main", "write_photos"]

QUERIES = "val-triplets.jsonl"
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Adapt, measure and write the result file; return the exit code."""
    parser = command_parser("adapt", "Measure what `ztcir adapt` takes and gains.")
    add = parser.add_argument
    add("--catalogue", type=Path, required=True, help="folder of train-*.tar and val-*.tar")
    add("--counts", nargs="+", type=positive, default=[1000, 10_000], help="numbers of photos")
    add("--backbone", default=DEFAULT_BUNDLE, help="backbone, as `ztcir adapt` takes it")
    add("--out", type=Path, default=RESULTS / FILE, help="result file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    shards = expand_paths([str(options.catalogue / "train-*.tar")])
    values = {
        **provenance(date, available_cores(), load),
        "backbone": options.backbone,
        "queries": QUERIES,
        "runs": [],
    }
    for count in options.counts:
        with tempfile.TemporaryDirectory(prefix="ztcir-adapt-") as folder:
            place = Path(folder)
            write_photos(shards, count, place / "photos")
            note(f"{count} photos")
            values["runs"].append(_adapted(place, options.backbone, options.catalogue))
        write_result(options.out, values)  # the next count takes much longer


def write_photos(shards: Sequence[Path], count: int, folder: Path) -> None:
    """Write photos that are drawn by chance from all shards, and nothing else of them."""
    found = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            found += [(shard, name) for name in archive.getnames() if name.endswith(".jpg")]
    if count > len(found):
        raise ZtcirError(f"There are {len(found)} photos, not {count}: ask for fewer.")
    chosen = random.Random(SEED).sample(sorted(found), count)
    folder.mkdir()
    for shard in shards:
        with tarfile.open(shard) as archive:
            for name in (name for own, name in chosen if own == shard):
                file = archive.extractfile(name)
                assert file is not None
                (folder / Path(name).name).write_bytes(file.read())


def _adapted(place: Path, backbone: str, catalogue: Path) -> dict[str, Any]:
    bundle = place / "adapted"
    arguments = ["adapt", str(place / "photos"), "--backbone", backbone, "--to", str(bundle)]
    found = _ztcir(*arguments, "--seed", str(SEED))
    images = [str(path) for path in expand_paths([str(catalogue / "val-*.tar")])]
    measured = _ztcir(
        *("eval", "triplets", "--triplets", str(catalogue / QUERIES), "--bundle", str(bundle)),
        *(argument for path in images for argument in ("--images", path)),
        *("--method", "all"),
    )
    kept = ("photos", "seconds", "answers", "why", "triplets", "gains")
    return {
        **{name: found[name] for name in kept},
        "validation": {
            method: scores["overall"]["mAP@10"]
            for method, scores in measured["methods"].items()
            if method in ("composed", *PLAIN)
        },
    }


def _ztcir(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments, "--json"],
        stdout=subprocess.PIPE,  # its progress goes to standard error, which is shown
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise ZtcirError(f"`ztcir {arguments[0]}` failed: see above.")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


if __name__ == "__main__":
    sys.exit(main())
