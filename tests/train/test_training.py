"""The three stages: what they train, what they leave unchanged, and how killed runs resume."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_training import Trainer
from numpy.typing import NDArray
from PIL import ImageOps
from safetensors.torch import save_file
from tiny_training import (
    PARTS,
    VIT,
    assert_equal_tensors,
    fit,
    saved_every,
    tiny_fashion_lite,
    unflushed,
    write_collection,
)
from torch import Tensor, nn

import train.model.checkpoint
import train.stages.composed_queries
import train.stages.fit_compose
from cli.main import main
from train.data import TrainingImage, read_collection
from train.loop.features import ImageFeatures, image_features
from train.loop.run import Evaluation, Run, Schedule, Validation, parameter_groups
from train.model import (
    BackboneConfig,
    CheckpointError,
    ComposedModel,
    create_backbone,
    load_model,
    mapped_ids,
    read_checkpoint,
)
from train.settings import (
    BackboneTraining,
    Compute,
    MapTraining,
    RunSettings,
    StageSettings,
)
from train.stages.attribute_classifiers import AttributeClassifiers
from train.stages.composed_queries import encode_composed, evaluate_composed
from train.stages.fit_backbone import fit_backbone
from train.stages.fit_map import evaluate_mapped, fit_map
from train.stages.hard_negatives import candidate_pool
from train.stages.losses import info_nce
from train.stages.lower_stages import cache_lower_stages
from train.stages.triplet_rows import TripletRows
from train.stages.word_vectors import SemanticTokenEmbedding
from train.triplets import collection_triplets
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.preprocess import Preprocessing

STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with unflushed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.triplets.stage_two.DEVELOPMENT_TRIPLETS", 24)
        yield


def log_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_equal_runs(one: Path, other: Path) -> None:
    """Every loss and figure of every step, weights and optimizer state: the same bits."""
    assert log_of(one) == log_of(other)
    for name in ("last", "best"):
        config, tensors = read_checkpoint(one / name)
        other_config, other_tensors = read_checkpoint(other / name)
        assert config == other_config
        assert_equal_tensors(tensors, other_tensors)


# --- a run, on a model that takes no time -------------------------------------------------------


def toy(
    folder: Path,
    *,
    steps: int = STEPS,
    config: dict[str, Any] | None = None,
    spoil: Callable[[int], float] = lambda number: 1.0,
    stop_after: int | None = None,
) -> dict[str, float]:
    """Fit a line to noise; ``spoil`` multiplies the loss of a step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(parameter_groups([model], 0.1, 0.1))

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.from_numpy(rng.standard_normal((8, 3))).float()
        loss = (model.train()(x)[:, 0] - x.sum(1)).square().mean() * spoil(number)
        return loss, {"drawn": float(rng.random())}

    def evaluate() -> Evaluation:
        with torch.no_grad():  # up and down, so that the best comes long before the last
            return Evaluation({"score": float(torch.sin(50 * model.eval()(torch.eye(3)).sum()))})

    run = Run(
        folder,
        config or {"seed": 3, "layers": (1, 2)},
        {"model": model},
        optimizer,
        Schedule(steps, warmup=3),
        save_every=3,
    )
    return run.train(step, Validation(evaluate, "score", every=2), stop_after=stop_after)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "unbroken"
    toy(folder)
    return folder


def test_a_run_logs_each_step_and_writes_two_checkpoints(unbroken: Path) -> None:
    log = log_of(unbroken)
    assert [record["step"] for record in log] == list(range(1, STEPS + 1))
    assert all(math.isfinite(record["loss"]) for record in log)
    assert len({record["drawn"] for record in log}) == STEPS
    scores = {record["step"]: record["score"] for record in log if "score" in record}
    assert scores.keys() == {2, 4, 6, 8, 10, 12}
    best = max(scores, key=lambda step: scores[step])
    assert best < STEPS
    config, tensors = read_checkpoint(unbroken / "best")
    evaluation = {"step": best, "figures": {"score": scores[best]}}
    assert config["progress"] == {
        "step": best,
        "best": scores[best],
        "best_evaluation": evaluation,
    }
    assert tensors.keys() == {"model"}
    config, tensors = read_checkpoint(unbroken / "last")
    assert config["progress"]["step"] == STEPS
    assert tensors.keys() == {"model", "optimizer"}
    summary = json.loads((unbroken / "run.json").read_text())
    assert summary["figures"] == {"score": scores[12]}
    assert summary["best"] == evaluation
    assert summary["config"]["seed"] == 3


