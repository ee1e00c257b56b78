"""What a run records: one run.json, a log, and TensorBoard curves with each step once."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import drawings
from tiny_training import (
    VIT,
    catalogue,
    fit,
    members_of,
    tiny_fashion_lite,
    write_collection,
    write_shard,
)
from torch import Tensor, nn

from train.loop.engine import Engine
from train.loop.record import Cost, data_fingerprint
from train.loop.run import Evaluation, Run, Schedule, Validation, parameter_groups
from train.model import CheckpointError
from train.settings import Compute
from train.triplets import collection_triplets
from ztcir_sdk.errors import MissingDependencyError

STEPS = 12


def run(folder: Path, stop_after: int | None = None, **options: Any) -> dict[str, float]:
    """Train a line for some steps, saved every fourth, evaluated every sixth."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    made = Run(
        folder,
        {"kind": "line", "seed": 7},
        {"model": model},
        torch.optim.AdamW(parameter_groups([model], 0.1, 0.0)),
        Schedule(STEPS, warmup=2),
        save_every=4,
        engine=Engine(Compute(device="cpu")),
        **options,
    )

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.from_numpy(rng.standard_normal((8, 3))).float()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"number": float(number)}

    def evaluate() -> Evaluation:
        return Evaluation({"quality": -(model.weight - 1).abs().sum().item()})

    return made.train(
        step, Validation(evaluate, "quality", every=6), samples=8, stop_after=stop_after
    )


def summary(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return read


def test_run_json_is_written_at_the_start_and_completed_at_the_end(tmp_path: Path) -> None:
    data = {"training": data_fingerprint(drawings(5)[0])}
    run(tmp_path, stop_after=3, data=data)
    begun = summary(tmp_path)
    assert begun["config"] == {"kind": "line", "seed": 7}
    assert begun["seed"] == 7
    assert begun["data"] == data
    assert begun["versions"].keys() >= {"python", "ztcir", "torch", "open_clip_torch", "numpy"}
    assert begun["compute"]["precision"] == "bf16"
    assert begun["machine"]["cpus"] >= 1
    assert "figures" not in begun
    figures = run(tmp_path, data=data)
    ended = summary(tmp_path)
    assert ended["figures"] == figures
    assert ended["samples_per_second"] > 0
    assert 10 < ended["peak_memory_mib"] < 1e6
    assert {key: ended[key] for key in begun if key != "date"} == {
        key: begun[key] for key in begun if key != "date"
    }


def test_a_finished_run_keeps_its_summary(tmp_path: Path) -> None:
    run(tmp_path)
    ended = summary(tmp_path)
    assert run(tmp_path) == ended["figures"]
    assert summary(tmp_path) == ended


def test_different_collections_have_different_fingerprints() -> None:
    images, _ = drawings(5)
    changed = dataclasses.replace(
        images[2], item=dataclasses.replace(images[2].item, caption="another one")
    )
    prints = [
        data_fingerprint(some)["sha256"]
        for some in (images, images[::-1], images[:4], [*images[:2], changed, *images[3:]])
    ]
    assert len(set(prints)) == 4
    assert data_fingerprint(drawings(5)[0]) == data_fingerprint(images)


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path) -> None:
    images, _ = drawings(5)
    data = {"training": data_fingerprint(images)}
    others = {"training": data_fingerprint(images[::-1])}  # as many of them
    run(tmp_path, stop_after=5, data=data)
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=r"other data \(different: training\); choose another"
    ):
        run(tmp_path, data=others)
    assert {path: path.read_bytes() for path in left} == left
    run(tmp_path, data=data)
    with pytest.raises(CheckpointError, match="other data"):  # a finished one neither
        run(tmp_path, data=others)


def test_a_run_is_not_resumed_with_features_of_a_retrained_backbone(tmp_path: Path) -> None:
    data = {"training": {**data_fingerprint(drawings(5)[0]), "features": {"key": "ab"}}}
    run(tmp_path, stop_after=5, data=data)
    elsewhere = {"key": "ab", "patches": "live"}
    run(tmp_path, stop_after=6, data={"training": {**data["training"], "features": elsewhere}})
    with pytest.raises(CheckpointError, match=r"other data \(different: training\)"):
        run(tmp_path, data={"training": {**data["training"], "features": {"key": "cd"}}})
    run(tmp_path, data={"training": data_fingerprint(drawings(5)[0])})  # as an earlier version


@pytest.mark.parametrize("content", [None, "{}", "not JSON"])
def test_a_run_without_recorded_data_is_resumed(tmp_path: Path, content: str | None) -> None:
    run(tmp_path, stop_after=5)
    (tmp_path / "run.json").unlink()
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert run(tmp_path, data={"training": {"sha256": "ab"}})


def test_no_stage_is_resumed_with_another_collection_of_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = [{**fields, "caption": f"Other {fields['id']}"} for fields in catalogue()]
    members = [member for fields in renamed for member in members_of(fields)]
    other = [str(write_shard(tmp_path / "other.tar", members))]
    data = write_collection(tmp_path)
    with tiny_fashion_lite():
        for stage, start in (("backbone", ""), ("map", VIT), ("compose", str(tmp_path / "map"))):
            fit(stage, tmp_path / stage, data, start, epochs=1)
            with pytest.raises(CheckpointError, match=r"other data \(different: .*training"):
                fit(stage, tmp_path / stage, other, start, epochs=1)
        monkeypatch.setattr(
            "tiny_training.collection_triplets",
            lambda images, **how: collection_triplets(images, **{**how, "seed": 7}),
        )
        with pytest.raises(CheckpointError, match=r"different: development_triplets, triplets\)"):
            fit("compose", tmp_path / "compose", data, start, epochs=1)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_curves_and_log_have_each_step_once_however_often_the_run_was_killed(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard")
    for stop in (3, 7, 11, None):
        run(tmp_path, stop, tensorboard=True)
    run(tmp_path / "whole", tensorboard=True)
    found = curves(tmp_path)
    assert [step for step, _ in found["loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in found["quality"]] == [6, 12]
    assert found == curves(tmp_path / "whole")
    assert found["lr"][1][1] == pytest.approx(0.1)
    log, whole = (folder / "log.jsonl" for folder in (tmp_path, tmp_path / "whole"))
    assert log.read_text(encoding="utf-8") == whole.read_text(encoding="utf-8")


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path / "where-installed", tensorboard=None)
    assert not (tmp_path / "where-installed" / "tensorboard").exists()
    with pytest.raises(
        MissingDependencyError, match=r"--tensorboard needs TensorBoard; .*tensorboard"
    ):
        run(tmp_path / "asked", tensorboard=True)


def test_the_cost_is_printed_during_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "samples/s" in line]
    assert len(lines) >= 2  # at each evaluation
    assert all("expected end" in line and "peak memory" in line for line in lines)


def test_without_the_module_resource_a_run_leaves_out_its_peak_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows does not have it."""
    monkeypatch.setitem(sys.modules, "resource", None)
    run(tmp_path)
    assert "peak_memory_mib" not in summary(tmp_path)
    assert summary(tmp_path)["samples_per_second"] > 0
    printed = capsys.readouterr().err
    assert "samples/s, expected end" in printed
    assert "memory" not in printed


def test_the_cost_counts_samples_against_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("train.loop.record.time.monotonic", lambda: now[0])
    cost = Cost(10, 32, torch.device("cpu"))
    cost.done, now[0] = 4, 102.0
    assert cost.figures()["samples_per_second"] == 64.0
    assert cost.sentence().startswith("64 samples/s, expected end ")
