"""Steps are the same in micro-batches, with recomputing, and in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from distributed_run import both_stages
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, SUPPORT
from safetensors.torch import load_file
from tiny_runs import PARTS, TRAINING, drawings, write_backbone

from train.loop.distributed import Workers
from train.loop.engine import Engine
from train.loop.sizes import sizes_for
from train.settings import Compute, StageSettings
from train.stages.fit_map import fit_map
from ztcir_sdk.errors import UsageError

SCRIPT = SUPPORT / "distributed_run.py"
ZTCIR = Path(sys.executable).with_name("ztcir")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write_backbone(folder)
    return folder


def logged(run: Path, name: str) -> list[float]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[name] for line in lines]


def losses(run: Path) -> list[float]:
    return logged(run, "loss")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def assert_same_run(run: Path, other: Path, *, within: float) -> None:
    assert len(losses(run)) > 2
    assert losses(other) == pytest.approx(losses(run), abs=within)
    # Adam would hide a gradient that is too large by a constant
    norms = logged(run, "gradient_norm")
    assert logged(other, "gradient_norm") == pytest.approx(norms, rel=1e-3)
    wanted, got = weights(run), weights(other)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=within, rtol=0, msg=name)


def python(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )


def torchrun(*arguments: object, folder: Path, processes: int) -> None:
    """Run a program in several processes, as ``torchrun`` and ``accelerate launch`` do."""
    launcher = f"-m torch.distributed.run --standalone --nproc_per_node {processes}"
    done = python(*launcher.split(), *arguments, folder=folder)
    assert done.returncode == 0, done.stderr[-4000:]


def launch(folder: Path, compute: dict[str, Any], *, processes: int) -> None:
    """Train as `distributed_run` does, in several processes."""
    torchrun(SCRIPT, folder, json.dumps(compute), folder=ROOT, processes=processes)


def test_two_processes_train_like_one(workplace: Path) -> None:
    compute = {"precision": "fp32", "device": "cpu"}
    one, two = workplace / "one", workplace / "two"
    both_stages(one, Compute(precision="fp32", device="cpu"))
    launch(two, compute, processes=2)
    for stage in ("map", "compose"):
        assert_same_run(one / stage, two / stage, within=2e-5)
    described = json.loads((two / "map" / "run.json").read_text(encoding="utf-8"))
    assert described["compute"]["processes"] == 2


# --- the documented ways to start it, from a folder with files named like ztcir's packages -------

needs_script = pytest.mark.skipif(not ZTCIR.is_file(), reason="the script ztcir is not installed")


@pytest.fixture
def namesakes(tmp_path: Path) -> Path:
    """A folder with a ``train.py``, a ``cli.py`` and some images."""
    for name in ("train.py", "cli.py"):
        (tmp_path / name).write_text("raise SystemExit('not ztcir')\n")
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(drawings(24)[0]):
        image.load().save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


@needs_script
def test_torchrun_trains_in_a_folder_with_files_named_like_our_packages(
    workplace: Path, namesakes: Path
) -> None:
    data = ("--backbone", workplace / "clip", "--data", "photos", "--device", "cpu")
    size = ("--steps", 1, "--batch-size", 8, "--out", "run")
    command = ("--no-python", ZTCIR, "train", "map", *data, *size)
    torchrun(*command, folder=namesakes, processes=2)
    described = json.loads((namesakes / "run" / "run.json").read_text(encoding="utf-8"))
    assert described["compute"]["processes"] == 2


@needs_script
def test_accelerate_starts_the_script_in_a_folder_with_files_named_like_our_packages(
    namesakes: Path,
) -> None:
    launcher = "-m accelerate.commands.launch --cpu --num_processes 1 --no_python"
    done = python(*launcher.split(), ZTCIR, "train", "map", "--help", folder=namesakes)
    assert done.returncode == 0, done.stderr
    assert "Train Stage I" in done.stdout


def test_python_m_cli_names_the_file_that_hides_our_package(namesakes: Path) -> None:
    (namesakes / "cli.py").unlink()
    done = python("-m", "cli", "train", "map", "--help", folder=namesakes)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {(namesakes / 'train.py').resolve()} hides the package")


def train(workplace: Path, name: str, **compute: Any) -> Path:
    out = workplace / name
    images, development = drawings(44)
    fit_map(
        str(workplace / "clip"),
        images,
        development,
        TRAINING,
        PARTS,
        StageSettings(out, workplace / "cache", compute=Compute(device="cpu", **compute)),
    )
    return out


@pytest.fixture(scope="module")
def whole(workplace: Path) -> Path:
    return train(workplace, "whole", precision="fp32")


@pytest.mark.parametrize(
    "compute",
    [
        {"micro_batches": 3},
        {"checkpointing": True},
        {"micro_batches": 2, "checkpointing": True},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
    ],
)
def test_micro_batches_and_checkpointing_change_nothing(
    workplace: Path, whole: Path, compute: dict[str, Any]
) -> None:
    other = train(workplace, "-".join(compute), precision="fp32", **compute)
    assert_same_run(whole, other, within=2e-5)


def test_micro_batches_are_recomputed_one_by_one_in_the_backward_pass(workplace: Path) -> None:
    seen: list[int] = []

    def encode(rows: np.ndarray) -> torch.Tensor:
        seen.append(len(rows))
        return weight[torch.from_numpy(rows)] * 2

    weight = torch.ones(10, 4, requires_grad=True)
    engine = Engine(Compute(micro_batches=4, device="cpu"))
    encoded = engine.encode(encode, np.arange(10))
    assert seen == [3, 3, 2, 2]
    (encoded.sum() ** 2).backward()
    assert sorted(seen) == [2, 2, 2, 2, 3, 3, 3, 3]  # each again, in the backward pass
    torch.testing.assert_close(weight.grad, torch.full((10, 4), 2 * 80.0 * 2))


# the loss scale of fp16 starts so large that the first step overflows and is left out
@pytest.mark.parametrize(("precision", "within"), [("bf16", 0.02), ("fp16", 0.06)])
def test_half_precision_gives_similar_losses(
    workplace: Path, whole: Path, precision: str, within: float
) -> None:
    other = train(workplace, precision, precision=precision)
    assert losses(other) != losses(whole)
    assert losses(other) == pytest.approx(losses(whole), rel=within)


def test_fp16_resumes_with_its_loss_scale(workplace: Path) -> None:
    out = train(workplace, "fp16-again", precision="fp16")
    progress = json.loads((out / "last" / "config.json").read_text(encoding="utf-8"))["progress"]
    assert progress["scaler"]["_growth_tracker"] > 0


@given(total=st.integers(1, 50), count=st.integers(1, 7))
def test_the_shares_of_all_processes_make_up_the_batch(total: int, count: int) -> None:
    batch = np.arange(100, 100 + total)
    shares = []
    for rank in range(count):
        workers = Workers("cpu")
        workers.count, workers.rank = count, rank
        shares.append(workers.share(batch))
    assert len({len(share) for share in shares}) == 1
    np.testing.assert_array_equal(np.concatenate(shares)[:total], batch)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Compute(precision="int8"),
        lambda: Compute(micro_batches=0),
        lambda: Engine(Compute(device="abacus")),
        lambda: Engine(Compute(device="cuda:99")),
    ],
)
def test_impossible_settings_are_refused_with_a_way_out(wrong: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match=r"(choose from|must be at least) "):
        wrong()


# --- what a GPU would do, without one ------------------------------------------------------------


def test_a_gpu_multiplies_in_tf32_unless_fp32_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    Engine(Compute(device="cpu"))
    monkeypatch.setattr("train.loop.distributed._device", lambda _: torch.device("cuda"))
    Engine(Compute(precision="fp32", device="cuda"))
    assert asked == []
    Engine(Compute(precision="bf16", device="cuda"))
    assert asked == ["high"]


def test_a_gpu_takes_larger_pieces_than_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabytes = {"cuda:0": 8, "cuda:1": 80}
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(total_memory=gigabytes[str(device)] * 2**30),
    )
    cpu, small, large = (sizes_for(torch.device(name)) for name in ("cpu", "cuda:0", "cuda:1"))
    assert (cpu.images, cpu.texts, cpu.grouped_texts, cpu.gallery) == (128, 512, 64, 8192)
    assert small.images < large.images <= 512
    assert small.grouped_texts >= 512  # a batch of 512 texts in one pass, not eight


def test_the_optimiser_of_a_gpu_is_fused_and_that_of_a_cpu_stays_plain() -> None:
    group = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}
    engine = Engine(Compute(device="cpu"))
    assert not engine.optimizer([group]).defaults["fused"]
    engine.device = torch.device("cuda")
    assert engine.optimizer([group]).defaults["fused"]
