"""Patches pooled to a grid: in the model, in the cache of features, and in the exported graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from tiny_runs import PARTS, TRAINING, drawings, write_backbone
from tiny_training import VIT, tiny_model

from cli.train import train as train_command
from export.bundle import image_tower_fingerprint, preprocessing
from export.graphs import graph_modules
from export.variants import export_fp32
from train.loop.features import image_features
from train.model import BackboneConfig, create_backbone, load_backbone, load_model
from train.settings import (
    ComposeTraining,
    Compute,
    MapTraining,
    ModelConfig,
    StageSettings,
    described,
    parse_patches,
)
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.triplets import StageTwoData, collection_triplets
from ztcir_sdk.errors import UsageError


def test_a_cell_is_the_mean_of_its_patches() -> None:
    plain, pooled = (create_backbone(BackboneConfig(VIT)) for _ in range(2))
    pooled.load_state_dict(plain.state_dict())
    rows = columns = round(plain.num_patches**0.5)
    pooled.pool_patches((2, 1))
    assert pooled.num_patches == 2
    pixels = torch.randn(3, 3, *plain.image_size)
    with torch.inference_mode():
        v, patches = plain.encode_image(pixels)
        same, cells = pooled.encode_image(pixels)
    grid = patches.reshape(3, rows, columns, -1)
    half = -(-rows // 2)  # with an odd number of rows, both cells have the middle one
    torch.testing.assert_close(cells[:, 0], grid[:, :half].mean((1, 2)))
    torch.testing.assert_close(cells[:, 1], grid[:, rows // 2 :].mean((1, 2)))
    assert torch.equal(v, same)


def test_a_grid_larger_than_the_patches_is_refused() -> None:
    backbone = create_backbone(BackboneConfig(VIT))
    with pytest.raises(UsageError, match="cannot be pooled to 99x1; choose a smaller grid"):
        backbone.pool_patches((99, 1))


@pytest.mark.parametrize(
    ("text", "grid", "storage"),
    [
        ("8x8", (8, 8), "fp16"),
        ("8x8:int8", (8, 8), "int8"),
        ("int8", None, "int8"),
        ("3X2:fp16", (3, 2), "fp16"),
    ],
)
def test_the_option_names_a_grid_and_a_type(
    text: str, grid: tuple[int, int] | None, storage: str
) -> None:
    assert parse_patches(text) == (grid, storage)


@pytest.mark.parametrize("text", ["8", "8x", "0x8", "8x8x8", "fp32", "8x8:"])
def test_other_values_of_the_option_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="takes rows and columns such as 8x8"):
        parse_patches(text)


def test_the_option_also_works_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StageSettings] = []
    monkeypatch.setattr("train.stages.fit_map.fit_map", lambda *given, **_: seen.append(given[5]))
    monkeypatch.setattr("train.data.read_collection", lambda *_, **__: ([], []))

    def invoke(*options: str) -> int:
        arguments = ["map", "--data", "x.tar", "--backbone", "ViT-B-32", *options]
        return CliRunner().invoke(train_command, arguments).exit_code

    assert invoke() == 0
    assert invoke("--patches", "--lr", "1") == 0
    assert invoke("--no-patches") == 0
    assert invoke("--patches", "4x4:int8") == 0
    found = [(one.patches, one.patch_grid, one.patch_storage) for one in seen]
    assert found == [
        (None, None, "fp16"),
        (True, None, "fp16"),
        (False, None, "fp16"),
        (True, (4, 4), "int8"),
    ]
    assert invoke("--patches", "4x4", "--no-patches") == 2
    assert invoke("--patches", "big") != 0


def test_both_stages_train_on_pooled_patches_and_checkpoints_know_it(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path)
    images, development = drawings(44)
    compute = Compute(device="cpu")

    def settings(name: str, grid: tuple[int, int] | None) -> StageSettings:
        return StageSettings(
            tmp_path / name,
            tmp_path / "cache",
            compute=compute,
            patches=True,
            patch_grid=grid,
            patch_storage="int8",
            steps=2,
        )

    fit_map(str(backbone), images, development, TRAINING, PARTS, settings("map", (1, 2)))
    model, config = load_model(tmp_path / "map")
    assert config["model"]["patch_grid"] == [1, 2]
    assert model.backbone.num_patches == 2
    data = StageTwoData(
        collection_triplets(images, count=20, seed=0),
        development,
        collection_triplets(development, count=9, seed=1),
        [],
    )
    training = ComposeTraining(batch_size=8, mined=2)
    with pytest.raises(UsageError, match="pooled to 1x2; give Stage II the same"):
        fit_compose(tmp_path / "map", images, data, training, settings("compose", (2, 2)))
    fit_compose(tmp_path / "map", images, data, training, settings("compose", None))
    assert load_model(tmp_path / "compose")[0].config.patch_grid == (1, 2)
    record = json.loads((tmp_path / "compose" / "run.json").read_text(encoding="utf-8"))
    width = model.backbone.patch_dim
    assert record["data"]["training"]["features"]["patch_bytes"] == 44 * 2 * (width + 2)


def test_features_of_another_grid_are_not_reused(tmp_path: Path) -> None:
    checkpoint = str(write_backbone(tmp_path))
    images, _ = drawings(4)
    whole, pooled = (load_backbone(checkpoint)[0] for _ in range(2))
    pooled.pool_patches((1, 1))
    exact, mean = (
        image_features(some, images, tmp_path / "cache", patches=True) for some in (whole, pooled)
    )
    rows = np.arange(4)
    wanted = exact.rows(rows)[1].mean(1, keepdim=True)
    torch.testing.assert_close(mean.rows(rows)[1], wanted, atol=0.02, rtol=0.02)


def test_settings_that_older_runs_lack_are_not_recorded_at_their_default() -> None:
    for settings in (ModelConfig(), MapTraining(), ComposeTraining()):
        added = {"patch_grid", "mine_every"}
        assert not added & described(settings).keys()
    assert described(ModelConfig(patch_grid=(2, 2)))["patch_grid"] == (2, 2)
    assert described(ComposeTraining(mine_every=8))["mine_every"] == 8


def test_a_padding_bundle_has_another_image_tower_than_a_plain_one() -> None:
    model = tiny_model(VIT)
    assert image_tower_fingerprint(model) == image_tower_fingerprint(model, None)
    assert image_tower_fingerprint(model) != image_tower_fingerprint(model, 1.25)
    assert preprocessing(model.backbone, 1.25).pad_ratio == 1.25


def test_the_exported_image_encoder_pools_too(tmp_path: Path) -> None:
    model = tiny_model(VIT)
    model.backbone.pool_patches((2, 2))
    path = tmp_path / "image_encoder.onnx"
    export_fp32(model, graph_modules(model)[0], path)
    pixels = torch.randn(3, 3, *model.backbone.image_size)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["patch_features"], {"pixel_values": pixels.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.encode_image(pixels)[1].numpy(), atol=1e-4)
    assert found.shape[1] == 4
