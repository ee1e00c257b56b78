"""Mines a gallery in the processes that a launcher started, and writes what the main one found.

Usage: mining_run.py FILE EVERY; the result is (steps, B, K) positions as ``.npy``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from train.loop.distributed import Workers
from train.stages.gallery import Gallery
from train.stages.hard_negatives import Answers

IMAGES, QUERIES, WIDTH, COUNT = 1001, 13, 16, 7  # the last part is smaller than the others


def mined(workers: Workers, every: int, steps: int = 5) -> np.ndarray:
    """Return what is mined in some steps, in each of which the queries are others."""
    torch.manual_seed(0)
    embeds = F.normalize(torch.randn(IMAGES, WIDTH), dim=-1)
    gallery = Gallery(embeds.numpy(), workers, every=every)
    targets, references = torch.randint(IMAGES, (2, QUERIES))
    answers = Answers(torch.arange(QUERIES), targets, embeds[targets], references, 0.9)
    found = []
    for step in range(steps):
        queries = F.normalize(torch.randn(QUERIES, WIDTH), dim=-1)
        gallery.step = step
        found.append(gallery.mine(queries, answers, COUNT, positive_aware=0.8).numpy())
    return np.stack(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    workers = Workers("cpu")
    found = mined(workers, int(sys.argv[2]))
    same = workers.collect(torch.from_numpy(found))
    assert all(torch.equal(one, same[0]) for one in same), "processes have mined differently"
    if workers.is_main:
        np.save(Path(sys.argv[1]), found)
