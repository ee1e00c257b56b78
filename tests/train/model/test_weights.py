"""Weights of a CLIP in the layouts of other libraries and of training scripts."""

from __future__ import annotations

import argparse
import collections
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_training import QUICK, VIT, tiny_model
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from train.model import (
    Backbone,
    BackboneConfig,
    UnsupportedBackboneError,
    check_backbone,
    create_backbone,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def clip() -> Any:
    torch.manual_seed(3)
    return tiny_model(VIT).backbone.clip


@pytest.fixture(scope="module")
def theirs() -> CLIPModel:
    """A model of Transformers with the sizes of the tiny CLIP."""
    torch.manual_seed(4)
    shared = {"num_hidden_layers": 2, "hidden_act": "gelu", "hidden_size": 32}
    shared["intermediate_size"] = 128
    text = {**shared, "num_attention_heads": 4, "vocab_size": 49408}
    image = {**shared, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=24)
    model: CLIPModel = CLIPModel(config).eval()
    return model


@pytest.fixture(scope="module")
def folder(theirs: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transformers") / "model"
    theirs.save_pretrained(path)
    return path


def load(pretrained: object, model: str = VIT) -> Backbone:
    return create_backbone(BackboneConfig(model, str(pretrained)))


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def state_of(module: nn.Module) -> State:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def assert_same(found: Backbone, expected: Mapping[str, Tensor]) -> None:
    state = found.clip.state_dict()
    assert state.keys() == expected.keys()
    for name, weight in state.items():
        torch.testing.assert_close(weight, expected[name].float(), rtol=0, atol=0)


# --- Transformers -------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("form", ["folder", "file", "pytorch_model.bin", "half", "sharded"])
def test_a_model_of_transformers_gives_its_own_embeddings(
    form: str, theirs: CLIPModel, folder: Path, tmp_path: Path
) -> None:
    path = {"folder": folder, "file": folder / "model.safetensors"}.get(form, tmp_path)
    if form == "pytorch_model.bin":
        position_ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        saved({**theirs.state_dict(), **position_ids}, tmp_path / form)
    elif form == "half":
        save_file(
            {k: v.half() for k, v in theirs.state_dict().items()}, tmp_path / "model.safetensors"
        )
    elif form == "sharded":
        theirs.save_pretrained(tmp_path, max_shard_size="2MB")
        assert (tmp_path / "model.safetensors.index.json").is_file()
    found = load(path)
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.tensor([[49406, 320, 2368, 49407, 0], [49406, 320, 49407, 0, 0]])
    image = nn.functional.normalize(theirs.get_image_features(pixels).pooler_output, dim=-1)
    text = nn.functional.normalize(theirs.get_text_features(ids).pooler_output, dim=-1)
    padded = nn.functional.pad(ids, (0, 72))
    for ours, expected in (
        (found.clip.encode_image(pixels, normalize=True), image),
        (found.clip.encode_text(padded, normalize=True), text),
        (found.encode_image(pixels)[0], image),
    ):
        torch.testing.assert_close(ours, expected, atol=2e-3 if form == "half" else 1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_the_activation_is_the_one_that_config_json_names(
    activation: str, folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = activation
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert load(tmp_path).quick_gelu == (activation == "quick_gelu")


def test_weights_for_gelu_are_refused_by_a_model_with_quick_gelu(folder: Path) -> None:
    with pytest.raises(UnsupportedBackboneError, match="trained with GELU, and tiny-vit-quickgelu"):
        load(folder, QUICK)


# --- training scripts ---------------------------------------------------------------------------


class AttributeDict(dict[str, Any]):
    """Like the one that PyTorch Lightning keeps hyperparameters in."""


def wrapped(kind: str, state: State) -> Any:
    prefixes = {
        "ddp": "module.",
        "lightning": "model.",
        "deep": "model.clip.",
        "compiled": "_orig_mod.",
    }
    inner = {f"{prefixes.get(kind, '')}{name}": weight for name, weight in state.items()}
    options = argparse.Namespace(lr=1e-3, data=Path("photos"))
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    losses = {"loss.weight": torch.zeros(2)}
    return {
        "plain": state,
        "ordered": collections.OrderedDict(state),
        "open_clip": {"epoch": 3, "name": "run", "state_dict": inner, "optimizer": optimizer},
        "ddp": {"model": inner, "optimizer": optimizer, "args": options, "epoch": 3},
        "lightning": {
            "state_dict": {**inner, **losses},
            "hyper_parameters": AttributeDict(lr=1e-3, options=options),
            "pytorch-lightning_version": "2.4.0",
            "callbacks": {"best": collections.defaultdict(list, a=[1])},
        },
        "deep": {"state_dict": {**inner, **losses}, "hparams": options},
        "compiled": {"model_state_dict": inner, "rng": torch.get_rng_state()},
        "namespace": {"args": options, **state},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["plain", "ordered", "open_clip", "ddp", "lightning", "deep", "compiled", "namespace"],
)
def test_weights_are_found_in_a_checkpoint(kind: str, clip: Any, tmp_path: Path) -> None:
    found = load(saved(wrapped(kind, state_of(clip)), tmp_path / "last.ckpt"))
    assert_same(found, clip.state_dict())


def test_weights_of_transformers_are_found_in_a_checkpoint_of_lightning(
    theirs: CLIPModel, tmp_path: Path
) -> None:
    inner = {f"model.{name}": weight for name, weight in theirs.state_dict().items()}
    found = load(saved({"state_dict": inner}, tmp_path / "last.ckpt"))
    torch.testing.assert_close(
        found.clip.visual.proj, theirs.visual_projection.weight.T, rtol=0, atol=0
    )


ran: list[str] = []


class Evil:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("from test_weights import ran; ran.append('ran')",)


@pytest.mark.parametrize("also", [Evil(), argparse.Namespace(inner=Evil())])
def test_no_code_in_a_file_is_run(also: Any, clip: Any, tmp_path: Path) -> None:
    ran.clear()
    path = saved({"state_dict": state_of(clip), "also": also}, tmp_path / "last.ckpt")
    assert_same(load(path), clip.state_dict())
    assert not ran
    torch.load(path, weights_only=False)
    assert ran  # it would have


# --- what cannot be loaded ----------------------------------------------------------------------


def refused(path: Path, model: str = VIT) -> str:
    with pytest.raises(UnsupportedBackboneError) as error:
        load(path, model)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


def test_a_whole_module_is_refused_with_the_way_to_convert_it(clip: Any, tmp_path: Path) -> None:
    for content in (clip, {"model": clip, "epoch": 1}):
        sentence = refused(saved(content, tmp_path / "whole.pt"))
        assert "whole pickled module (open_clip.model.CLIP)" in sentence
        assert "weights_only=False).state_dict(), 'weights.pt')" in sentence


def test_a_torchscript_program_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    assert "torch.jit.load(" in refused(path)


def test_what_is_no_clip_says_what_it_is(clip: Any, theirs: CLIPModel, tmp_path: Path) -> None:
    state = state_of(clip)
    cases: dict[str, tuple[Any, str]] = {
        "several.pt": (
            {f"{p}.{k}": v for p in ("student", "other") for k, v in state.items()},
            "holds several models (other., student.)",
        ),
        "empty.pt": ({"epoch": 3}, "holds only epoch and no weights by name"),
        "list.pt": ([1, 2], "no mapping and no weights by name"),
        "lack.pt": ({k: v for k, v in state.items() if k != "logit_scale"}, "lack logit_scale"),
        "more.pt": ({**state, "head.weight": torch.zeros(2)}, "also hold head.weight"),
        "width.pt": (
            {**state, "positional_embedding": torch.zeros(77, 8)},
            "positional_embedding has the shape (77, 8), not (77, 32)",
        ),
        "tower.pt": (
            theirs.vision_model.state_dict(prefix="vision_model."),
            "only the vision tower",
        ),
        "siglip.pt": (
            {
                **theirs.state_dict(),
                "vision_model.head.probe": torch.zeros(1),
                "logit_bias": torch.zeros(1),
            },
            "weights of SigLIP in Transformers' layout",
        ),
        "lora.pt": ({**state, "a.lora_A.default.weight": torch.zeros(1)}, "merge_and_unload()"),
    }
    for name, (content, expected) in cases.items():
        assert expected in refused(saved(content, tmp_path / name)), name


def test_what_is_damaged_or_of_another_framework_is_said_to_be(clip: Any, tmp_path: Path) -> None:
    whole = saved(state_of(clip), tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:5000])
    (tmp_path / "text.pt").write_bytes(b"no weights")
    for name in ("cut.pt", "text.pt"):
        assert "is not a weights file, or is damaged" in refused(tmp_path / name)
    (tmp_path / "tf_model.h5").touch()
    assert "weights of TensorFlow; convert them to PyTorch" in refused(tmp_path / "tf_model.h5")
    (tmp_path / "empty").mkdir()
    assert "name the weights file itself" in refused(tmp_path / "empty")


# --- LoRA ---------------------------------------------------------------------------------------


def adapter(
    folder: Path,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    more: State | None = None,
    **config: Any,
) -> Path:
    """Write an adapter as peft does: module -> its A (r, in) and B (out, r)."""
    folder.mkdir()
    state = {f"base_model.model.{name}": weight for name, weight in (more or {}).items()}
    for module, (a, b) in factors.items():
        state[f"base_model.model.{module}.lora_A.weight"] = a
        state[f"base_model.model.{module}.lora_B.weight"] = b
    save_file(state, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def factors(out: int, into: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, into), torch.randn(out, 2)


@torch.inference_mode()
def test_an_adapter_of_a_transformers_model_is_merged(
    theirs: CLIPModel, folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    layer = "text_model.encoder.layers.1"
    given = {
        f"{layer}.self_attn.q_proj": factors(32, 32),
        f"{layer}.self_attn.v_proj": factors(32, 32),
        f"{layer}.self_attn.out_proj": factors(32, 32),
        f"{layer}.mlp.fc1": factors(128, 32),
        "vision_model.encoder.layers.0.self_attn.k_proj": factors(32, 32),
        "visual_projection": factors(24, 32),
    }
    bias = {f"{layer}.mlp.fc1.bias": torch.randn(128)}
    path = adapter(tmp_path / "lora", given, bias, base_model_name_or_path=str(folder))
    merged = state_of(theirs) | bias
    for module, (a, b) in given.items():
        merged[f"{module}.weight"] += 3.0 * b @ a
    expected = load(saved(merged, tmp_path / "merged.pt"))
    for pretrained in (path, path / "adapter_model.safetensors", f"{folder}+{path}"):
        found = load(pretrained)
        for name, weight in found.clip.state_dict().items():
            torch.testing.assert_close(weight, expected.clip.state_dict()[name], msg=name)
    changed = load(folder).clip.state_dict()["visual.proj"]
    assert not torch.allclose(changed, found.clip.visual.proj)


@torch.inference_mode()
def test_an_adapter_of_an_open_clip_model_is_merged(clip: Any, tmp_path: Path) -> None:
    torch.manual_seed(6)
    block = "visual.transformer.resblocks.0"
    given = {
        f"{block}.mlp.c_fc": factors(128, 32),
        "visual.conv1": (torch.randn(2, 3, 8, 8), torch.randn(32, 2, 1, 1)),
    }
    base = saved(state_of(clip), tmp_path / "base.pt")
    path = adapter(tmp_path / "lora", given, use_rslora=True, alpha_pattern={"mlp.c_fc": 4})
    expected = state_of(clip)
    for (module, (a, b)), alpha in zip(given.items(), (4, 6), strict=True):
        weight = expected[f"{module}.weight"]
        weight += (alpha / 2**0.5 * b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    found = load(f"{base}+{path}").clip.state_dict()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], msg=name)


def test_an_adapter_that_cannot_be_merged_says_what_to_do(clip: Any, tmp_path: Path) -> None:
    base = saved(state_of(clip), tmp_path / "base.pt")
    module = {"visual.transformer.resblocks.0.mlp.c_fc": factors(128, 32)}
    dora = adapter(tmp_path / "dora", module, use_dora=True)
    out = {"visual.transformer.resblocks.0.attn.base_layer.out_proj": factors(32, 32)}
    attention = adapter(tmp_path / "attention", out)
    foreign = adapter(tmp_path / "other", {"head": factors(2, 2)})
    cases = {
        f"{base}+{dora}": "is not a plain LoRA adapter of linear layers; merge it in Python",
        f"{base}+{attention}": "is not a plain LoRA adapter of linear layers; merge it in Python",
        str(adapter(tmp_path / "unknown", module)): "of a model that it does not name",
        str(
            adapter(tmp_path / "hub", module, base_model_name_or_path="a/b")
        ): "LoRA adapter of a/b",
        f"{base}+{foreign}": "belongs to another model",
    }
    for pretrained, expected in cases.items():
        with pytest.raises(UnsupportedBackboneError, match="LoRA") as error:
            load(pretrained)
        assert expected in str(error.value)


def test_the_weights_below_an_adapter_are_found_by_their_name_on_the_hub(tmp_path: Path) -> None:
    from train.model.weights import weights_source

    for hub, tag in (
        ("openai/clip-vit-base-patch32", "openai"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion2b_s34b_b79k"),
    ):
        path = adapter(tmp_path / tag, {}, {"x": torch.zeros(1)}, base_model_name_or_path=hub)
        assert tag in open_clip.list_pretrained_tags_by_model("ViT-B-32")
        assert weights_source("ViT-B-32", str(path)).base == tag


# --- before data are read -----------------------------------------------------------------------


def test_weights_that_can_be_loaded_pass_the_check(clip: Any, folder: Path, tmp_path: Path) -> None:
    save_file(dict(clip.state_dict()), tmp_path / "w.safetensors")
    named = (saved(clip.state_dict(), tmp_path / "w.pt"), folder, tmp_path / "w.safetensors")
    for path in named:
        check_backbone(f"{VIT}:{path}")
    check_backbone("ViT-B-32:openai")  # a tag is not downloaded


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_that_are_cut_short_are_named_before_data_are_read(
    clip: Any, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    if name.endswith("pt"):
        saved(clip.state_dict(), file)
    else:
        save_file(dict(clip.state_dict()), file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UnsupportedBackboneError, match=f"{name} is not a weights file, or is"):
        check_backbone(f"{VIT}:{file}")


def test_weights_that_are_nowhere_are_named_before_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackboneError, match=r"no weights 'nothing.pt' of tiny-vit"):
        check_backbone(f"{VIT}:nothing.pt")
    with pytest.raises(UnsupportedBackboneError, match=r"one of open_clip's tags: openai, "):
        check_backbone("ViT-B-32:opanai")
    with pytest.raises(UnsupportedBackboneError, match="holds none of"):
        check_backbone(f"{VIT}:{tmp_path}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.bin"}}')
    with pytest.raises(UnsupportedBackboneError, match=r"gone\.bin .* No such file"):
        check_backbone(f"{VIT}:{tmp_path}")
    with pytest.raises(UnsupportedBackboneError, match="of TensorFlow; convert"):
        check_backbone(f"{VIT}:{saved({}, tmp_path / 'w.h5')}")


def test_a_download_that_fails_is_said_once_and_without_a_list_of_other_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils").warning("Retrying")
        logging.error("Failed to download weights")
        raise OSError("no route to the hub")

    # Libraries and other tests set these; what is said is seen here whatever they left.
    hub, root = logging.getLogger("huggingface_hub"), logging.getLogger()
    monkeypatch.setattr(hub, "propagate", True)
    monkeypatch.setattr(hub, "level", logging.WARNING)
    monkeypatch.setattr(logging.getLogger("huggingface_hub.utils"), "level", logging.NOTSET)
    caplog.set_level(logging.WARNING)
    level = root.level
    monkeypatch.setattr("open_clip.create_model", fail)
    with pytest.raises(UnsupportedBackboneError, match="no route to the hub") as error:
        create_backbone(BackboneConfig("ViT-B-32", "openai"))
    assert str(error.value).endswith(
        "check the connection, or name a file of the weights: ViT-B-32:FILE."
    )
    assert "laion400m" not in str(error.value)
    assert not caplog.records  # the root logger would print them a second time
    assert (hub.propagate, root.level) == (True, level)
