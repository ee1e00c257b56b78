"""The gallery that is mined: in parts by several processes, in half precision, not in each step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mining_run import COUNT, IMAGES, QUERIES, WIDTH, mined
from places import ROOT

from train.loop.distributed import Workers
from train.stages.gallery import Gallery
from train.stages.hard_negatives import Answers, mine


@pytest.mark.parametrize("every", [1, 3])
def test_two_processes_mine_what_one_does(tmp_path: Path, every: int) -> None:
    file = tmp_path / "found.npy"
    script = str(Path(__file__).with_name("mining_run.py"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    done = subprocess.run(
        [sys.executable, *launcher, str(file), str(every)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    np.testing.assert_array_equal(np.load(file), mined(Workers("cpu"), every))


def case() -> tuple[torch.Tensor, torch.Tensor, Answers]:
    torch.manual_seed(1)
    embeds, queries = (F.normalize(torch.randn(n, WIDTH), dim=-1) for n in (IMAGES, QUERIES))
    rows = torch.arange(QUERIES)
    return embeds, queries, Answers(rows, rows + 5, embeds[rows + 5], rows, 0.9)


def test_a_gallery_gives_what_plain_mining_gives() -> None:
    embeds, queries, answers = case()
    gallery = Gallery(embeds.numpy(), Workers("cpu"))
    assert torch.equal(gallery.mine(queries, answers, 9), mine(queries, embeds, answers, 9))
    rows = torch.tensor([3, 1000, 3])
    assert torch.equal(gallery[rows], embeds[rows])


def test_in_half_precision_nearly_the_same_images_are_mined_and_losses_keep_float32() -> None:
    embeds, queries, answers = case()
    gallery = Gallery(embeds.numpy(), Workers("cpu"), dtype=torch.float16)
    found, wanted = gallery.mine(queries, answers, 20), mine(queries, embeds, answers, 20)
    shared = [len({*a} & {*b}) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    assert min(shared) >= 19
    assert gallery[torch.arange(4)].dtype == torch.float32


def test_between_two_searches_only_what_was_found_is_searched() -> None:
    steps = mined(Workers("cpu"), every=3)
    exact = mined(Workers("cpu"), every=1)
    np.testing.assert_array_equal(steps[[0, 3]], exact[[0, 3]])
    for step, last in ((1, 0), (2, 0), (4, 3)):
        assert set(steps[step].flat) <= set(steps[last].flat)
        assert (steps[step] != exact[step]).any()
    assert steps.shape == (5, QUERIES, COUNT)


def test_after_a_checkpoint_the_whole_gallery_is_searched() -> None:
    """A resumed run has no earlier search, and must take the steps of an unbroken one."""
    embeds, queries, answers = case()
    gallery = Gallery(embeds.numpy(), Workers("cpu"), every=7)
    gallery.mine(queries.flip(0), answers, 9)
    gallery.step = 100  # not a multiple of 7
    assert torch.equal(gallery.mine(queries, answers, 9), mine(queries, embeds, answers, 9))
