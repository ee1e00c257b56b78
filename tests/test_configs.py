"""Recipes of train/configs: each names a backbone that there is, and trains on it as it stands."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner
from tiny_siglip import write_vocabulary

from cli.train import train
from train.backbone import BackboneConfig, create_backbone
from train.configurations import configuration_names, load_configuration
from train.fit_map import encode_mapped
from train.losses import info_nce
from train.model import ComposedModel
from train.prompts import mapped_ids, prompt_ids
from train.run import parameter_groups
from ztcir_sdk.errors import UsageError

NAMES = ["fashion-lite", "mobileclip2-b", "siglip2-b-32", "vit-b-32-openai", "vit-l-14-openai"]
PRETRAINED = [name for name in NAMES if name != "fashion-lite"]
TOWERS = {
    "vit-b-32-openai": (True, "eot", None, 49, 768),
    "vit-l-14-openai": (True, "eot", None, 256, 1024),
    "mobileclip2-b": (True, "eot", None, 196, 768),
    "siglip2-b-32": (False, "last", 64, 64, 768),
}
"""causal, pool, pad_to, patches and their width, as the models were published."""


def test_the_recipes_are_these() -> None:
    assert configuration_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_makes_all_configurations(name: str) -> None:
    recipe = load_configuration(name)
    assert recipe.about.endswith(".")
    assert recipe.parts(tokens=2).tokens == 2
    assert recipe.mapping(seed=3).seed == 3
    assert recipe.composing(mined=0).mined == 0
    for section, made in (("map", recipe.mapping()), ("compose", recipe.composing())):
        for field, value in getattr(recipe, section).items():
            assert getattr(made, field) == value


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_weights_exist_and_want_the_activation_that_the_model_has(name: str) -> None:
    model, _, tag = str(load_configuration(name).backbone).partition(":")
    weights = open_clip.get_pretrained_cfg(model, tag)
    assert weights, f"{model} has no weights {tag}"
    config = open_clip.get_model_config(model)
    assert bool(weights.get("quick_gelu")) == bool(config.get("quick_gelu"))
    assert bool(config.get("quick_gelu")) == name.endswith("openai")


@pytest.mark.parametrize(
    ("model", "tag", "forced"),
    [("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", False)],
)
def test_weights_bring_their_activation_whatever_the_model_is_called(
    monkeypatch: pytest.MonkeyPatch, model: str, tag: str, forced: bool
) -> None:
    create = open_clip.create_model

    def without_weights(name: str, *, pretrained: str, force_quick_gelu: bool) -> Any:
        assert pretrained == tag
        return create(name, pretrained=None, force_quick_gelu=force_quick_gelu, force_image_size=32)

    monkeypatch.setattr(open_clip, "create_model", without_weights)
    assert create_backbone(BackboneConfig(model, tag)).quick_gelu == forced


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAINED)
def test_both_stages_take_a_step_at_full_size(name: str, tmp_path: Path) -> None:
    """Random weights and four random images; the text may be any, so any vocabulary will do."""
    torch.manual_seed(0)
    recipe = load_configuration(name)
    backbone = create_backbone(BackboneConfig(str(recipe.backbone).partition(":")[0]))
    tower = backbone.tower
    layout = (tower.causal, tower.pool, tower.pad_to, backbone.num_patches, backbone.patch_dim)
    assert layout == TOWERS[name]
    assert backbone.quick_gelu == name.endswith("openai")
    if tower.vocabulary is not None:
        write_vocabulary(tmp_path / "vocabulary", "gemma")
        tower = dataclasses.replace(tower, vocabulary=str(tmp_path / "vocabulary"))
    model = ComposedModel(backbone, recipe.parts())
    v, patches = model.encode_image(torch.randn(4, 3, *backbone.image_size))
    frozen = {key: value.clone() for key, value in backbone.state_dict().items()}

    def mapping_loss() -> torch.Tensor:
        queries = encode_mapped(model, v, patches, mapped_ids(4, tower=tower))
        return info_nce(queries, v, 1 / recipe.mapping().temperature)

    def composing_loss() -> torch.Tensor:
        with torch.no_grad():
            said = model.learn_token(v, patches)
        ids = prompt_ids(["make it red", "blue", "a dress", "for men"], tower=tower)
        queries = model.encode_query(ids, torch.arange(4), torch.ones(4), *said)
        return info_nce(queries, v.roll(1, 0), 1 / recipe.composing().temperature)

    assert one_step(mapping_loss, [model.token_learner, model.vsi]) > 0
    assert one_step(composing_loss, [model.adapters]) > 0
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, frozen[key]), key


def one_step(loss: Callable[[], torch.Tensor], modules: list[torch.nn.Module | None]) -> float:
    """How much one small step down the gradient lowers a loss."""
    optimizer = torch.optim.SGD(parameter_groups(modules, 1e-4, 0.0))
    before = loss()
    optimizer.zero_grad()
    before.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
    assert norm > 0
    optimizer.step()
    with torch.no_grad():
        return float(before - loss())


# --- on the command line ------------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `ztcir train map` calls the training with, which is not run."""
    seen: dict[str, Any] = {}

    def fit_map(backbone: str, *given: Any, **options: Any) -> None:
        _, _, config, parts, _ = given
        seen.update(backbone=backbone, config=config, parts=parts, **options)

    monkeypatch.setattr("train.fit_map.fit_map", fit_map)
    monkeypatch.setattr("train.data.read_collection", lambda *_, **__: ([], []))
    return seen


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(train, ["map", "--data", "x.tar", *arguments])


def test_a_recipe_is_what_the_options_default_to(called: dict[str, Any]) -> None:
    result = invoke("--config", "vit-b-32-openai", "--lr", "0.25", "--no-vsi")
    assert result.exit_code == 0, result.output
    recipe = load_configuration("vit-b-32-openai")
    assert called["backbone"] == "ViT-B-32-quickgelu:openai"
    assert called["config"] == recipe.mapping(lr=0.25)
    assert called["parts"] == recipe.parts(vsi_layers=())


def test_without_a_recipe_the_defaults_are_the_options_own(called: dict[str, Any]) -> None:
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
        (None, "take fashion-lite, "),
        ("{", "no JSON"),
        ("[]", "it is no JSON object"),
        ('{"map": {"learning_rate": 1}}', "its map has the unknown entry 'learning_rate'"),
        ('{"stage": {}}', "it has the unknown entry 'stage'"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        load_configuration(str(path))


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    values = {"backbone": "ViT-B-16:openai", "model": {"vsi_layers": [1, 3]}}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert load_configuration(str(path)).parts().vsi_layers == (1, 3)
