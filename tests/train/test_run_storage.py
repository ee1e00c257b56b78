"""The weights that a run does not train stand once in it, however many checkpoints name them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from train.loop.engine import Engine
from train.loop.run import Evaluation, Run, Schedule, Validation, parameter_groups
from train.model import read_checkpoint, same_tensors
from train.settings import Compute

STEPS = 12
BYTES = 4 * 300 * 300


def run(
    folder: Path,
    *,
    stop_after: int | None = None,
    seed: int = 3,
    best: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Train a line beside a large module that is not trained."""
    torch.manual_seed(seed)
    model, backbone = nn.Linear(3, 1), nn.Linear(300, 300, bias=False)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.from_numpy(rng.standard_normal((8, 3))).float()
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

    def evaluate() -> Evaluation:
        return Evaluation({"quality": -(model.weight - 1).abs().sum().item()}, best or {})

    Run(
        folder,
        {"kind": "line", "seed": 7},
        {"model": model},
        torch.optim.AdamW(parameter_groups([model], 0.1, 0.0)),
        Schedule(STEPS, warmup=2),
        fixed={"backbone": backbone},
        save_every=4,
        engine=Engine(Compute(device="cpu")),
    ).train(step, Validation(evaluate, "quality", every=3), stop_after=stop_after)


def disk_bytes(folder: Path) -> int:
    """Return what a folder takes; a file with several names counts once."""
    files = (path.stat() for path in folder.rglob("*.safetensors"))
    return sum({(one.st_dev, one.st_ino): one.st_size for one in files}.values())


def weights(folder: Path) -> Tensor:
    return read_checkpoint(folder)[1]["backbone"]["weight"]


def test_untrained_weights_stand_once_and_each_folder_is_complete(tmp_path: Path) -> None:
    once = tmp_path / "once"
    run(once)
    assert BYTES < disk_bytes(once) < 1.5 * BYTES
    kept = weights(once / "best")
    assert torch.equal(weights(once / "last"), kept)
    shutil.copytree(once / "best", tmp_path / "copied")  # as people move a checkpoint
    shutil.rmtree(once)
    assert torch.equal(weights(tmp_path / "copied"), kept)


def test_a_run_that_resumes_still_keeps_them_once(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(whole)
    run(part, stop_after=5)
    run(part)
    assert disk_bytes(part) < 1.5 * BYTES
    for name in ("last", "best"):
        one, other = read_checkpoint(whole / name)[1], read_checkpoint(part / name)[1]
        assert torch.equal(one["model"]["weight"], other["model"]["weight"])
    shutil.rmtree(part / "best")  # a deleted one is written again
    run(part)


def test_other_weights_are_never_taken_for_the_same(tmp_path: Path) -> None:
    run(tmp_path, stop_after=8)
    before = weights(tmp_path / "last")
    run(tmp_path, seed=4)  # the backbone's own checkpoint was trained again
    torch.manual_seed(4)
    _, backbone = nn.Linear(3, 1), nn.Linear(300, 300, bias=False)
    assert not torch.equal(before, backbone.weight)
    assert torch.equal(weights(tmp_path / "last"), backbone.weight)


def test_weights_of_an_evaluation_take_their_place(tmp_path: Path) -> None:
    own = torch.ones(2, 2)
    run(tmp_path, best={"backbone": {"weight": own}})
    assert torch.equal(weights(tmp_path / "best"), own)
    assert weights(tmp_path / "last").shape == (300, 300)


def test_a_file_system_without_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run(tmp_path)
    assert torch.equal(weights(tmp_path / "last"), weights(tmp_path / "best"))


@pytest.mark.parametrize("change", ["name", "value", "type", "more"])
def test_files_are_compared_tensor_by_tensor(tmp_path: Path, change: str) -> None:
    run(tmp_path)
    file = tmp_path / "last" / "backbone.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensor = opened.get_tensor("weight")
    assert same_tensors(file, {"weight": tensor})
    other = {
        "name": {"weights": tensor},
        "value": {"weight": tensor + 1},
        "type": {"weight": tensor.double()},
        "more": {"weight": tensor, "bias": tensor[0]},
    }[change]
    assert not same_tensors(file, other)
    assert not same_tensors(tmp_path / "nothing.safetensors", {"weight": tensor})
