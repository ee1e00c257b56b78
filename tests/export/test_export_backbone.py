"""Any CLIP without training: a bundle that answers by image, by text, and by their sum."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import open_clip
import pytest
import torch
from exported import few_images, write_run, ztcir
from PIL import Image
from places import SUPPORT
from safetensors.torch import save_file
from tiny_training import CONVNET, PARTS, QUICK, VIT, tiny_model

from export.bundle import (
    BARE_METHODS,
    BundleSettings,
    export_bundle,
    image_tower_fingerprint,
)
from export.card import bare_card
from export.graphs import export_graph, graph_modules, sample_inputs
from export.parity import check_frozen_text, check_parity
from train.model import Backbone, BackboneConfig, UnsupportedBackboneError, create_backbone
from ztcir_sdk import Retriever
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.drawings.drawings import demo_gallery, draw
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.names import METHODS

pytestmark = pytest.mark.usefixtures("export_cache")

TEXTS = ("make it red", "a bag", "a much longer text with more words than the others have", "x")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the tiny CLIP."""
    path = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    state = tiny_model(VIT).backbone.clip.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def clip(weights: Path) -> Any:
    """The same CLIP, loaded by open_clip."""
    return open_clip.create_model(VIT, pretrained=str(weights)).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos") / "photos"
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(16)]
    for drawing, path in zip(demo_gallery(1), paths, strict=False):
        draw(drawing, (48, 64)).save(path)
    return paths


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The command line's report on its bundle."""
    folder = tmp_path_factory.mktemp("bare") / "b"
    result = ztcir(
        *("export", "--backbone", VIT, "--pretrained", weights, "--to", folder, "--json")
    )
    assert result.exit_code == 0, (result.output, result.exception)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture(scope="module")
def bundle(exported: Mapping[str, Any]) -> Bundle:
    return Bundle.load(exported["bundle"])


def test_a_bundle_is_made_without_a_checkpoint(exported: Mapping[str, Any], bundle: Bundle) -> None:
    assert exported["name"] == bundle.name == VIT
    assert exported["methods"] == ["image", "text", "sum"] == list(bundle.methods)
    assert exported["precisions"] == {"fp32": {"image_encoder": "fp32", "text_encoder": "fp32"}}
    assert set(bundle.manifest.graphs) == {"image_encoder", "text_encoder"}
    assert [spec.name for spec in bundle.variant("text_encoder").inputs] == ["input_ids"]
    assert [spec.name for spec in bundle.variant("image_encoder").outputs] == ["image_embeds"]
    card = bundle.manifest.model_card
    assert card["backbone"] == {
        "model": VIT,
        "pretrained": "open_clip_model.safetensors",  # without its folder
        "quick_gelu": False,
    }
    assert not any("random" in limit for limit in card["limits"])
    for graph in bundle.manifest.graphs:
        proto = onnx.load(str(bundle.file(bundle.variant(graph))))
        onnx.checker.check_model(proto, full_check=True)
        assert {own.domain for own in proto.opset_import} == {""}


def test_engines_are_built_of_the_requested_precisions(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'ztcir[trt-rtx]'")
    few_images(monkeypatch)
    engines = ("--trt", "--gpu", "sm_86", "--engines", tmp_path / "engines")
    backbone = ("--backbone", VIT, "--pretrained", weights)
    call = ("export", *backbone, "--to", tmp_path / "b", *engines, "--json")
    refused = ztcir(*call, "--precision", "int8")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert not (tmp_path / "b").exists()  # refused before any work
    result = ztcir(*call, "--precision", "fp16,int8")
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    assert list(report["precisions"]) == ["fp16", "int8"]
    built = [(one["graph"], one["precision"]) for one in report["engines"]]
    assert built == [("image_encoder", "fp16"), ("text_encoder", "fp16")]
    assert "int8 graphs run only on CPUs: no engines are built from them." in result.stderr


@torch.no_grad()
def test_embeddings_equal_open_clips(bundle: Bundle, clip: Any, photos: list[Path]) -> None:
    retriever = Retriever(bundle, device="cpu", threads=1)
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip)),
        is_train=False,
    )
    pixels = torch.stack([transform(Image.open(path)) for path in photos])
    images = clip.encode_image(pixels, normalize=True).numpy()
    words = clip.encode_text(open_clip.get_tokenizer(VIT)(list(TEXTS)), normalize=True).numpy()
    np.testing.assert_allclose(retriever.encode_images(photos), images, atol=1e-4)
    np.testing.assert_allclose(retriever.encode_texts(TEXTS), words, atol=1e-4)
    references = retriever.references(photos[:4])
    both = retriever.encode_queries(references, TEXTS, range(4), "sum", 0.3)
    expected = 0.7 * images[:4] + 0.3 * words
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(both, expected, atol=1e-4)


