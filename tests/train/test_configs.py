"""Recipes of train/configs: each names an existing backbone and can train on it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner
from tiny_siglip import write_vocabulary

from cli.train import train as train_command
from train.data import TrainingImage, drawn_images
from train.model import BackboneConfig, ComposedModel, TextTower, create_backbone
from train.model.text_tower import read_text_tower
from train.settings import Compute, StageSettings
from train.stages.fit_compose import fit_compose
from train.stages.fit_map import fit_map
from train.stages.recipes import load_recipe, recipe_names
from train.triplets import StageTwoData
from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.triplets import Triplet

NAMES = [
    "fashion-lite",
    "mobileclip2-b",
    "siglip2-b-32",
    "vit-b-32-openai",
    "vit-bigg-14-laion",
    "vit-h-14-laion",
    "vit-l-14-openai",
]
LARGEST = "vit-bigg-14-laion"
PRETRAINED = [name for name in NAMES if name != "fashion-lite"]
TOWERS = {
    "vit-b-32-openai": (True, "eot", None, 49, 768),
    "vit-l-14-openai": (True, "eot", None, 256, 1024),
    "vit-h-14-laion": (True, "eot", None, 256, 1280),
    "vit-bigg-14-laion": (True, "eot", None, 256, 1664),
    "mobileclip2-b": (True, "eot", None, 196, 768),
    "siglip2-b-32": (False, "last", 64, 64, 768),
}
"""causal, pool, pad_to, number and width of patches, as published."""
TEXTS = ("make it red", "blue", "a dress", "for men")


def test_the_recipes_are_these() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_makes_all_settings(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.about.endswith(".")
    assert recipe.parts(tokens=2).tokens == 2
    assert recipe.mapping(seed=3).seed == 3
    assert recipe.composing(mined=0).mined == 0
    for section, made in (("map", recipe.mapping()), ("compose", recipe.composing())):
        for field, value in getattr(recipe, section).items():
            assert getattr(made, field) == value


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_weights_exist_and_need_the_activation_of_the_model(name: str) -> None:
    model, _, tag = str(load_recipe(name).backbone).partition(":")
    weights = open_clip.get_pretrained_cfg(model, tag)
    assert weights, f"{model} has no weights {tag}"
    config = open_clip.get_model_config(model)
    assert bool(weights.get("quick_gelu")) == bool(config.get("quick_gelu"))
    assert bool(config.get("quick_gelu")) == name.endswith("openai")


@pytest.mark.parametrize(
    ("model", "tag", "forced"),
    [("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", False)],
)
def test_a_model_gets_the_activation_of_its_weights_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch, model: str, tag: str, forced: bool
) -> None:
    create = open_clip.create_model

    def without_weights(name: str, *, pretrained: str, force_quick_gelu: bool) -> Any:
        assert pretrained == tag
        return create(name, pretrained=None, force_quick_gelu=force_quick_gelu, force_image_size=32)

    monkeypatch.setattr(open_clip, "create_model", without_weights)
    assert create_backbone(BackboneConfig(model, tag)).quick_gelu == forced


def require_memory(gigabytes: int) -> None:
    """Skip the test where as much memory is not free."""
    lines = (
        Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    )
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    if free and free[0] < gigabytes * 1e9:
        pytest.skip(f"{gigabytes} GB of memory are needed, and {free[0] / 1e9:.0f} GB are free")


@pytest.mark.slow
def test_the_largest_recipe_takes_a_step_at_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Stage I, whose model is held once: Stage II would read a checkpoint of 10 GB beside it."""
    require_memory(14)
    monkeypatch.setattr("train.stages.fit_map.own_weights", lambda model: {})
    recipe = load_recipe(LARGEST)
    name = str(recipe.backbone).partition(":")[0]
    images = drawn_images(6, seed=0)
    settings = StageSettings(
        tmp_path / "map", tmp_path / "features", compute=Compute("bf16", device="cpu"), steps=1
    )
    config = recipe.mapping(batch_size=2)
    mapped = fit_map(name, images[:4], images[4:], config, recipe.parts(), settings)
    backbone, tower = mapped.backbone, mapped.backbone.tower
    layout = (tower.causal, tower.pool, tower.pad_to, backbone.num_patches, backbone.patch_dim)
    assert layout == TOWERS[LARGEST]
    [line] = (tmp_path / "map" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert 0 < record["loss"] < 100
    assert record["gradient_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRETRAINED if name != LARGEST])
def test_both_stages_take_a_step_at_full_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights and a few drawings; the texts do not matter, nor does the vocabulary."""
    require_memory(13 if name == "vit-h-14-laion" else 6)
    write_vocabulary(tmp_path / "vocabulary", "gemma")
    read_tower = read_text_tower

    def read_with_vocabulary(*given: Any) -> TextTower:
        tower = read_tower(*given)
        here = tower.vocabulary and str(tmp_path / "vocabulary")
        return dataclasses.replace(tower, vocabulary=here)

    monkeypatch.setattr("train.model.backbone.read_text_tower", read_with_vocabulary)
    recipe = load_recipe(name)
    model = str(recipe.backbone).partition(":")[0]
    mapping, composing = recipe.mapping(batch_size=4), recipe.composing(batch_size=4, mined=2)
    torch.manual_seed(mapping.seed)  # as Stage I does: these are the weights it starts from
    start = ComposedModel(create_backbone(BackboneConfig(model)), recipe.parts())
    backbone, tower = start.backbone, start.backbone.tower
    layout = (tower.causal, tower.pool, tower.pad_to, backbone.num_patches, backbone.patch_dim)
    assert layout == TOWERS[name]
    assert backbone.quick_gelu == name.endswith("openai")

    images = drawn_images(12, seed=0)
    training, development = images[:8], images[8:]
    settings = StageSettings(
        tmp_path / "map", tmp_path / "features", compute=Compute("bf16", device="cpu"), steps=1
    )
    mapped = fit_map(model, training, development, mapping, recipe.parts(), settings)
    triplets = StageTwoData(triplets_of(training), development, triplets_of(development), [])
    settings = dataclasses.replace(settings, out=tmp_path / "compose")
    composed = fit_compose(tmp_path / "map", training, triplets, composing, settings)
    assert moved_parts(start, mapped) == {"token_learner", "vsi"}
    assert moved_parts(mapped, composed) == {"adapters"}
    for stage in ("map", "compose"):  # gigabytes
        shutil.rmtree(tmp_path / stage)


def triplets_of(images: Sequence[TrainingImage]) -> list[Triplet]:
    """From each image to the next."""
    pairs = itertools.pairwise(image.item.id for image in images)
    return [
        Triplet(reference, "change", reference, text, (target,))
        for (reference, target), text in zip(pairs, itertools.cycle(TEXTS), strict=False)
    ]


def moved_parts(before: ComposedModel, after: ComposedModel) -> set[str]:
    """Return the parts of a model whose weights or buffers have changed."""
    kept, state = before.state_dict(), after.state_dict()
    assert kept.keys() == state.keys()
    assert all(bool(value.isfinite().all()) for value in state.values())
    return {name.partition(".")[0] for name, value in state.items() if not value.equal(kept[name])}


# --- on the command line ------------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the training that `ztcir train map` would run."""
    seen: dict[str, Any] = {}

    def fit_map(backbone: str, *given: Any, **options: Any) -> None:
        _, _, config, parts, settings = given
        seen.update(backbone=backbone, config=config, parts=parts, **vars(settings), **options)

    monkeypatch.setattr("train.stages.fit_map.fit_map", fit_map)
    monkeypatch.setattr("train.data.read_collection", lambda *_, **__: ([], []))
    return seen


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(train_command, ["map", "--data", "x.tar", *arguments])


def test_a_recipe_sets_the_defaults_of_the_options(called: dict[str, Any]) -> None:
    result = invoke("--config", "vit-b-32-openai", "--lr", "0.25", "--no-vsi")
    assert result.exit_code == 0, result.output
    recipe = load_recipe("vit-b-32-openai")
    assert called["backbone"] == "ViT-B-32-quickgelu:openai"
    assert called["config"] == recipe.mapping(lr=0.25)
    assert called["parts"] == recipe.parts(vsi_layers=())


def test_without_a_recipe_options_have_their_own_defaults(called: dict[str, Any]) -> None:
    result = invoke("--backbone", "ViT-B-32", "--precision", "fp32", "--micro-batches", "4")
    assert result.exit_code == 0, result.output
    assert called["compute"].precision == "fp32"
    assert called["compute"].micro_batches == 4
    assert called["patches"] is None
    assert called["word_bank"] is None
    assert invoke().exit_code == 2  # no backbone


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "choose from fashion-lite, "),
        ("{", "is not JSON"),
        ("[]", "the file is .*, not an object"),
        ('{"map": {"learning_rate": 1}}', r"map\.learning_rate is not a known entry"),
        ('{"map": {"epochs": "3"}}', r"map\.epochs is '3', not a whole number"),
        ('{"stage": {}}', "stage is not a known entry"),
    ],
)
def test_an_error_in_a_recipe_is_named(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=rf"recipe.*{sentence}"):
        load_recipe(str(path))


def test_a_recipe_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    values = {"backbone": "ViT-B-16:openai", "model": {"vsi_layers": [1, 3]}}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert load_recipe(str(path)).parts().vsi_layers == (1, 3)
