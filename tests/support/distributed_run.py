"""Trains both stages on tiny data in the processes that a launcher started.

Usage: distributed_run.py FOLDER COMPUTE, the latter a JSON object of `Compute`'s fields. With the
field "shards", it trains Stage I alone, from a stream of these shards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tiny_runs import PARTS, TRAINING, drawings

from train.data import ShardStream, read_held_out
from train.settings import ComposeTraining, Compute, StageSettings
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.triplets import StageTwoData, collection_triplets


def both_stages(folder: Path, compute: Compute) -> None:
    """Train both stages under ``folder``; the backbone is beside it."""
    # 44 images in batches of 16 and, of 45 triplets, 15: the latter do not divide by two
    images, development = drawings(44)
    mapping = folder / "map"
    fit_map(
        str(folder.parent / "clip"),
        images,
        development,
        TRAINING,
        PARTS,
        StageSettings(mapping, folder / "cache", compute=compute),
    )
    triplets = StageTwoData(
        collection_triplets(images, count=45, seed=0),
        development,
        collection_triplets(development, count=20, seed=1),
        [],
    )
    fit_compose(
        mapping,
        images,
        triplets,
        ComposeTraining(epochs=1, batch_size=15, mined=4),
        StageSettings(folder / "compose", folder / "cache", compute=compute),
    )


def stream(folder: Path, shards: list[str], compute: Compute) -> None:
    """Train Stage I for three steps; each process reads its own shards."""
    fit_map(
        str(folder.parent / "clip"),
        ShardStream(shards, buffer=8),
        read_held_out(shards, 50),
        TRAINING,
        PARTS,
        StageSettings(folder / "map", folder / "cache", compute=compute, steps=3),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, fields = Path(sys.argv[1]), json.loads(sys.argv[2])
    if shards := fields.pop("shards", None):
        stream(folder, shards, Compute(**fields))
    else:
        both_stages(folder, Compute(**fields))