def test_it_searches_by_its_methods_and_refuses_others(
    bundle: Bundle, photos: list[Path], tmp_path: Path
) -> None:
    retriever = Retriever(bundle, device="cpu", threads=1)
    retriever.index(photos[0].parent, to=tmp_path / "photos.ztcir")
    images, words = retriever.encode_images(photos), retriever.encode_texts(["in blue"])
    for method in bundle.methods:
        hits = retriever.search(photos[3], "in blue", k=5, method=method)
        query = {"image": images[3], "text": words[0], "sum": images[3] + words[0]}[method]
        scores = images @ (query / np.linalg.norm(query))
        scores[3] = -2
        assert [hit.path for hit in hits] == [str(photos[i]) for i in np.argsort(-scores)[:5]]
    with pytest.raises(ZtcirError, match="cannot answer 'composed': choose from image, text, sum"):
        retriever.search(photos[3], "in blue")


def test_an_index_stays_valid_when_trained_parts_are_added(weights: Path, bundle: Bundle) -> None:
    model = tiny_model(VIT)
    assert image_tower_fingerprint(model) == bundle.manifest.image_tower
    other = create_backbone(BackboneConfig(VIT, None))
    assert image_tower_fingerprint(other) != bundle.manifest.image_tower


@pytest.mark.parametrize("name", [QUICK, CONVNET])
def test_other_towers_are_exported_too(name: str, tmp_path: Path) -> None:
    backbone = tiny_model(name).backbone
    assert check_frozen_text(backbone) <= 1e-5
    for graph in graph_modules(backbone):
        path = tmp_path / f"{graph.name}.onnx"
        inputs = sample_inputs(backbone, graph.name, references=3, texts=4, length=9, seed=0)
        export_graph(graph, inputs, path)
        assert all(result.difference <= 1e-4 for result in check_parity(backbone, graph, path))


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A CLIP whose text tower has no causal mask, so that every text is padded."""
    folder = tmp_path_factory.mktemp("configs")
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 8,
            "patch_size": 16,
        },
        "text_cfg": {**text, "no_causal_mask": True},
    }
    (folder / "tiny-padded.json").write_text(json.dumps({**config, "custom_text": True}))
    open_clip.add_model_config(folder)
    torch.manual_seed(4)
    backbone = create_backbone(BackboneConfig("tiny-padded"))
    assert not backbone.tower.causal
    return backbone


@torch.no_grad()
def test_texts_of_a_tower_that_is_not_causal_are_padded(padded: Backbone, tmp_path: Path) -> None:
    bundle = export_bundle(padded, tmp_path / "b", BundleSettings("padded"))
    layout = bundle.manifest.text
    assert (layout.causal, layout.context_length, layout.pad_to) == (False, 20, 20)
    [ids] = bundle.variant("text_encoder").inputs
    assert ids.shape[1] == 20
    retriever = Retriever(bundle, device="cpu", threads=1)
    tokens = open_clip.get_tokenizer("tiny-padded")(list(TEXTS))
    assert tokens.shape == (4, 20)
    expected = padded.clip.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(retriever.encode_texts(TEXTS), expected, atol=1e-5)
    one_by_one = [retriever.encode_texts([text])[0] for text in TEXTS]
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


def test_a_folder_with_the_backbones_name_does_not_hide_the_backbone(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default output of an earlier export is such a folder."""
    shutil.copytree(bundle.path, tmp_path / VIT)
    monkeypatch.chdir(tmp_path)
    assert create_backbone(BackboneConfig(VIT)).config == BackboneConfig(VIT)


