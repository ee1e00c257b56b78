"""Exports: what the bundle records, and that an export that fails leaves nothing behind."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_cache import ExportCache, Spoil
from exported import GRAPH_NAMES, Exported, ztcir
from onnx import TensorProto, helper, numpy_helper
from places import ROOT
from tiny_training import VIT, tiny_model
from torch import Tensor, nn

from export.bundle import BundleSettings, export_bundle, image_tower_fingerprint
from export.graphs import graph_modules
from export.parity import ParityError, randomised
from export.variants import export_fp32
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.hub import CARD
from ztcir_sdk.names import METHODS

pytestmark = pytest.mark.usefixtures("export_cache")

TINY = BundleSettings("tiny")


def test_the_manifest_describes_the_model_and_its_graphs(vit: Exported) -> None:
    manifest, model = vit.bundle.manifest, vit.model
    sizes = manifest.dimensions
    assert (sizes.embed, sizes.patch, sizes.patches, sizes.text) == (24, 32, 16, 32)
    assert (sizes.vsi_layers, sizes.vsi) == (2, 16)
    assert manifest.placeholder.tokens == 1
    assert manifest.text.context_length == 77
    assert set(vit.bundle.manifest.methods) == set(METHODS)
    assert manifest.prompts["composed"] == "a photo of $ that {text}"
    assert manifest.prompts["mapped"] == "a photo of $"
    assert manifest.image_tower == image_tower_fingerprint(model)
    assert manifest.preprocessing.image_size == (32, 32)
    for graph in GRAPH_NAMES:
        check = vit.bundle.variant(graph).check
        assert check is not None
        differences = check["largest_difference"]
        assert differences.keys() == set(GRAPH_NAMES[graph][1])
        assert all(0 <= value <= 1e-4 for value in differences.values())


def test_every_check_is_reported(vit: Exported) -> None:
    lines = "\n".join(vit.lines)
    assert "encode_text" in lines
    for graph, (_, outputs) in GRAPH_NAMES.items():
        for output in outputs:
            assert f"{graph}: {output} within" in lines
            assert (f"random gates, {graph}: {output} within" in lines) == (
                graph != "image_encoder"
            )


def floats(proto: onnx.ModelProto) -> onnx.TensorProto:
    """Return the largest weight."""
    own = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    largest: onnx.TensorProto = max(own, key=lambda tensor: math.prod(tensor.dims))
    return largest


def nudged(proto: onnx.ModelProto) -> None:
    tensor = floats(proto)
    values = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).standard_normal(values.shape)  # no norm takes it out again
    values = (values + 0.05 * noise).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def poisoned(proto: onnx.ModelProto) -> None:
    tensor = floats(proto)
    values = np.full_like(numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def without(name: str) -> Spoil:
    """Ignore an input of the graph, as if it were zero."""

    def spoil(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            for place, used in enumerate(node.input):
                if used == name:
                    node.input[place] = "nothing"
        proto.graph.node.insert(0, helper.make_node("Sub", [name, name], ["nothing"]))

    return spoil


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Let temporary files be here; check that none is left."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "spoil", "graph"),
    [
        (0, nudged, "token_learner"),
        (1, nudged, "text_encoder"),
        (1, without("adapter_scale"), "text_encoder"),
        (1, without("vsi_values"), "text_encoder"),
        (1, without("pseudo_tokens"), "text_encoder"),
        (2, nudged, "image_encoder"),
        (3, nudged, "token_learner"),
        (4, nudged, "text_encoder"),
        (4, poisoned, "text_encoder"),
    ],
)
def test_a_graph_that_differs_from_pytorch_is_not_exported(
    vit: Exported, export_cache: ExportCache, wrong: int, spoil: Spoil, graph: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "bundle"
    with (
        scratch(tmp_path / "scratch"),
        export_cache.spoil(wrong, spoil),
        pytest.raises(
            ParityError, match=rf"of the {graph} graph differs from PyTorch by .* nothing"
        ),
    ):
        export_bundle(vit.model, folder, TINY)
    assert not folder.parent.exists() or list(folder.parent.iterdir()) == []


def test_an_operator_that_onnx_lacks_is_named(vit: Exported, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, pixel_values: Tensor) -> Tensor:
            result: Tensor = torch.special.bessel_j0(pixel_values)
            return result

    graph = dataclasses.replace(graph_modules(vit.model)[0], module=Odd(), outputs=("y",))
    with pytest.raises(ZtcirError, match=r"image_encoder graph cannot .*bessel.*another") as caught:
        export_fp32(vit.model, graph, tmp_path / "odd.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "odd.onnx").exists()


def test_a_graph_that_is_too_large_for_one_file_is_named(
    vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.variants.MAX_BYTES", 1000)
    with pytest.raises(ZtcirError, match=r"image_encoder has .* smaller"):
        export_bundle(vit.model, tmp_path / "b", TINY)
    assert not (tmp_path / "b").exists()


def test_a_failed_export_keeps_the_existing_bundle(
    vit: Exported, export_cache: ExportCache, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    before = export_bundle(vit.model, folder, TINY)
    with export_cache.spoil(4, nudged), pytest.raises(ParityError):
        export_bundle(vit.model, folder, BundleSettings("after"), overwrite=True)
    assert Bundle.load(folder).fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_text_encoder_that_differs_from_open_clip_is_not_exported(
    vit: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = vit.model.backbone.clip
    really = clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *args, **more: really(*args, **more) + 1e-4)
    with pytest.raises(ParityError, match=r"encode_text by 1\.0e-04, more than 1e-05; nothing was"):
        export_bundle(vit.model, tmp_path / "bundle", TINY)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_an_error_before_any_work(
    vit: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> float:
        raise AssertionError("work was begun")

    monkeypatch.setattr("export.bundle.check_frozen_text", work)
    with pytest.raises(UsageError, match="is already a bundle"):
        export_bundle(vit.model, vit.bundle.path, TINY)


def test_a_bundle_is_replaced_only_with_overwrite(small_convnet: Exported, tmp_path: Path) -> None:
    run, folder = small_convnet.bundle.path.parent / "run", tmp_path / "bundle"
    shutil.copytree(small_convnet.bundle.path, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = ztcir("export", run, "--to", folder, "--small")
    assert result.exit_code == 2
    assert "is already a bundle" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    result = ztcir("export", run, "--to", folder, "--small", "--overwrite", "--name", "b")
    assert result.exit_code == 0, (result.output, result.exception)
    assert Bundle.load(folder).name == "b"
    for name, content in before.items():
        if name not in {"bundle.json", CARD}:
            assert (folder / name).read_bytes() == content
    assert "\n# b\n" in (folder / CARD).read_text()


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_folder_without_checkpoint_is_an_error(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / "empty" / "config.json").write_text(content)
    result = ztcir("export", tmp_path / "empty", "--to", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "checkpoint" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bundle").exists()


# --- the randomised check ----------------------------------------------------------------------


def test_parts_are_randomised_and_restored() -> None:
    model = tiny_model(VIT, random=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not before["adapters.0.up.weight"].any()
    with randomised(model) as other:
        assert other is model
        for name, value in model.parts().items():
            moved = not value.equal(before[name])
            if name.endswith("bias") or ".up." in name or name == "vsi.gates":
                assert moved, name
                assert value.abs().max() > 0.01
    for name, value in model.state_dict().items():
        assert value.equal(before[name]), name


def test_randomised_parts_are_restored_after_a_failure() -> None:
    model = tiny_model(VIT, random=False)
    weight = model.get_parameter("adapters.0.up.weight")
    before = weight.clone()
    with pytest.raises(ParityError), randomised(model):
        raise ParityError
    assert weight.equal(before)


# --- fingerprints ------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_the_image_tower_alone() -> None:
    model = tiny_model(VIT)
    known = image_tower_fingerprint(model)
    assert image_tower_fingerprint(tiny_model(VIT)) == known
    with torch.no_grad():
        for parameter in (*model.token_learner.parameters(), *model.adapters.parameters()):
            parameter.add_(1)
        model.backbone.text.token_embedding.weight += 1
        assert image_tower_fingerprint(model) == known
        model.backbone.clip.visual.proj[0, 0] += 1e-3
    moved = image_tower_fingerprint(model)
    assert moved != known
    model.backbone.clip.visual.preprocess_cfg["mean"] = (0.1, 0.2, 0.3)
    assert image_tower_fingerprint(model) not in (known, moved)


# --- systems ------------------------------------------------------------------------------------

POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}


@pytest.mark.parametrize("package", ["train", "export", "benchmarks"])
def test_no_module_needs_posix_to_be_imported(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not POSIX_ONLY & {name.split(".")[0] for name in names}, path
