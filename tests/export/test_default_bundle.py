"""`python -m export.default`: from shards to a measured bundle, resumed after an interruption."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_training import PARTS, tiny_fashion_lite, unflushed, write_collection, write_validation

import export.default
from export.default import Recipe, main
from train.model import read_checkpoint
from train.settings import BackboneTraining, ComposeTraining, MapTraining
from train.triplets.open_requests import REQUEST_KINDS
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.evaluation.triplet_evaluation import ALL_METHODS, evaluate_triplets

pytestmark = pytest.mark.usefixtures("export_cache")

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 16}
PHASES = ("backbone", "instances", "reading")
BACKBONE = BackboneTraining(**SHORT, word_vectors="none", views=2, descriptions=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    recipe = Recipe(
        drawings=0,
        triplets=32,
        parts=PARTS,
        backbone=BACKBONE,
        instances=BackboneTraining(**SHORT, views=2, descriptions=2, instances=1.0),
        reading=BackboneTraining(
            **SHORT, views=2, descriptions=2, attributes=1.0, train_tokens=True
        ),
        mapping=MapTraining(**SHORT),
        composing=ComposeTraining(**SHORT, mined=4),
    )
    monkeypatch.setattr(export.default, "Recipe", lambda: recipe)
    monkeypatch.setattr("train.triplets.stage_two.DEVELOPMENT_TRIPLETS", 8)
    # `test_export` tests this check, which exports two graphs more
    monkeypatch.setattr("export.bundle._check_randomised", lambda *_: None)
    monkeypatch.setattr("export.agreement.MIN_IMAGES", 1)
    with tiny_fashion_lite(), unflushed():
        yield


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(
        main,
        [
            *("--data", str(folder / "train-{0000..0001}.tar")),
            *("--validation-images", str(folder / "val-0000.tar")),
            *("--validation-triplets", str(folder / "val-triplets.jsonl")),
            *("--validation-requests", str(folder / "val-triplets.jsonl")),
            *("--runs", str(folder / "runs"), "--out", str(folder / "bundle"), *options),
        ],
    )


def test_one_command_makes_the_bundle_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_collection(tmp_path)
    write_validation(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(export.default, "fit_map", fail)
        assert str(build(tmp_path).exception) == "killed"
    runs = tmp_path / "runs"
    trained = [runs / name / "clip" / "backbone.safetensors" for name in PHASES]
    written = [path.stat().st_mtime_ns for path in trained]

    result = build(tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert [path.stat().st_mtime_ns for path in trained] == written
    config, _ = read_checkpoint(runs / "compose" / "best")
    assert config["backbone_training"]["start"] == str(runs / "instances" / "clip")
    assert config["backbone_training"]["attributes"] == 1.0

    bundle = Bundle.load(tmp_path / "bundle")
    measured = evaluate_triplets(
        Retriever(bundle),
        [tmp_path / "val-0000.tar"],
        tmp_path / "val-triplets.jsonl",
        methods=ALL_METHODS,
        best_sum=True,
    )
    known = bundle.manifest.model_card["knows"]["requests"]
    assert len(set(known)) == 1 + len(REQUEST_KINDS)
    assert any("similar pictures come back" in request for request in known)
    cost = bundle.manifest.model_card["cost"]
    for stage in ("map", "compose"):
        run = json.loads((runs / stage / "run.json").read_text())
        assert cost[f"{stage}_seconds"] == run["seconds"]
    card = bundle.manifest.model_card["quality"]
    quality = card["methods"]
    assert card["requests"] == quality  # the same file is given for both
    assert quality.keys() == {*ALL_METHODS, "sum_best"}
    for name, scores in measured.methods.items():
        assert quality[name] == json.loads(json.dumps(scores.to_dict()))
        assert f"{name}: mAP@10 {scores.overall['mAP@10']:.4f}" in result.stdout


def test_an_existing_bundle_is_kept_without_overwrite(tmp_path: Path) -> None:
    write_collection(tmp_path)
    write_validation(tmp_path)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    result = build(tmp_path)
    assert result.exit_code == 1
    assert "is already a bundle" in result.stderr
    assert not (tmp_path / "runs").exists()  # refused before an hour of training


def test_a_full_disk_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_collection(tmp_path)
    write_validation(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/map/log.jsonl")

    monkeypatch.setattr(export.default, "fit_backbone", full)
    result = build(tmp_path)
    assert result.exit_code == 1
    assert "There is no room left to write runs/map/log.jsonl" in result.stderr
    assert "Free some space" in result.stderr