# --- checkpoints of each stage --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        ("backbone", ("image", "text", "sum")),
        ("map", ("mapped", "stage1", "image", "text", "sum")),
        ("compose", ("composed", "mapped", "stage1", "image", "text", "sum")),
    ],
)
def test_a_bundle_answers_by_the_trained_methods(
    kind: str, methods: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", tiny_model(VIT, PARTS), kind)
    asked: dict[str, Any] = {}

    class CalledError(Exception):
        pass

    def export(model: Any, folder: Path, settings: BundleSettings, **options: Any) -> Bundle:
        asked.update(model=model, settings=settings)
        raise CalledError

    monkeypatch.setattr("export.bundle.export_bundle", export)
    result = ztcir("export", tmp_path / "run", "--to", tmp_path / "b", "--precision", "fp16,int8")
    assert isinstance(result.exception, CalledError), result.output
    bare = isinstance(asked["model"], Backbone)
    assert bare == (kind == "backbone")
    settings: BundleSettings = asked["settings"]
    assert tuple(settings.methods or (BARE_METHODS if bare else METHODS)) == methods
    assert settings.precisions == ("fp16", "int8")
    assert settings.acceptance.trained


# --- calls that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--backbone", VIT, "--pretrained", "no-such-tag"], 1, "'no-such-tag' of tiny-vit cannot"),
        (["--backbone", VIT, "--pretrained", "DAMAGED"], 1, "damaged.safetensors is not a weights"),
        (["--backbone", VIT, "--pretrained", "PICKLE"], 1, "odd.pt is not a weights file"),
        (["--backbone", QUICK, "--pretrained", "OTHER"], 1, "are of another model"),
        (["--backbone", "ViT-Z-99"], 1, "ViT-Z-99 is neither an open_clip model"),
        (["--backbone", VIT, "FOLDER"], 2, "not both"),
        (["--pretrained", "openai"], 2, "--pretrained names the weights of --backbone"),
        ([], 2, "name a checkpoint or --backbone"),
        (["--backbone", VIT, "--precision", "fp64"], 2, "There is no precision 'fp64'"),
        (["--backbone", VIT, "--precision", "fp16", "--triplets", "FILE"], 2, "need the gallery"),
        (["--backbone", VIT, "--gallery", "FOLDER"], 2, "fp16 and int8: add --precision fp16"),
        (
            *(["--backbone", VIT, "--precision", "fp16", "--calibration", "FOLDER"], 2),
            "--calibration is only used for int8: add --precision int8",
        ),
        (["--trt", "--gpu", "sm_86"], 2, "--output needs a checkpoint or --backbone to export"),
    ],
)
def test_wrong_calls_end_with_one_sentence(
    arguments: list[str], code: int, sentence: str, weights: Path, tmp_path: Path
) -> None:
    damaged, odd, other = (
        tmp_path / name for name in ("damaged.safetensors", "odd.pt", "o.safetensors")
    )
    damaged.write_bytes(weights.read_bytes()[:1000])
    odd.write_bytes(b"no weights at all")
    save_file({"some.weight": torch.zeros(3)}, other)
    (tmp_path / "triplets.jsonl").write_text("{}")
    (tmp_path / "folder").mkdir()
    places = {
        **{"DAMAGED": damaged, "PICKLE": odd, "OTHER": other},
        **{"FOLDER": tmp_path / "folder", "FILE": tmp_path / "triplets.jsonl"},
    }
    given = [str(places.get(argument, argument)) for argument in arguments]
    result = ztcir("export", *given, "--to", tmp_path / "b")
    assert result.exit_code == code, (result.output, result.exception)
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "b").exists()


def test_the_model_card_names_random_weights() -> None:
    card = bare_card(create_backbone(BackboneConfig(VIT, None)))
    assert card["backbone"]["pretrained"] is None
    assert any("weights are random" in limit for limit in card["limits"])


def test_a_configuration_in_train_configs_loads_weights_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = SUPPORT / "tiny_configs"
    monkeypatch.setattr("train.model_names.CONFIGS", configs)
    torch.manual_seed(8)
    original = create_backbone(BackboneConfig("fashion-lite"))
    path = tmp_path / "weights.safetensors"
    state = original.clip.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    torch.manual_seed(9)
    loaded = create_backbone(BackboneConfig("fashion-lite", str(path)))
    assert image_tower_fingerprint(loaded) == image_tower_fingerprint(original)
    assert loaded.config == BackboneConfig("fashion-lite", str(path))
    with pytest.raises(UnsupportedBackboneError, match=r"absent\.pt is not a weights file"):
        create_backbone(BackboneConfig("fashion-lite", str(tmp_path / "absent.pt")))