@settings(max_examples=25)
@given(st.lists(st.integers(1, STEPS + 3), min_size=1, max_size=4))
def test_a_run_stopped_any_number_of_times_ends_like_an_unbroken_one(
    unbroken: Path, tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    for stop in stops:
        toy(folder, stop_after=stop)
    toy(folder)
    assert_equal_runs(folder, unbroken)
    found, whole = (json.loads((run / "run.json").read_text()) for run in (folder, unbroken))
    assert [found[key] for key in ("figures", "best")] == [
        whole[key] for key in ("figures", "best")
    ]


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_full_disk_stops_a_run_and_loses_no_checkpoint(
    moment: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, count = save_file, 0

    def full(*args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train.model.checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*free some space and"):
            toy(tmp_path)
    left = train.model.checkpoint.find_checkpoint(tmp_path / "last")
    assert left is not None or moment <= 3  # the best at step 2, then two files of the last
    if left is not None:
        assert read_checkpoint(left)[0]["progress"]["step"] in (3, 6, 9)
    toy(tmp_path)
    assert_equal_runs(tmp_path, unbroken)


def test_a_changed_configuration_is_refused_and_the_change_named(
    unbroken: Path, tmp_path: Path
) -> None:
    toy(tmp_path, stop_after=5)
    before = read_checkpoint(tmp_path / "last")
    with pytest.raises(CheckpointError, match=r"another configuration \(different: seed\)"):
        toy(tmp_path, config={"seed": 4, "layers": (1, 2)})
    with pytest.raises(
        CheckpointError, match=r"\(different: extra, layers\); choose another --out"
    ):
        toy(tmp_path, config={"seed": 3, "layers": (1,), "extra": 1})
    after = read_checkpoint(tmp_path / "last")
    assert before[0] == after[0]
    assert_equal_tensors(before[1], after[1])
    toy(tmp_path)
    assert_equal_runs(tmp_path, unbroken)


@pytest.mark.parametrize("file", ["model", "optimizer"])
def test_a_checkpoint_with_a_missing_file_is_not_resumed(file: str, tmp_path: Path) -> None:
    toy(tmp_path, stop_after=5)
    (tmp_path / "last" / f"{file}.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {file}\.safetensors"):
        toy(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_harms_no_checkpoint(
    bad: float, unbroken: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"The loss became (nan|inf) at step 7; lower the"):
        toy(tmp_path, spoil=lambda number: bad if number == 7 else 1.0)
    toy(tmp_path)  # from step 6, without what spoilt it
    assert_equal_runs(tmp_path, unbroken)


def test_a_finished_run_is_left_unchanged(tmp_path: Path) -> None:
    figures = toy(tmp_path)
    kept = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert toy(tmp_path) == figures
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_run_killed_after_its_last_step_gets_its_summary(unbroken: Path, tmp_path: Path) -> None:
    toy(tmp_path, stop_after=STEPS)
    toy(tmp_path)
    summary = json.loads((tmp_path / "run.json").read_text())
    assert summary["figures"] == json.loads((unbroken / "run.json").read_text())["figures"]
    assert_equal_runs(tmp_path, unbroken)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=10, warmup=4)
    factors = [schedule.factor(step) for step in range(11)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[7] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_steps_follow_the_schedule_and_gradients_are_clipped(
    tmp_path: Path,
) -> None:
    weight = nn.Parameter(torch.zeros(2))
    module = nn.Module()
    module.weight = weight
    seen: list[Tensor] = []

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        seen.append(weight.detach().clone())
        return 100 * weight[0], {}

    optimizer = torch.optim.SGD([weight], lr=0.5)
    schedule = Schedule(6, warmup=2)
    Run(tmp_path, {"seed": 0}, {"model": module}, optimizer, schedule).train(step)
    seen.append(weight.detach())
    moved = [float((a - b)[0]) for a, b in itertools.pairwise(seen)]
    assert moved == pytest.approx([0.5 * schedule.factor(n) for n in range(6)], abs=1e-5)


def test_gains_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    model[2].requires_grad_(False)
    decayed, kept = parameter_groups([model, None], lr=0.1, weight_decay=0.3)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0)
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert [p.shape for p in kept["params"]] == [(4,), (4,), (4,)]


# --- kill -9 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    if not hasattr(os, "fork"):
        pytest.skip("killed runs are forks, which Windows does not have")
    trainer = Trainer(tmp_path_factory.mktemp("trainer") / "stderr")
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def stages(
    trainer: Trainer, data: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, str]]:
    """The unbroken run of a stage, and what it started from."""
    folder = tmp_path_factory.mktemp("runs")
    starts = {"backbone": "", "map": VIT, "compose": str(folder / "map")}

    def run(stage: str) -> tuple[Path, str]:
        if stage == "compose":
            run("map")
        if not (folder / stage).exists():
            code = trainer.train(stage, folder / stage, data, start=starts[stage])
            assert code == 0, trainer.errors.read_text()
        return folder / stage, starts[stage]

    return run


@pytest.mark.parametrize(
    ("stage", "dies", "resumed_from"),
    [
        ("backbone", ("step", 8), 6),
        ("map", ("step", 8), 6),
        ("map", ("swap", 3), 6),
        ("compose", ("step", 8), 6),
        ("compose", ("step", 1), None),
    ],
)
def test_a_stage_killed_at_any_moment_resumes_exactly(
    stage: str,
    dies: tuple[str, int],
    resumed_from: int | None,
    trainer: Trainer,
    stages: Callable[[str], tuple[Path, str]],
    data: list[str],
    tmp_path: Path,
) -> None:
    whole, start = stages(stage)
    folder = tmp_path / "run"
    assert trainer.train(stage, folder, data, start=start, dies=dies) == -9
    assert not (folder / "clip").exists()
    left = train.model.checkpoint.find_checkpoint(folder / "last")
    if resumed_from is None:
        assert left is None
    else:
        assert left is not None
        assert read_checkpoint(left)[0]["progress"]["step"] == resumed_from
        assert (left.name == ".last.ztcir-old") == (dies[0] == "swap")
    assert trainer.train(stage, folder, data, start=start) == 0, trainer.errors.read_text()
    assert len(log_of(folder)) == STEPS
    assert_equal_runs(folder, whole)
    if stage == "backbone":
        assert_equal_tensors(
            read_checkpoint(folder / "clip")[1], read_checkpoint(whole / "clip")[1]
        )


def test_another_seed_gives_another_run(
    stages: Callable[[str], tuple[Path, str]], data: list[str], tmp_path: Path
) -> None:
    whole, start = stages("map")
    fit("map", tmp_path / "run", data, start, seed=1)
    assert log_of(tmp_path / "run")[0]["loss"] != log_of(whole)[0]["loss"]


def test_a_stage_is_not_resumed_with_other_hyperparameters(data: list[str], tmp_path: Path) -> None:
    with saved_every(3):
        fit("map", tmp_path / "run", data, VIT)
        with pytest.raises(CheckpointError, match=r"\(different: training\); choose another --out"):
            fit("map", tmp_path / "run", data, VIT, lr=0.5)
        with pytest.raises(CheckpointError, match="another configuration"):
            fit("map", tmp_path / "run", data, "tiny-convnet")


# --- the stages, by the command line ------------------------------------------------------------


def ztcir(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def line(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of all three stages, as the command line makes them."""
    folder = tmp_path_factory.mktemp("line")
    shards = ("--data", data[0], "--data", data[1], "--drawings", 20)
    stages = {
        "backbone": ("--word-vectors", "none"),
        "map": ("--backbone", folder / "backbone", "--depth", 2, "--adapter", 8),
        "compose": ("--map", folder / "map", "--count", 48, "--mined", 4),
    }
    with tiny_fashion_lite():
        for stage, options in stages.items():
            shared = (*shards, "--epochs", 1, "--batch-size", 16, "--out", folder / stage)
            result = ztcir("train", stage, *shared, *options)
            assert result.exit_code == 0, (result.output, result.exception)
            assert result.stdout == ""
            assert str(folder / stage) in result.stderr
    return folder


def tensors_of(folder: Path) -> dict[str, dict[str, Tensor]]:
    return read_checkpoint(folder)[1]


def test_each_stage_trains_its_own_parts_and_no_others(line: Path) -> None:
    clip = tensors_of(line / "backbone" / "clip")["backbone"]
    mapped, composed = (tensors_of(line / stage / "last") for stage in ("map", "compose"))
    for tensors in (mapped, composed):
        assert_equal_tensors({"clip": tensors["backbone"]}, {"clip": clip})
    moved = {
        name for name, value in composed["model"].items() if not value.equal(mapped["model"][name])
    }
    adapters = {name for name in composed["model"] if name.startswith("adapters.")}
    assert moved
    assert moved <= adapters
    assert {name for name in adapters if ".up.weight" in name} <= moved
    assert all(
        not value.any()
        for name, value in mapped["model"].items()
        if name.startswith("adapters.") and ".up." in name
    )


def test_stage_2_trains_token_learner_and_vsi_if_asked_for(
    line: Path, data: list[str], tmp_path: Path
) -> None:
    fit("compose", tmp_path / "run", data, str(line / "map"), mapping_lr=1e-3, captions=1.0)
    mapped, composed = (
        tensors_of(folder)["model"] for folder in (line / "map", tmp_path / "run" / "last")
    )
    moved = {
        name.split(".")[0] for name, value in composed.items() if not value.equal(mapped[name])
    }
    assert moved == {"adapters", "token_learner", "vsi"}
    log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    caption_loss = [json.loads(line)["captions"] for line in log if "captions" in line]
    assert caption_loss[-1] < caption_loss[0]


def test_stage_1_is_the_best_checkpoint_if_no_step_of_stage_2_is_better(
    stages: Callable[[str], tuple[Path, str]],
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    falling = itertools.count(1.0, -0.01)
    monkeypatch.setattr(
        train.stages.fit_compose, "evaluate_composed", lambda *_, **__: next(falling)
    )
    mapped, _ = stages("map")
    fit("compose", tmp_path / "run", data, str(mapped), epochs=1)
    config, best = read_checkpoint(tmp_path / "run" / "best")
    assert config["progress"]["step"] == 0
    before = read_checkpoint(mapped / "best")[1]
    assert_equal_tensors({"model": best["model"]}, {"model": before["model"]})
    last = tensors_of(tmp_path / "run" / "last")["model"]
    assert any(not value.equal(best["model"][name]) for name, value in last.items())
    assert [record["step"] for record in log_of(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize("wanted", [1.0, 0.75, 0.25])
def test_the_best_checkpoint_has_adapters_of_the_best_strength(
    stages: Callable[[str], tuple[Path, str]],
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: float,
) -> None:
    """Training continues with the adapters at full strength."""
    later = itertools.count(0.0, 1e-3)

    def peak(model: Any, *_: object, scale: float, **__: object) -> float:
        moved = any(bool(adapter.up.weight.any()) for adapter in model.adapters)
        return 1 - abs(scale - wanted) + next(later) if moved else 0.0

    monkeypatch.setattr(train.stages.fit_compose, "evaluate_composed", peak)
    fit("compose", tmp_path / "run", data, str(stages("map")[0]), epochs=1)
    config, best = read_checkpoint(tmp_path / "run" / "best")
    best_evaluation = config["progress"]["best_evaluation"]
    assert best_evaluation["step"] == 4
    assert best_evaluation["figures"]["adapter_strength"] == wanted
    for name, value in tensors_of(tmp_path / "run" / "last")["model"].items():
        share = wanted if name.startswith("adapters.") and ".up." in name else 1.0
        assert torch.equal(best["model"][name], value * share), name


@given(st.data())
def test_some_references_are_replaced_by_one_of_their_targets(drawn: st.DataObject) -> None:
    ids = [str(number) for number in range(12)]
    names = st.lists(st.sampled_from(ids), min_size=1, max_size=5, unique=True)
    triplets = [
        Triplet(str(number), "colour", drawn.draw(st.sampled_from(ids)), "in red", tuple(targets))
        for number, targets in enumerate(drawn.draw(st.lists(names, min_size=1, max_size=8)))
    ]
    rows = TripletRows.of(triplets, ids)
    before = [own.tolist() for own in rows.targets]
    for share in (0.0, 0.5, 1.0):
        asked = rows.replace_references(
            share, np.random.default_rng(drawn.draw(st.integers(0, 99)))
        )
        for place, own in enumerate(before):
            now, right = asked.references[place], asked.targets[place].tolist()
            if right == own:
                assert now == rows.references[place]
                assert share < 1 or len(own) == 1
            else:
                assert share > 0
                assert sorted([now, *right]) == sorted(own)
        assert asked.texts == rows.texts
    assert [own.tolist() for own in rows.targets] == before


def test_references_are_replaced_only_after_the_first_epochs(
    stages: Callable[[str], tuple[Path, str]],
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = {
        (t.reference, t.text)
        for t in collection_triplets(read_collection(data)[0], count=64, seed=0)
    }
    steps: list[list[tuple[str, str]]] = []
    encode = encode_composed

    def spied(
        model: ComposedModel, features: ImageFeatures, rows: TripletRows, *rest: Any, **options: Any
    ) -> Tensor:
        steps.append(
            [
                (features.ids[one], text)
                for one, text in zip(rows.references, rows.texts, strict=True)
            ]
        )
        return encode(model, features, rows, *rest, **options)

    monkeypatch.setattr(train.stages.fit_compose, "encode_composed", spied)
    monkeypatch.setattr(train.stages.fit_compose, "evaluate_composed", lambda *_, **__: 0.0)
    fit("compose", tmp_path / "run", data, str(stages("map")[0]), epochs=3, as_given=2)
    assert len(steps) == STEPS
    assert all(one in whole for step in steps[:8] for one in step)
    others = [one not in whole for step in steps[8:] for one in step]
    assert 0.2 < sum(others) / len(others) < 0.8


def test_checkpoints_record_their_stage_and_origin(line: Path) -> None:
    for stage in ("map", "compose"):
        model, config = load_model(line / stage, need=stage)
        assert config["kind"] == stage
        assert config["backbone"] == {"model": "fashion-lite", "pretrained": None}
        assert config["backbone_training"]["word_vectors"] == "none"
        assert config["training"]["epochs"] == 1
        assert model.config.adapter_bottleneck == 8
    assert config["map_training"]["batch_size"] == 16
    for stage in ("backbone", "map", "compose"):
        summary = json.loads((line / stage / "run.json").read_text())
        assert summary["seed"] == 0
        assert all(math.isfinite(value) for value in summary["figures"].values())
    measured = {"dev_mAP@10", "dev_unseen_wordings_mAP@10", "adapter_strength"}
    assert set(summary["figures"]) == measured


@pytest.fixture(autouse=True)
def _small_fashion_lite() -> Iterator[None]:
    with tiny_fashion_lite():
        yield


def test_a_missing_image_of_a_triplet_is_named(line: Path, data: list[str], tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    row = {"id": "a", "kind": "colour", "reference": 1000, "text": "in red", "targets": [1001]}
    gone = {**row, "id": "b", "targets": [1001, 999999]}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(gone)}\n")
    arguments = ("--data", data[0], "--data", data[1], "--map", line / "map")
    result = ztcir("train", "compose", *arguments, "--triplets", file, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "The data does not contain 1 images of the triplets, such as" in result.stderr
    assert "999999" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize(
    ("stage", "options", "sentence"),
    [
        (
            "compose",
            ["--count", "48", "--map", "{line}/backbone/clip"],
            "'backbone' checkpoint, but a 'map' checkpoint is",
        ),
        (
            "compose",
            ["--count", "48", "--map", "{line}/nothing"],
            "There is no folder {line}/nothing;",
        ),
        ("map", ["--backbone", "no-such-model"], "no-such-model is neither an open_clip model nor"),
        ("map", ["--backbone", "tiny-vit:no-such-tag"], "no weights 'no-such-tag' of tiny-vit"),
        ("map", ["--backbone", "{line}/backbone/best"], "backbone run that is not finished"),
        ("map", ["--backbone", "{line}/gone/clip"], "There is no folder {line}/gone/clip; name a"),
        ("backbone", ["--start", "{line}/nothing"], "There is no folder {line}/nothing;"),
    ],
)
def test_a_stage_refuses_what_it_cannot_start_from(
    stage: str, options: list[str], sentence: str, line: Path, data: list[str], tmp_path: Path
) -> None:
    filled = [option.format(line=line) for option in options]
    result = ztcir("train", stage, "--data", data[0], "--data", data[1], *filled, "--out", tmp_path)
    assert result.exit_code == 1, result.output
    assert sentence.format(line=line) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("file", ["bundle.json", "photo.jpg"])
def test_a_folder_named_like_a_model_is_not_taken_for_a_checkpoint(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a bundle that was exported from the model, under its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ViT-B-32").mkdir()
    (tmp_path / "ViT-B-32" / file).write_text("{}")
    result = ztcir("train", "map", "--data", "photos", "--backbone", "ViT-B-32")
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    kind = "an exported bundle" if file == "bundle.json" else "not a checkpoint"
    assert line.startswith(f"Error: ViT-B-32 is {kind}")
    assert "for the open_clip model of that name, add a pretrained tag, as in ViT-B-32:" in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("junk.safetensors", b"no header"),
        ("junk.pt", b"no pickle"),  # UnpicklingError
        ("empty.pt", b""),  # EOFError
        ("words.txt", b"hello world"),  # KeyError
    ],
)
def test_a_file_without_weights_is_named(
    name: str, content: bytes, data: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    shards = ("--data", data[0], "--data", data[1])
    backbone = ("--backbone", f"{VIT}:{path}")
    result = ztcir("train", "map", *shards, *backbone, "--out", tmp_path / "run")
    assert result.exit_code == 1, (result.output, result.exception)
    assert f"Error: {path} is not a weights file, or is damaged (" in result.stderr


@pytest.mark.parametrize(
    ("stage", "option", "value"),
    [
        *((stage, "--epochs", 0) for stage in ("backbone", "map", "compose")),
        *((stage, "--batch-size", 0) for stage in ("backbone", "map", "compose")),
        *((stage, "--drawings", -1) for stage in ("backbone", "map", "compose")),
        *((stage, "--seed", -1) for stage in ("backbone", "map", "compose")),
        *((stage, "--lr", 0) for stage in ("map", "compose")),
        ("backbone", "--image-lr", 0),
        ("backbone", "--text-lr", -1e-3),
        ("backbone", "--instances", -1),
        ("backbone", "--instance-temperature", 0),
        ("backbone", "--caption-share", 1.5),
        ("map", "--alignment", -0.5),
        ("map", "--tokens", 0),
        ("map", "--depth", -1),
        ("map", "--adapter", -1),
        ("compose", "--count", 0),
        ("compose", "--noise", 1.5),
        ("compose", "--mined", -1),
    ],
)
def test_numbers_out_of_range_are_refused(stage: str, option: str, value: float) -> None:
    result = ztcir("train", stage, "--data", "x.tar", option, value)
    assert result.exit_code == 2, (result.output, result.exception)
    assert f"'{option}'" in result.stderr
    assert "is not in the range" in result.stderr


@pytest.mark.parametrize("stage", ["backbone", "map", "compose"])
@pytest.mark.parametrize("option", ["--cache", "--out"])
def test_a_folder_below_a_file_is_refused_before_anything_is_read(
    stage: str, option: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = ztcir("train", stage, "--data", "x.tar", option, tmp_path / "file" / "a" / "b")
    assert result.exit_code == 2, (result.output, result.exception)
    assert f"because {tmp_path / 'file'} is a file; choose another" in result.stderr


def test_stage_2_needs_adapters(data: list[str], tmp_path: Path) -> None:
    shards = ("--data", data[0], "--data", data[1], "--epochs", 1, "--batch-size", 16)
    parts = ("--adapter", 0, "--no-vsi", "--depth", 0, "--tokens", 2, "--alignment", 0)
    result = ztcir("train", "map", *shards, "--backbone", VIT, *parts, "--out", tmp_path / "map")
    assert result.exit_code == 0, (result.output, result.exception)
    model, _ = load_model(tmp_path / "map")
    assert (model.vsi, len(model.adapters), model.config.tokens) == (None, 0, 2)
    start = ("--count", 48, "--map", tmp_path / "map")
    result = ztcir("train", "compose", *shards, *start, "--out", tmp_path / "compose")
    assert result.exit_code == 1
    assert "has no adapters; train it with --adapter above 0" in result.stderr


def test_cached_lower_stages_are_not_reused_for_other_images(
    data: list[str], tmp_path: Path
) -> None:
    images, _ = read_collection(data)
    with tiny_fashion_lite():
        backbone = create_backbone(BackboneConfig("fashion-lite"))

        def cached(some: Sequence[TrainingImage], name: str) -> NDArray[np.float16]:
            config = BackboneTraining()
            return cache_lower_stages(backbone, some, config, tmp_path / name, views=1).copy()

        kept, again = (cached(images[:3], "lower.npy") for _ in range(2))
        other, fresh = (cached(images[3:6], name) for name in ("lower.npy", "fresh.npy"))
    np.testing.assert_array_equal(again, kept)
    np.testing.assert_array_equal(other, fresh)
    assert not np.array_equal(other, kept)


def test_a_backbone_run_can_start_from_another_backbone(
    line: Path, data: list[str], tmp_path: Path
) -> None:
    cache = line / "backbone" / "cache"
    written = (cache / "lower.npy").stat().st_mtime_ns
    shards = ("--data", data[0], "--data", data[1], "--drawings", 20, "--cache", cache)
    sizes = ("--epochs", 1, "--batch-size", 16, "--instances", 1, "--out", tmp_path / "next")
    result = ztcir("train", "backbone", *shards, *sizes, "--start", line / "backbone" / "clip")
    assert result.exit_code == 0, (result.output, result.exception)
    assert (cache / "lower.npy").stat().st_mtime_ns == written  # lower stages are still the same
    before, after = (
        tensors_of(run / "clip")["backbone"] for run in (line / "backbone", tmp_path / "next")
    )
    still = {name for name, value in after.items() if value.equal(before[name])}
    assert "token_embedding.weight" in still
    assert "visual.trunk.conv_stem.weight" in still
    assert not {"visual.head.proj.weight", "text_projection", "logit_scale"} & still


def test_token_rows_of_the_start_are_trained_if_asked_for(
    line: Path, data: list[str], tmp_path: Path
) -> None:
    options = ("--epochs", 1, "--batch-size", 16, "--out", tmp_path / "next", "--train-tokens")
    shards = ("--data", data[0], "--data", data[1])
    start = line / "backbone" / "clip"
    result = ztcir("train", "backbone", *shards, *options, "--start", start)
    assert result.exit_code == 0, (result.output, result.exception)
    before, after = (
        tensors_of(folder)["backbone"]["token_embedding.weight"]
        for folder in (start, tmp_path / "next" / "clip")
    )
    assert not after.equal(before)


def test_attributes_are_classified_from_embedding_and_patches_where_they_are_known() -> None:
    """Worked by hand: heads of zero give log of the number of values."""
    values = np.array([[0, -1, 0], [1, -1, 0], [2, 0, 0], [0, 1, 0]])  # the last has one value
    classifiers = AttributeClassifiers(values, 4, 6)
    for parameter in classifiers.parameters():
        torch.nn.init.zeros_(parameter)
    embeds, patches = torch.randn(2, 4, requires_grad=True), torch.randn(2, 6, requires_grad=True)
    both = classifiers.loss(np.array([2, 3]), embeds, patches, 0.1).item()
    assert both == pytest.approx((math.log(3) + math.log(2)) / 2)
    one = classifiers.loss(np.array([0, 1]), embeds, patches, 0.1).item()
    assert one == pytest.approx(math.log(3))
    with torch.no_grad():
        for head in (*classifiers.on_embeds, *classifiers.on_patches):
            head.weight.normal_()
    classifiers.loss(np.array([2, 3]), embeds, patches, 0.1).backward()
    assert embeds.grad is not None
    assert embeds.grad.any()
    assert patches.grad is not None
    assert patches.grad.any()


def test_the_instance_loss_separates_photos(data: list[str], tmp_path: Path) -> None:
    """Without it, an embedding keeps only what the texts of a photo describe."""
    images, development = read_collection(data)
    apart = {}
    for weight in (0.0, 3.0):
        config = BackboneTraining(
            epochs=3, batch_size=16, image_lr=3e-3, word_vectors="none", instances=weight
        )
        backbone = fit_backbone(images, development, config, RunSettings(tmp_path / str(weight)))
        preprocess = Preprocessing.from_open_clip(backbone.preprocess_cfg)
        with torch.inference_mode():
            views = [
                backbone.encode_image(
                    torch.from_numpy(preprocess([turn(i.load()) for i in images]))
                )[0]
                for turn in (lambda image: image, ImageOps.mirror)
            ]
            apart[weight] = float(info_nce(views[0], views[1], 10.0))
    assert apart[3.0] < apart[0.0] - 0.1


# --- what is learnt from ------------------------------------------------------------------------


def test_the_reference_is_always_a_negative(
    stages: Callable[[str], tuple[Path, str]],
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However near it is to the target: with random weights all images are near-duplicates."""
    pools: list[tuple[Tensor, Tensor]] = []
    seen: list[tuple[Tensor, ...]] = []
    pool_of = candidate_pool

    def record_pool(targets: Tensor, references: Tensor, mined: Tensor | None) -> Tensor:
        pool = pool_of(targets, references, mined)
        pools.append((pool, references))
        return pool

    def record_loss(logits: Tensor, positive: Tensor, excluded: Tensor) -> Tensor:
        seen.append((logits, positive, excluded))
        return (logits * positive).mean()

    monkeypatch.setattr(train.stages.fit_compose, "candidate_pool", record_pool)
    monkeypatch.setattr(train.stages.fit_compose, "multi_positive_nce", record_loss)
    fit("compose", tmp_path / "run", data, str(stages("map")[0]), epochs=1)
    assert len(seen) == len(pools) == 4
    for (logits, positive, excluded), (pool, references) in zip(seen, pools, strict=True):
        assert logits.shape == positive.shape == excluded.shape == (16, len(pool))
        place = {int(row): column for column, row in enumerate(pool)}
        own = torch.tensor([place[int(row)] for row in references])
        rows = torch.arange(16)
        assert not positive[rows, own].any()
        assert not excluded[rows, own].any()
        assert positive.any(1).all()
        assert (excluded & ~positive).any()


@pytest.fixture(scope="module")
def trained(stages: Callable[[str], tuple[Path, str]]) -> ComposedModel:
    model, _ = load_model(stages("compose")[0])
    return model


@torch.no_grad()
def plain_queries(model: ComposedModel, v: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
    count = len(v)
    with torch.autocast("cpu", torch.bfloat16):
        reference = model.learn_token(v, patches)
        return model.encode_query(ids, torch.arange(count), torch.zeros(count), *reference).float()


def test_stage_2_is_evaluated_by_mean_average_precision_without_the_reference(
    trained: ComposedModel, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By queries that lie between reference and target, so that the reference would come first."""
    images, _ = read_collection(data)
    ids = [image.item.id for image in images]
    rng = np.random.default_rng(0)
    embeds = rng.standard_normal((len(ids), 24)).astype(np.float32)
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    features = ImageFeatures(tuple(ids), embeds, None)
    triplets = collection_triplets(images, count=300, seed=5)
    asked = np.stack(
        [
            embeds[ids.index(triplet.reference)]
            + 0.4 * embeds[ids.index(triplet.targets[number % len(triplet.targets)])]
            for number, triplet in enumerate(triplets)
        ]
    )

    def encode(model: ComposedModel, _: object, rows: object, batch: Any, **__: Any) -> Tensor:
        return torch.from_numpy(asked[batch])

    monkeypatch.setattr(train.stages.composed_queries, "encode_composed", encode)
    precisions = []
    for triplet, query in zip(triplets, asked, strict=True):
        order = [row for row in np.argsort(-embeds @ query) if ids[row] != triplet.reference]
        right = [ids[row] in triplet.targets for row in order[:10]]
        hits = [sum(right[: place + 1]) / (place + 1) for place in range(10) if right[place]]
        precisions.append(sum(hits) / min(10, len(triplet.targets)))
    expected = sum(precisions) / len(precisions)
    assert 0.2 < expected < 0.98
    found = evaluate_composed(trained, features, TripletRows.of(triplets, ids))
    assert found == pytest.approx(expected, abs=1e-6)


def test_stage_1_is_evaluated_by_how_often_an_image_is_retrieved(
    trained: ComposedModel, data: list[str], tmp_path: Path
) -> None:
    images, _ = read_collection(data)
    features = image_features(trained.backbone, images[:12], tmp_path)
    v, patches = features.rows(np.arange(12))
    queries = plain_queries(trained, v, patches, mapped_ids(12))
    nearest = (queries @ torch.from_numpy(features.embeds).T).argmax(1).tolist()
    expected = sum(place == row for row, place in enumerate(nearest)) / 12
    assert evaluate_mapped(trained, features)["dev_self_R@1"] == pytest.approx(expected)


def test_stage_1_is_selected_by_triplets_where_there_are_some(
    line: Path, data: list[str], tmp_path: Path
) -> None:
    images, development = read_collection(data)
    triplets = collection_triplets(development, count=8, seed=1)
    settings = StageSettings(tmp_path / "run", compute=Compute(device="cpu"))
    fit_map(
        str(line / "backbone" / "clip"),
        images,
        development,
        MapTraining(epochs=2, batch_size=16),
        PARTS,
        settings,
        selecting=triplets,
    )
    summary = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    trained, _ = load_model(tmp_path / "run" / "best")
    features = image_features(trained.backbone, development, tmp_path / "features")
    rows = TripletRows.of(triplets, features.ids)
    found = evaluate_composed(trained, features, rows, scale=0.0)
    assert summary["best"]["figures"]["dev_mAP@10"] == pytest.approx(found, abs=1e-3)
    log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    figures = [json.loads(line).get("dev_mAP@10") for line in log]
    assert found == pytest.approx(max(one for one in figures if one is not None), abs=1e-3)


def test_token_rows_of_unseen_words_are_changed_by_the_map_alone() -> None:
    rows = torch.randn(10, 4)
    table = SemanticTokenEmbedding(rows, torch.tensor([2, 5]))
    assert torch.equal(table.materialise(), rows)
    with torch.no_grad():
        table.map.weight.mul_(2)
        table.correction.weight[:2] += torch.tensor([[1.0], [3.0]])
    expected = 2 * rows
    expected[2] += 1
    expected[5] += 3
    ids = torch.tensor([[5, 0, 2], [9, 9, 5]])
    torch.testing.assert_close(table(ids), expected[ids])
    torch.testing.assert_close(table.materialise(), expected)
    table(ids).sum().backward()
    gradient = table.correction.weight.grad
    assert gradient is not None
    assert gradient[2].abs().max() == 0  # of all words that are not seen
    assert gradient[:2].abs().min() > 0


def test_parts_have_the_configured_sizes(trained: ComposedModel) -> None:
    assert trained.config == PARTS
